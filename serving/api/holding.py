"""The versions in service: the champion, and the challenger for its share of the requests, as the registry has them now."""

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
    load_version,
    sqlite_file,
    tracking_client,
)
from lakehouse.ml.scoring import load_by_alias
from lakehouse.ml.task import Model, Task
from serving.api import metrics
from serving.api.batching import Batcher
from serving.api.lookups import Lookups
from serving.api.schema import Request, Row, build_request_type

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class ServedModel:
    """A version in service: its columns with their types as models see them, and the categories that it was trained on."""

    loaded: LoadedModel
    alias: str
    columns: pa.Schema
    categories: Mapping[str, frozenset[str]]
    predict: Batcher
    since: datetime

    def make_row(self, sent: Mapping[str, Any]) -> Row:
        """A row by features as the model takes it."""
        return tuple(map(sent.get, self.columns.names))

    def unknown_columns(self, row: Row) -> list[str]:
        """The columns of a row whose text is none of the categories."""
        texts = dict(zip(self.columns.names, row, strict=True))
        return [n for n, known in self.categories.items() if texts[n] is not None and texts[n] not in known]


@dataclass(frozen=True)
class ServingState:
    """What answers a request, from its first byte to its last.

    ``asks`` is the type that a request must have, made from the columns of the ``table``.
    """

    champion: ServedModel
    challenger: ServedModel | None
    column_types: Mapping[str, str]
    request_type: TypeAdapter[Request]


class ModelWatcher:
    """Keeps `now` in step with the registry. What cannot be had from there leaves `now` as it is.

    Raises:
        ModelError: there is no champion, it cannot be loaded, or MLflow cannot be used.
    """

    def __init__(
        self, task: Task, models: Mapping[str, Model], lookups: Lookups, tracking_uri: str, canary: float
    ) -> None:
        self.task, self.canary = task, canary
        self._models, self._lookups, self._uri = models, lookups, tracking_uri
        self._executor = ThreadPoolExecutor(1, "predict")
        self._ended = threading.Event()
        champion = self._prepare(load_by_alias(task, models, tracking_uri=tracking_uri), CHAMPION)
        self.state = self._make_state(champion, None)
        self.refresh()

    def route(self, request_id: str) -> tuple[ServingState, ServedModel]:
        """What is in service, and the version that answers this request: the same one when it is sent again."""
        now = self.state
        share = zlib.crc32(request_id.encode()) / 2**32
        return now, now.challenger if now.challenger and share < self.canary else now.champion

    def watch(self, seconds: float) -> None:
        """Look at the registry every so many seconds, until `close`."""

        def watching() -> None:
            while not self._ended.wait(seconds):
                try:
                    self.refresh()
                except Exception:  # whatever it was, the next look may go well
                    logger.exception("the versions in service stay as they are")

        self._watching = threading.Thread(target=watching, name="registry", daemon=True)
        self._watching.start()

    def close(self) -> None:
        """End the watch; a look that MLflow keeps waiting is left behind."""
        self._ended.set()
        self._watching.join(CLOSE_SECONDS)

    def refresh(self) -> None:
        """Load what has come to have an alias; the versions in service answer until that is done."""
        now = self.state
        champion = self._refresh_alias(CHAMPION, now.champion) or now.champion
        challenger = self._refresh_alias(CHALLENGER, now.challenger) if self.canary else None
        same = champion is now.champion and challenger is now.challenger
        if not same or self._lookups.features.log.columns() != now.column_types:
            self.state = self._make_state(champion, challenger)

    def _refresh_alias(self, alias: str, current: ServedModel | None) -> ServedModel | None:
        """The version that has the alias now: the one held where it is the same, or where it cannot be said or had."""
        try:
            database = sqlite_file(self._uri)
            if database and not database.exists():  # MLflow would make a new one
                raise ModelError(f"{database} is gone.")
            with tracking_client(self._uri) as client:
                entry = find_alias(client, self.task.name, alias)
                if entry is None:
                    if alias == CHAMPION:
                        raise ModelError(f"{self.task.name} has no champion any more.")
                    return None
                # By its run as well: where a registry was made anew, the same number is another model.
                if current and (current.loaded.version, current.loaded.run_id) == (int(entry.version), entry.run_id):
                    return current
                found = self._prepare(load_version(client, entry, self._models), alias)
        except Exception as error:  # a version may be broken in any way: the one in service is not
            metrics.REFRESH_FAILURES.labels(alias).inc()
            serves = f"version {current.loaded.version} serves on" if current else "it gets no requests"
            logger.warning("the %s of %s is not loaded, %s: %s", alias, self.task.name, serves, error)
            return current
        metrics.SWAPS.labels(alias).inc()
        logger.info("%s version %s is in service as %s", self.task.name, found.loaded.version, alias)
        return found

    def _prepare(self, loaded: LoadedModel, alias: str) -> ServedModel:
        """The version, checked against the table and warmed up.

        Raises:
            ModelError: it does not fit the table, or cannot predict.
        """
        import pyarrow as pa

        features, reads = self._lookups.features, loaded.input_columns()
        check_columns(loaded.version, reads, features)
        build_request_type(self.task, features.log.columns(), reads)
        fields = [features.dataset.schema.field(name) for name in reads]
        columns = pa.schema([(one.name, pa.float64() if is_number(one.type) else one.type) for one in fields])

        def predict(rows: Sequence[Row]) -> Sequence[float]:
            probability = loaded.predict(_to_frame(columns, rows))
            if len(probability) != len(rows) or not ((probability >= 0) & (probability <= 1)).all():
                raise ValueError(f"version {loaded.version} gave something else than a probability for each row")
            return probability.tolist()  # type: ignore[no-any-return]

        typical = tuple(map(loaded.typical.get, reads))
        try:
            self._executor.submit(predict, [typical]).result()
        except Exception as error:
            raise ModelError(
                f"{self.task.name} version {loaded.version} cannot predict ({type(error).__name__}: {error}). Train again."
            ) from error
        categories = self._lookups.categories(reads)
        return ServedModel(loaded, alias, columns, categories, Batcher(predict, self._executor), datetime.now(UTC))

    def _make_state(self, champion: ServedModel, challenger: ServedModel | None) -> ServingState:
        reads = {*champion.columns.names, *(challenger.columns.names if challenger else ())}
        table = self._lookups.features.log.columns()
        asks = build_request_type(self.task, table, reads)
        metrics.MODEL_VERSION.labels(CHAMPION).set(champion.loaded.version)
        metrics.MODEL_VERSION.labels(CHALLENGER).set(challenger.loaded.version if challenger else 0)
        return ServingState(champion, challenger, table, asks)


def _to_frame(columns: pa.Schema, rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as `lakehouse.ml.dataset.Features.frame` would have them."""
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
