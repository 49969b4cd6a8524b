"""Feature tables read with Spark, and registered models that score on its workers.

The workers have the project's code but neither MLflow nor its credentials. So the driver fetches a version's files and
checks them. The files travel with the tasks as bytes, and each worker process unpacks and loads them once.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lakehouse.engine import get_running_engine
from lakehouse.errors import ModelError
from lakehouse.ml.dataset import FeatureTable, LabelledRows, as_frame, check_columns
from lakehouse.ml.mlflow_client import compute_digest, fetch_version, load_files
from lakehouse.ml.task import Model, Span, Task

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from lakehouse.engine.base import Tables

PROBABILITY = "probability"


@dataclass(frozen=True)
class ModelBundle:
    """A version of a model as the bytes of its files.

    Attributes:
        module: the module that loads the files.
        sha256: the digest of all files.
        alias: the alias by which the version was found.
        input_columns: the columns that the model reads.
        files: the content by name.
    """

    module: str
    sha256: str
    version: int = field(compare=False)
    alias: str = field(compare=False)
    input_columns: tuple[str, ...] = field(compare=False)
    files: Mapping[str, bytes] = field(compare=False, repr=False)


class UnpackedModel(NamedTuple):
    model: Model
    fitted: Any


def broadcast_model(client: Any, entry: Any, models: Mapping[str, Model], alias: str) -> ModelBundle:
    """Bundle a registered version after a trial load of its files; see `lakehouse.ml.mlflow_client.load_version`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, model = fetch_version(client, entry, models, Path(temporary))
        fitted = load_files(model, folder, f"{entry.name} version {entry.version}")
        return ModelBundle(
            module=model.__name__,
            sha256=compute_digest(folder),
            version=int(entry.version),
            alias=alias,
            input_columns=model.get_input_columns(fitted),
            files={
                file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
            },
        )


def score_features(tables: Tables, features: FeatureTable, since: str, until: str, model: ModelBundle) -> DataFrame:
    """Compute a model's probability for every row from ``since`` to ``until`` (both included), labelled or not.

    Returns:
        One row per key: the key, the time column, model_name, model_version (int), probability (double),
        feature_version (bigint, the version of the feature table that was read) and alias (by which the model was
        found).

    Raises:
        ModelError: the table lacks a column that the model reads.
    """
    from pyspark.sql import functions as F

    task = features.task
    check_columns(model.version, model.input_columns, features)
    names = list(dict.fromkeys((*task.key, task.time_column)))
    rows = apply_model(read_features(tables, features, (since, until), [*names, *model.input_columns]), model, names)
    return rows.select(
        *names,
        F.lit(task.name).alias("model_name"),
        F.lit(model.version).cast("int").alias("model_version"),
        "probability",
        F.lit(features.version).cast("bigint").alias("feature_version"),
        F.lit(model.alias).alias("alias"),
    )


def read_features(tables: Tables, features: FeatureTable, span: Span, columns: Iterable[str]) -> DataFrame:
    """Read the key and these columns of the rows in ``span`` (both days included) with Spark, in no order."""
    from pyspark.sql import functions as F

    first, last = (F.lit(day).cast("date") for day in span)
    rows = tables.read(features.log.path, features.version)
    in_span = rows.where(F.col(features.task.time_column).between(first, last))
    return in_span.select(*dict.fromkeys((*features.task.key, *columns)))


def read_labelled(rows: LabelledRows) -> DataFrame:
    """Read labelled rows with the process's Spark session: their columns and their label, in no order."""
    label = rows.features.task.label_column
    return read_features(get_running_engine().open_tables(), rows.features, rows.span, (*rows.columns, label)).dropna(
        subset=[label]
    )


def apply_model(rows: DataFrame, bundle: ModelBundle, kept_columns: Sequence[str]) -> DataFrame:
    """Compute the label's ``probability`` (double) by the model, beside the columns ``kept_columns``.

    Args:
        rows: have the key, the time and what the model reads.
    """
    from pyspark.sql.types import DoubleType

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return _predict_batches(bundle, kept_columns, batches)

    schema = rows.select(*kept_columns).schema.add(PROBABILITY, DoubleType())
    return rows.mapInArrow(predict, schema)


@contextmanager
def explain_worker_errors(task: Task, model: ModelBundle) -> Iterator[None]:
    """Convert an error in a worker's Python to a ModelError with the last line of the worker's traceback.

    Raises:
        ModelError: the model failed on a worker.
    """
    from pyspark.errors import PythonException

    try:
        yield
    except PythonException as error:
        traceback, _, _ = str(error).partition("\n\nJVM stacktrace:")
        raise ModelError(
            f"{task.name} version {model.version} cannot score on Spark's workers: "
            f"{traceback.strip().splitlines()[-1]}. "
            f"Install the project's packages and the imports of {model.module} on the workers, as on the driver."
        ) from error


def _predict_batches(
    bundle: ModelBundle, kept_columns: Sequence[str], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    model, fitted = _unpack(bundle)
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        probability: Any = model.predict(fitted, as_frame(rows)) if batch.num_rows else []
        scores = rows.select(list(kept_columns)).append_column(PROBABILITY, pa.array(probability, pa.float64()))
        yield from scores.to_batches()


@lru_cache(maxsize=1)
def _unpack(bundle: ModelBundle) -> UnpackedModel:
    """Unpack and load a bundle in this process by the project's own module."""
    model: Any = importlib.import_module(bundle.module)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in bundle.files.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return UnpackedModel(model, model.load(Path(folder)))
