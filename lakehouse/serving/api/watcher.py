"""Models in service: the registry's champion, and the challenger for its share of the requests."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from lakehouse.errors import ModelError
from lakehouse.ml.dataset import check_columns, is_number
from lakehouse.ml.mlflow_client import (
    CHALLENGER,
    CHAMPION,
    LoadedModel,
    find_alias,
    get_sqlite_file,
    load_version,
    open_tracking_client,
)
from lakehouse.ml.scoring import load_by_alias
from lakehouse.ml.task import Model, Task
from lakehouse.serving.api import metrics
from lakehouse.serving.api.batching import Batcher
from lakehouse.serving.api.lookups import Lookups
from lakehouse.serving.api.schema import PredictionRequest, Row, build_request_type

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class ServedModel:
    """Version of the model in service.

    Attributes:
        columns: The input columns with their types in the model's frames.
        categories: The values of text columns that the version was trained on.
    """

    loaded: LoadedModel
    alias: str
    columns: pa.Schema
    categories: Mapping[str, frozenset[str]]
    predict: Batcher
    since: datetime

    def make_row(self, values: Mapping[str, Any]) -> Row:
        """Return a row of features in the order of the model's columns."""
        return tuple(map(values.get, self.columns.names))

    def find_unknown_columns(self, row: Row) -> list[str]:
        """Return the columns in which the row's value is not a category of the training data."""
        values = dict(zip(self.columns.names, row, strict=True))
        return [
            name
            for name, categories in self.categories.items()
            if values[name] is not None and values[name] not in categories
        ]


@dataclass(frozen=True)
class ServingState:
    """Models and schema that answer a request from start to end.

    Attributes:
        column_types: The feature table's columns.
        request_type: The schema of requests, built from ``column_types``.
    """

    champion: ServedModel
    challenger: ServedModel | None
    column_types: Mapping[str, str]
    request_type: TypeAdapter[PredictionRequest]


class ModelWatcher:
    """Watcher of the registry that updates `state`. If the registry or a version fails, `state` stays the same.

    Raises:
        ModelError: There is no champion, it cannot be loaded, or MLflow cannot be used.
    """

    def __init__(
        self, task: Task, models: Mapping[str, Model], lookups: Lookups, tracking_uri: str, canary: float
    ) -> None:
        self.task, self.canary = task, canary
        self._models, self._lookups, self._uri = models, lookups, tracking_uri
        self._executor = ThreadPoolExecutor(1, "predict")
        self._closing = threading.Event()
        champion = self._prepare(load_by_alias(task, models, tracking_uri=tracking_uri), CHAMPION)
        self.state = self._make_state(champion, None)
        self.refresh()

    def route(self, request_id: str) -> tuple[ServingState, ServedModel]:
        """Return the state and the version for this request. The same id always gets the same version."""
        state = self.state
        share = zlib.crc32(request_id.encode()) / 2**32
        return state, state.challenger if state.challenger and share < self.canary else state.champion

    def watch(self, seconds: float) -> None:
        """Check the registry at this interval until `close`."""

        def run() -> None:
            while not self._closing.wait(seconds):
                try:
                    self.refresh()
                except Exception:  # the next check may succeed
                    logger.exception("%s: check of the registry failed; the versions in service stay", self.task.name)

        self._thread = threading.Thread(target=run, name="registry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. A check that waits for MLflow is abandoned after CLOSE_SECONDS."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def refresh(self) -> None:
        """Load the versions that have the aliases now. The current versions answer until then."""
        state = self.state
        champion = self._refresh_alias(CHAMPION, state.champion) or state.champion
        challenger = self._refresh_alias(CHALLENGER, state.challenger) if self.canary else None
        is_same = champion is state.champion and challenger is state.challenger
        if not is_same or self._lookups.features.log.read_columns() != state.column_types:
            self.state = self._make_state(champion, challenger)

    def _refresh_alias(self, alias: str, current: ServedModel | None) -> ServedModel | None:
        """Return the version that has the alias now; the current one if the registry or the version fails."""
        try:
            database = get_sqlite_file(self._uri)
            if database and not database.exists():  # MLflow would create a new file
                raise ModelError(f"{database}: the file does not exist.")
            with open_tracking_client(self._uri) as client:
                entry = find_alias(client, self.task.name, alias)
                if entry is None:
                    if alias == CHAMPION:
                        raise ModelError(f"{self.task.name} has no champion.")
                    return None
                # The run is compared, too: in a rebuilt registry the same number is another model.
                if current and (current.loaded.version, current.loaded.run_id) == (int(entry.version), entry.run_id):
                    return current
                model = self._prepare(load_version(client, entry, self._models), alias)
        except Exception as error:  # a new version may fail in any way; the current one stays
            metrics.REFRESH_FAILURES.labels(alias).inc()
            effect = f"version {current.loaded.version} stays in service" if current else "it gets no requests"
            logger.warning("%s %s: not loaded, %s: %s", self.task.name, alias, effect, error)
            return current
        metrics.SWAPS.labels(alias).inc()
        logger.info("%s version %s is in service as %s", self.task.name, model.loaded.version, alias)
        return model

    def _prepare(self, loaded: LoadedModel, alias: str) -> ServedModel:
        """Check the version against the feature table and warm it up.

        Raises:
            ModelError: The version does not fit the table, or cannot predict.
        """
        import pyarrow as pa

        features, names = self._lookups.features, loaded.get_input_columns()
        check_columns(loaded.version, names, features)
        build_request_type(self.task, features.log.read_columns(), names)
        fields = [features.dataset.schema.field(name) for name in names]
        columns = pa.schema([(field.name, pa.float64() if is_number(field.type) else field.type) for field in fields])

        def predict(rows: Sequence[Row]) -> Sequence[float]:
            probability = loaded.predict(_to_frame(columns, rows))
            if len(probability) != len(rows) or not ((probability >= 0) & (probability <= 1)).all():
                raise ValueError(f"version {loaded.version}: the output is not one probability per row")
            return probability.tolist()  # type: ignore[no-any-return]

        typical = tuple(map(loaded.typical.get, names))
        try:
            self._executor.submit(predict, [typical]).result()
        except Exception as error:
            raise ModelError(
                f"{self.task.name} version {loaded.version} cannot predict ({type(error).__name__}: {error}). "
                "Train again."
            ) from error
        categories = self._lookups.list_categories(names)
        return ServedModel(loaded, alias, columns, categories, Batcher(predict, self._executor), datetime.now(UTC))

    def _make_state(self, champion: ServedModel, challenger: ServedModel | None) -> ServingState:
        input_columns = {*champion.columns.names, *(challenger.columns.names if challenger else ())}
        column_types = self._lookups.features.log.read_columns()
        request_type = build_request_type(self.task, column_types, input_columns)
        metrics.MODEL_VERSION.labels(CHAMPION).set(champion.loaded.version)
        metrics.MODEL_VERSION.labels(CHALLENGER).set(challenger.loaded.version if challenger else 0)
        return ServingState(champion, challenger, column_types, request_type)


def _to_frame(columns: pa.Schema, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows in the form of `lakehouse.ml.dataset.FeatureTable.read_frame`."""
    import numpy as np
    import pyarrow as pa

    arrays = []
    for values, field in zip(zip(*rows, strict=True), columns, strict=True):
        if field.type == pa.float64():
            arrays.append(pa.array(np.array(values, dtype=float), from_pandas=True))
        else:
            arrays.append(pa.array(values, field.type))
    frame: pd.DataFrame = pa.Table.from_arrays(arrays, schema=columns).to_pandas(use_threads=False)
    return frame
