"""Lookup of features by key: rows of a task's feature table at its newest version, read without Spark."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import ModelError, StorageError
from lakehouse.ml.dataset import FeatureTable, open_features
from lakehouse.ml.task import Task
from lakehouse.serving.api.schema import Key, Row

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.storage.location import Location

# The newest version is looked up again after this time.
FRESH_SECONDS: Final = 1.0
# A day with at most WHOLE_DAY_ROWS rows is read in full and cached: requests often ask for its other rows next.
# Larger days, and requests for more than MAX_DAYS days, read only the requested rows.
WHOLE_DAY_ROWS: Final = 20_000
MAX_DAYS: Final = 10
CACHED_ROWS: Final = 100_000
# A text column with more distinct values than this contains names, not categories.
MAX_CATEGORIES: Final = 10_000

logger = logging.getLogger(__name__)
Rows = dict[Key, Row]
# A requested key, and the row's day if the caller sent it.
KeyLookup = tuple[Key, date | None]
RowsByLookup = dict[KeyLookup, Row]


def _is_older(when: float, seconds: float) -> bool:
    return time.monotonic() - when >= seconds


@dataclass
class _VersionCache:
    """One version of the table and its cached days, by day and columns. The least recently used is evicted first."""

    features: FeatureTable
    days: OrderedDict[tuple[date, tuple[str, ...]], Rows] = field(default_factory=OrderedDict)
    cached_rows: int = 0
    lock: Lock = field(default_factory=Lock)

    def add(self, day: date, columns: tuple[str, ...], rows: Rows) -> None:
        with self.lock:
            self.days[day, columns] = rows
            self.cached_rows += len(rows)
            while self.cached_rows > CACHED_ROWS and len(self.days) > 1:
                self.cached_rows -= len(self.days.popitem(last=False)[1])

    def list_days(self, columns: tuple[str, ...]) -> set[date]:
        """Return the days that are cached with these columns."""
        with self.lock:
            return {day for day, cached_columns in self.days if cached_columns == columns}

    def find(self, requested: Sequence[KeyLookup], columns: tuple[str, ...]) -> RowsByLookup:
        """Return the requested rows that are in cached days."""
        rows: RowsByLookup = {}
        with self.lock:
            for key, day in requested:
                entries = [(day, columns)] if day else [entry for entry in self.days if entry[1] == columns]
                for entry in entries:
                    if key in self.days.get(entry, ()):
                        self.days.move_to_end(entry)
                        rows[key, day] = self.days[entry][key]
                        break
        return rows


class Lookups:
    """Reader of a task's feature table, at the version that was the newest a second ago. Threads may share it.

    While one thread checks for a newer version or reads rows, the others are answered from the cache.
    """

    def __init__(self, task: Task, lake: Location) -> None:
        self.task, self._lake = task, lake
        self._refresh_lock, self._read_lock = Lock(), Lock()
        self._cache: _VersionCache | None = None
        self._refreshed_at = -math.inf

    @property
    def features(self) -> FeatureTable:
        """Return the feature table.

        Raises:
            ModelError, LedgerError, StorageError: See `lakehouse.ml.dataset.open_features`.
        """
        return self._get_current().features

    def find_cached(self, requested: Sequence[KeyLookup], columns: tuple[str, ...]) -> tuple[RowsByLookup, int] | None:
        """Return the result of `find` if it is cached in full; None if `find` would read the table or wait."""
        cache = self._cache
        if cache is None or (_is_older(self._refreshed_at, FRESH_SECONDS) and not self._refresh_lock.locked()):
            return None
        rows = cache.find(requested, columns)
        return (rows, cache.features.version) if all(lookup in rows for lookup in requested) else None

    def find(self, requested: Sequence[KeyLookup], columns: tuple[str, ...]) -> tuple[RowsByLookup, int]:
        """Find the rows with the requested keys.

        Returns:
            The given columns of the rows that exist, and the version of the table.

        Raises:
            ModelError, LedgerError, StorageError: The table cannot be read.
        """
        self._get_current()
        if cached := self.find_cached(requested, columns):
            return cached
        with self._read_lock:  # one thread at a time reads: a day that many requests need is read once
            cache = self._get_current()
            try:
                rows = _find_rows(cache, requested, columns)
            except ModelError:  # the version's files were deleted: read the newest version
                self._cache = None
                cache = self._get_current()
                rows = _find_rows(cache, requested, columns)
            return rows, cache.features.version

    def _get_current(self) -> _VersionCache:
        cache = self._cache
        if cache and not _is_older(self._refreshed_at, FRESH_SECONDS):
            return cache
        # With a cached version, this thread does not wait for another thread's refresh.
        if not self._refresh_lock.acquire(blocking=cache is None):
            assert cache
            return cache
        try:
            if self._cache is None or _is_older(self._refreshed_at, FRESH_SECONDS):
                self._cache = self._refresh(self._cache)
                self._refreshed_at = time.monotonic()
            return self._cache
        except Exception:
            self._cache = None
            raise
        finally:
            self._refresh_lock.release()

    def _refresh(self, current: _VersionCache | None) -> _VersionCache:
        """Return the cache of the newest version, or the current one if the store does not answer.

        The table is opened again each time: an open table would not notice that it was rebuilt in the same place.
        """
        try:
            features = open_features(self.task, self._lake, ())
        except StorageError as error:
            if current is None:
                raise
            logger.warning("%s: check for a newer version failed: %s", current.features, error)
            return current
        if current and (features.table_id, features.version) == (current.features.table_id, current.features.version):
            return current
        return _VersionCache(features)

    def list_categories(self, columns: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the values that models are trained on, for each of the columns that contains categories.

        Raises:
            ModelError, LedgerError, StorageError: The table cannot be read.
        """
        import pyarrow.compute as pc

        features = self.features
        types = features.log.read_columns()
        values_of: dict[str, set[str]] = {name: set() for name in columns if types[name] == "string"}
        with features.translate_errors():
            trained_on = features.build_span_filter(self.task.splits.train)
            for batch in features.dataset.to_batches(columns=list(values_of), filter=trained_on):
                for name, values in values_of.items():
                    if len(values) <= MAX_CATEGORIES:
                        values.update(pc.unique(batch.column(name)).drop_null().to_pylist())
        return {name: frozenset(values) for name, values in values_of.items() if 0 < len(values) <= MAX_CATEGORIES}


def _find_rows(cache: _VersionCache, requested: Sequence[KeyLookup], columns: tuple[str, ...]) -> RowsByLookup:
    rows = cache.find(requested, columns)
    missing = [lookup for lookup in requested if lookup not in rows]
    undated = [key for key, day in missing if day is None]
    found_days = _find_days(cache.features, undated) if undated else {}
    days = {(key, day): day or found_days.get(key) for key, day in missing}
    uncached = {day for day in days.values() if day} - cache.list_days(columns)
    if len(uncached) <= MAX_DAYS:
        for day in [day for day in uncached if _count(cache.features, day) <= WHOLE_DAY_ROWS]:
            day_rows = _read_day(cache, day, columns)
            rows |= {
                lookup: day_rows[lookup[0]]
                for lookup, row_day in days.items()
                if row_day == day and lookup[0] in day_rows
            }
            uncached.remove(day)
    if uncached:
        single_rows = _read_keys(
            cache.features, {key: day for (key, _), day in days.items() if day in uncached}, columns
        )
        rows |= {lookup: single_rows[lookup[0], day] for lookup, day in days.items() if (lookup[0], day) in single_rows}
    return rows


def _count(features: FeatureTable, day: date) -> int:
    with features.translate_errors():
        return int(features.dataset.count_rows(filter=features.build_span_filter((str(day), str(day)))))


def _read_day(cache: _VersionCache, day: date, columns: tuple[str, ...]) -> Rows:
    """Read all rows of a day and cache them."""
    table = cache.features.read((str(day), str(day)), columns)
    rows = dict(
        zip(_list_keys(cache.features.task, table), _read_model_rows(cache.features, table, columns), strict=True)
    )
    if rows:
        cache.add(day, columns, rows)
    return rows


def _read_keys(features: FeatureTable, key_days: Mapping[Key, date], columns: tuple[str, ...]) -> RowsByLookup:
    """Read only the rows with these keys; the result may contain other rows, too (see `_key_values`)."""
    task, days = features.task, key_days.values()
    filters = _key_values(task, [*key_days])
    table = features.read((str(min(days)), str(max(days))), [task.time_column, *columns], filters)
    lookups = zip(_list_keys(task, table), table[task.time_column].to_pylist(), strict=True)
    return dict(zip(lookups, _read_model_rows(features, table, columns), strict=True))


def _find_days(features: FeatureTable, keys: Sequence[Key]) -> dict[Key, date]:
    """Return the days of the rows with these keys; keys without a row are left out."""
    table = features.read(None, [features.task.time_column], _key_values(features.task, keys))
    days = dict(zip(_list_keys(features.task, table), table[features.task.time_column].to_pylist(), strict=True))
    return {key: days[key] for key in keys if key in days}


def _key_values(task: Task, keys: Sequence[Key]) -> dict[str, list[Any]]:
    """Return the values of each key column. With several key columns, other rows may match them as well."""
    return {name: list(dict.fromkeys(key[position] for key in keys)) for position, name in enumerate(task.key)}


def _list_keys(task: Task, table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in task.key), strict=True))


def _read_model_rows(features: FeatureTable, table: pa.Table, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows in the form that models receive."""
    frame = features.read_frame(table.select(list(columns))).astype(object)
    rows: Iterator[Row] = frame.where(frame.notna(), None).itertuples(index=False, name=None)
    return rows
