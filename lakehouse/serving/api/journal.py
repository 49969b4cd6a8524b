"""Journal of requests and predictions in a Delta table. A thread writes it in batches, so no response waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import chain
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from lakehouse.errors import get_first_line
from lakehouse.serving.api import metrics
from lakehouse.serving.api.schema import Key, Row
from lakehouse.storage.location import build_delta_options

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.ml.dataset import FeatureTable
    from lakehouse.storage.location import Location

logger = logging.getLogger(__name__)
LAYER: Final = "serving"
# A commit is written this long after its first pending row, or when this many rows or bytes are pending.
FLUSH_SECONDS: Final = 5.0
FLUSH_ROWS: Final = 20_000
FLUSH_BYTES: Final = 32_000_000
# Rows that are buffered while the store does not answer, and their memory. Newer rows beyond either are dropped.
MAX_ROWS: Final = 200_000
MAX_BYTES: Final = 256_000_000
# Memory of an entry without its rows, and of a row without its values.
_ENTRY_BYTES, _ROW_BYTES = 1000, 50
RETRY_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 20.0
# After this many commits the small files are compacted, and files that are unused for a week are deleted.
COMPACT_COMMITS: Final = 200


@dataclass(frozen=True)
class Entry:
    """One answered request.

    Attributes:
        rows: The rows in the model's form.
        keys: The rows' keys, if the request was by key.
    """

    request_id: str
    at: datetime
    version: int
    alias: str
    columns: Sequence[str]
    rows: Sequence[Row]
    probabilities: Sequence[float]
    keys: Sequence[Key] = ()
    feature_version: int | None = None

    @cached_property
    def size(self) -> int:
        """Approximate memory in bytes."""
        values = map(getsizeof, chain(self.rows, *self.rows, self.keys, *self.keys))
        return _ENTRY_BYTES + len(self.rows) * _ROW_BYTES + sum(values)


class Journal:
    """Writer of the table ``serving.<task>_requests``. Any thread may call `put`; writing starts with `begin`."""

    def __init__(self, features: FeatureTable, lake: Location, flush_seconds: float = FLUSH_SECONDS) -> None:
        import pyarrow as pa

        task = features.task
        self._task, self._seconds = task, flush_seconds
        self.path = lake.joinpath(LAYER, f"{task.name}_requests")
        text, schema = pa.string(), features.dataset.schema
        self._schema = pa.schema(
            [("request_id", text), ("row", pa.int32()), ("at", pa.timestamp("us", "UTC"))]
            + [("model_name", text), ("model_version", pa.int32()), ("alias", text)]
            + [(name, schema.field(name).type) for name in task.key]
            + [("features", text), ("probability", pa.float64()), ("feature_version", pa.int64())]
        )
        self._pending: deque[Entry] = deque()
        self._rows = self._bytes = self._commits = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queue an entry for writing, or drop it if the queue is full."""
        with self._changed:
            if self._rows + len(entry.rows) > MAX_ROWS or self._bytes + entry.size > MAX_BYTES:
                metrics.JOURNAL_DROPPED.inc(len(entry.rows))
                return
            self._pending.append(entry)
            self._rows += len(entry.rows)
            self._bytes += entry.size
            if len(self._pending) == 1 or self._is_batch_full():
                self._changed.notify()

    def close(self) -> None:
        """Write the pending entries. Rows that take longer than CLOSE_SECONDS are lost, and their number is logged."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._rows:
            metrics.JOURNAL_DROPPED.inc(self._rows)
            logger.error("%s: %d rows were lost because they could not be written in time", self.path, self._rows)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                self._changed.wait_for(lambda: self._closing or self._is_batch_full(), self._seconds)
                batch = self._take_batch()
            if not batch:
                return
            table = self._to_arrow(batch)
            while not self._try_write(table):
                time.sleep(RETRY_SECONDS)
            with self._changed:
                for entry in batch:
                    self._pending.popleft()
                    self._rows -= len(entry.rows)
                    self._bytes -= entry.size
            self._compact()

    def _is_batch_full(self) -> bool:
        return self._rows >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES

    def _take_batch(self) -> list[Entry]:
        """Return pending entries for one commit."""
        batch: list[Entry] = []
        rows = size = 0
        # The iteration ends early because responses wait for the lock.
        for entry in self._pending:
            if rows >= FLUSH_ROWS or size >= FLUSH_BYTES:
                break
            batch.append(entry)
            rows += len(entry.rows)
            size += entry.size
        return batch

    def _try_write(self, table: pa.Table) -> bool:
        from deltalake import write_deltalake

        try:
            write_deltalake(
                str(self.path),
                table,
                mode="append",
                schema_mode="merge",
                storage_options=build_delta_options(self.path),
            )
        except Exception as error:  # raised by delta-rs or the store
            metrics.JOURNAL_FAILURES.inc()
            logger.warning("%s: %d rows are not written yet: %s", self.path, self._rows, get_first_line(error))
            return False
        self._commits += 1
        metrics.JOURNAL_ROWS.inc(table.num_rows)
        return True

    def _to_arrow(self, batch: Sequence[Entry]) -> pa.Table:
        import pyarrow as pa

        records: list[dict[str, Any]] = []
        for entry in batch:
            shared = {
                "request_id": entry.request_id,
                "at": entry.at,
                "model_name": self._task.name,
                "model_version": entry.version,
                "alias": entry.alias,
                "feature_version": entry.feature_version,
            }
            for position, (row, probability) in enumerate(zip(entry.rows, entry.probabilities, strict=True)):
                key = dict(zip(self._task.key, entry.keys[position], strict=True)) if entry.keys else {}
                features = to_json(dict(zip(entry.columns, row, strict=True))).decode()
                records.append({**shared, **key, "row": position, "features": features, "probability": probability})
        return pa.Table.from_pylist(records, self._schema)

    def _compact(self) -> None:
        if self._commits % COMPACT_COMMITS or self._closing:
            return
        from deltalake import DeltaTable

        try:
            table = DeltaTable(str(self.path), storage_options=build_delta_options(self.path))
            table.optimize.compact()
            table.vacuum(dry_run=False)
        except Exception as error:  # the rows are committed, only in more files
            logger.warning("%s: the files were not compacted: %s", self.path, get_first_line(error))
