"""The champion of a model: finding and loading it, scoring with it, reporting on it.

Nothing here starts Spark. Models come from MLflow, stored with skops and loaded with exactly the types that the model's module
trusts: MLflow's own loader takes that list from the stored model itself, so it is not used.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lakehouse.errors import ModelError, first_line
from lakehouse.features import METRICS, Features, Model, columns_of, open_features

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from lakehouse.storage import Location

CHAMPION: Final = "champion"
BASELINE_TAG = "baseline_model"
REPORT_VERSION_TAG = "report_delta_version"


class Champion(NamedTuple):
    """The model in service: its fitted pipeline, its version in the registry, the run that made it."""

    pipeline: Any
    version: int
    run_id: str


@dataclass(frozen=True)
class ReportResult:
    """The champion and its baseline on the report split. ``logged`` is false where the run already held this result."""

    model_name: str
    model_version: int
    run_id: str
    delta_version: int
    rows: int
    unlabelled: int
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    logged: bool


@contextmanager
def tracking(uri: str) -> Iterator[Any]:
    """An MlflowClient for ``uri``, which also becomes the process's tracking server, as logging a model needs it.

    Creates and migrates an SQLite database that is not there yet (two seconds). Nothing is printed: MLflow's messages go to
    the root logger's handlers.

    Raises:
        ModelError: the database, the server or the artifact store cannot be used.
    """
    # Read when MLflow is first imported: no telemetry, no handlers of its own, no bars, no minutes of retries.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    # Read when scikit-learn is first imported: threads that wait give their core away. Spinning, as is the default, made a
    # training on two busy cores take 285 s instead of 27 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _check_sqlite(uri)
        with warnings.catch_warnings():
            # MLflow's own use of what its dependencies deprecate: nothing that a reader could mend.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mlflow\.")
            mlflow.set_tracking_uri(uri)
            yield mlflow.MlflowClient(tracking_uri=uri)
    except (mlflow.MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise ModelError(
            f"MLflow at {without_password(uri)} cannot be used: {first_line(error)} Check that the place is there, can be written to, and "
            "was made by this or an older version of MLflow (then `mlflow db upgrade` brings it up to date); a database "
            "that is damaged must be moved away or restored."
        ) from error


def without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)


def find_champion(client: Any, name: str) -> Any | None:
    """The champion's entry in the registry; None where the model has none."""
    from mlflow import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            return None
        raise


def load_pipeline(client: Any, model_uri: str, trusted: Sequence[str]) -> Any:
    """The stored pipeline, by skops, with exactly the trusted types.

    Raises:
        ModelError: it holds other types, is not a skops file, or is gone.
    """
    import mlflow
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    with tempfile.TemporaryDirectory() as folder:
        try:
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=model_uri, dst_path=folder, tracking_uri=client.tracking_uri
            )
            return skops.io.load(Path(found) / "model.skops", trusted=list(trusted))
        except UntrustedTypesFoundException as error:
            raise ModelError(
                f"{model_uri} is refused: {error} Train again, or, if you know where it comes from and have read what these "
                "types do, add them to the model's TRUSTED_TYPES."
            ) from error
        except Exception as error:  # whatever a file that is gone, cut short or forged makes of the readers
            raise ModelError(f"{model_uri} cannot be loaded ({type(error).__name__}: {error}). Train again.") from error


def load_champion(model_module: Model, *, tracking_uri: str) -> Champion:
    """The champion of ``model_module``, a (pipeline, version, run id).

    Raises:
        ModelError: there is none, it cannot be loaded with the model's TRUSTED_TYPES, or MLflow cannot be used.
    """
    none = ModelError(
        f"{model_module.NAME} has no champion at {without_password(tracking_uri)}: run `lakehouse train` first."
    )
    database = _sqlite_file(tracking_uri)
    if database and not database.exists():
        raise none
    with tracking(tracking_uri) as client:
        found = find_champion(client, model_module.NAME)
        if found is None:
            raise none
        pipeline = load_pipeline(client, f"models:/{found.name}/{found.version}", model_module.TRUSTED_TYPES)
    return Champion(pipeline, int(found.version), found.run_id)


def reads(pipeline: Any) -> tuple[str, ...]:
    """The columns that a fitted pipeline was given: an older champion's may differ from the module's of today."""
    return tuple(str(name) for name in getattr(pipeline, "feature_names_in_", ()))


def score_frame(
    model_module: Model,
    *,
    lake: Location,
    tracking_uri: str,
    since: str | date,
    until: str | date,
    version: int | None = None,
    champion: Champion | None = None,
) -> pa.Table:
    """The champion's probability for every row from ``since`` to ``until`` (both included), labelled or not.

    One row per key, in the order of the keys: the key, the time column, model_name, model_version (int32), probability
    (double) and feature_version (int64), the version of the feature table that was read: ``version``, by default the
    latest. A span without rows gives an empty table. ``champion`` saves loading one that the caller already has.

    Raises:
        ModelError: the table, the version, a column or the champion is missing, or the champion does not fit the table.
    """
    import pyarrow as pa

    features = open_features(model_module, lake, version)
    champion = champion or load_champion(model_module, tracking_uri=tracking_uri)
    also = features.present(reads(champion.pipeline))
    rows = features.read((str(since), str(until)), [*columns_of(model_module), *also])
    size = rows.num_rows
    probability: Any = _predict(model_module, champion, features, features.frame(rows)) if size else []
    scores = rows.select(list(dict.fromkeys((*model_module.KEY, model_module.TIME))))
    for name, values in {
        "model_name": pa.array([model_module.NAME] * size, pa.string()),
        "model_version": pa.array([champion.version] * size, pa.int32()),
        "probability": pa.array(probability, pa.float64()),
        "feature_version": pa.array([features.version] * size, pa.int64()),
    }.items():
        scores = scores.append_column(name, values)
    return scores


def realised(
    model_module: Model, *, lake: Location, since: str | date, until: str | date, version: int | None = None
) -> pa.Table:
    """How the scores in the model's predictions table did, from ``since`` to ``until`` (both included), by the labels in the
    feature table at ``version`` (by default the latest).

    One row per day and model version: the time column, model_name, model_version (int32), scored and labelled (int64, rows),
    label_rate and mean_probability (double, of the labelled rows; null where there are none), roc_auc, average_precision and
    brier (double, null where not both labels occur), feature_version (int64).

    Raises:
        ModelError: a table, the version or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    from lakehouse.log import open_log

    model, time, label = model_module, model_module.TIME, model_module.LABEL
    kinds = {time: pa.date32(), "model_name": pa.string(), "model_version": pa.int32()}
    kinds |= dict.fromkeys(("scored", "labelled"), pa.int64())
    kinds |= dict.fromkeys(("label_rate", "mean_probability", *METRICS), pa.float64())
    schema = pa.schema(kinds | {"feature_version": pa.int64()})
    features = open_features(model, lake, version)
    predictions = open_log(lake.joinpath(*model.PREDICTIONS.split(".")))
    if predictions is None:
        return schema.empty_table()
    first, last = (pa.scalar(date.fromisoformat(str(day))) for day in (since, until))
    wanted = (ds.field(time) >= first) & (ds.field(time) <= last) & (ds.field("model_name") == model.NAME)
    named = [*dict.fromkeys((*model.KEY, time)), "model_version", "probability"]
    scores = predictions.delta.to_pyarrow_dataset().to_table(columns=named, filter=wanted).to_pandas()
    labels = features.read((str(since), str(until)), [label]).to_pandas()
    frame = scores.merge(labels[[*model.KEY, label]], on=list(model.KEY), how="left", validate="many_to_one")
    rows = []
    for (day, of), scored in frame.groupby([time, "model_version"], sort=True):
        known = scored[scored[label].notna()]
        row = {time: day, "model_name": model.NAME, "model_version": of, "scored": len(scored), "labelled": len(known)}
        if len(known):
            positive, probability = known[label].to_numpy(dtype=bool), known["probability"].to_numpy()
            row |= {"label_rate": positive.mean(), "mean_probability": probability.mean()}
            row |= model.evaluate(positive, probability) if 0 < positive.sum() < len(positive) else {}
        rows.append(row | {"feature_version": features.version})
    return pa.Table.from_pylist(rows, schema)


def report(model_module: Model, *, lake: Location, tracking_uri: str, version: int | None = None) -> ReportResult:
    """The champion and its baseline on the report split, from the feature table at ``version`` (by default the latest).

    The result is kept with the champion's run, as metrics `report_*` and `report_baseline_*`, a calibration plot and the
    table's version; a result that the run already holds is not logged again.

    Raises:
        ModelError: the table, the version, a column, the split's labels, the champion or its baseline is missing, or MLflow
            cannot be used.
    """
    from lakehouse import plots

    features = open_features(model_module, lake, version)
    champion = load_champion(model_module, tracking_uri=tracking_uri)
    with tracking(tracking_uri) as client:
        run = client.get_run(champion.run_id)
        if BASELINE_TAG not in run.data.tags:
            raise ModelError(
                f"{model_module.NAME} version {champion.version} was not made by `lakehouse train`: its run "
                f"{champion.run_id} names no baseline. Train again."
            )
        baseline = load_pipeline(client, run.data.tags[BASELINE_TAG], model_module.TRUSTED_TYPES)
        also = features.present(dict.fromkeys((*reads(champion.pipeline), *reads(baseline))))
        held = features.labelled("report", also)
        probability = _predict(model_module, champion, features, held.frame)
        base = _predict(model_module, champion._replace(pipeline=baseline), features, held.frame)
        metrics = model_module.evaluate(held.label, probability)
        base_metrics = model_module.evaluate(held.label, base)
        values = {f"report_{name}": value for name, value in metrics.items()}
        values |= {f"report_baseline_{name}": value for name, value in base_metrics.items()}
        known = run.data.metrics
        changed = not all(k in known and math.isclose(known[k], v, rel_tol=1e-9) for k, v in values.items())
        if changed:
            days = f"{held.span[0]} to {held.span[1]}"
            title = f"{model_module.NAME} version {champion.version}, report split: {days}, {held.rows:,} rows"
            curves = {
                f"model (Brier {metrics['brier']:.4f})": probability,
                f"baseline (Brier {base_metrics['brier']:.4f})": base,
            }
            client.log_figure(run.info.run_id, plots.calibration(held.label, curves, title), "report_calibration.png")
            client.set_tag(run.info.run_id, REPORT_VERSION_TAG, str(features.version))
            for name, value in (values | {"report_rows": held.rows}).items():
                client.log_metric(run.info.run_id, name, value)
    return ReportResult(
        model_name=model_module.NAME,
        model_version=champion.version,
        run_id=champion.run_id,
        delta_version=features.version,
        rows=held.rows,
        unlabelled=held.unlabelled,
        metrics=metrics,
        baseline=base_metrics,
        logged=changed,
    )


def _predict(model: Model, champion: Champion, features: Features, frame: pd.DataFrame) -> np.ndarray:
    gone = [name for name in reads(champion.pipeline) if name not in frame]
    if gone:
        raise ModelError(
            f"{model.NAME} version {champion.version} was trained on columns that {features} does not have: "
            f"{', '.join(gone)}. Run `lakehouse train`, or name the feature version it was trained on."
        )
    return model.predict(champion.pipeline, frame)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _check_sqlite(uri: str) -> None:
    """Fail at once where MLflow would retry for a minute."""
    database = _sqlite_file(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
