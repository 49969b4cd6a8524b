"""Features by key: rows of a task's feature table at its newest version, found without Spark."""

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
from serving.api.schema import Key, Row

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.storage.location import Location

# How old the knowledge of the newest version may be.
FRESH_SECONDS: Final = 1.0
# A day of no more rows than this is read whole and kept, because its other rows are often asked for next; of more days at once than
# this, and of larger ones, the rows that are asked for are read alone.
WHOLE_DAY_ROWS: Final = 20_000
MAX_DAYS: Final = 10
CACHED_ROWS: Final = 100_000
# A text column with more values than this holds names rather than categories.
MAX_CATEGORIES: Final = 10_000

logger = logging.getLogger(__name__)
Rows = dict[Key, Row]
# What is asked for: a key, and the row's time, if that is known.
KeyLookup = tuple[Key, date | None]
FoundRows = dict[KeyLookup, Row]


def _is_older(when: float, seconds: float) -> bool:
    return time.monotonic() - when >= seconds


@dataclass
class _VersionCache:
    """One version of the table, and whole days of it, by day and columns: the one that was asked for longest ago goes first."""

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

    def cached_days(self, columns: tuple[str, ...]) -> set[date]:
        """The days of which these columns are kept."""
        with self.lock:
            return {day for day, of in self.days if of == columns}

    def find(self, wanted: Sequence[KeyLookup], columns: tuple[str, ...]) -> FoundRows:
        """The rows that the kept days hold."""
        found: FoundRows = {}
        with self.lock:
            for key, day in wanted:
                places = [(day, columns)] if day else [one for one in self.days if one[1] == columns]
                for one in places:
                    if key in self.days.get(one, ()):
                        self.days.move_to_end(one)
                        found[key, day] = self.days[one][key]
                        break
        return found


class Lookups:
    """The feature table of a task in a lake, at the version that was the newest a second ago. Threads may share it.

    While a thread looks whether there is a newer version, or reads rows, the others are answered by what is known.
    """

    def __init__(self, task: Task, lake: Location) -> None:
        self.task, self._lake = task, lake
        self._looking, self._reading = Lock(), Lock()
        self._cache: _VersionCache | None = None
        self._refreshed_at = -math.inf

    @property
    def features(self) -> FeatureTable:
        """The table.

        Raises:
            ModelError, LedgerError, StorageError: see `lakehouse.ml.dataset.open_features`.
        """
        return self._current().features

    def find_cached(self, wanted: Sequence[KeyLookup], columns: tuple[str, ...]) -> tuple[FoundRows, int] | None:
        """`find`, where it need not wait for anything; None otherwise."""
        pinned = self._cache
        if pinned is None or (_is_older(self._refreshed_at, FRESH_SECONDS) and not self._looking.locked()):
            return None
        found = pinned.find(wanted, columns)
        return (found, pinned.features.version) if all(one in found for one in wanted) else None

    def find(self, wanted: Sequence[KeyLookup], columns: tuple[str, ...]) -> tuple[FoundRows, int]:
        """These columns of the rows with these keys, as far as they are there, and the version that they were read from.

        Raises:
            ModelError, LedgerError, StorageError: the table cannot be read.
        """
        self._current()
        if kept := self.find_cached(wanted, columns):
            return kept
        with self._reading:  # one at a time, so that a day that many ask for is read once
            pinned = self._current()
            try:
                found = _find_rows(pinned, wanted, columns)
            except ModelError:  # its files are gone: begin again with what is there now
                self._cache = None
                pinned = self._current()
                found = _find_rows(pinned, wanted, columns)
            return found, pinned.features.version

    def _current(self) -> _VersionCache:
        pinned = self._cache
        if pinned and not _is_older(self._refreshed_at, FRESH_SECONDS):
            return pinned
        # With something known, another thread that is looking already need not be waited for.
        if not self._looking.acquire(blocking=pinned is None):
            assert pinned
            return pinned
        try:
            if self._cache is None or _is_older(self._refreshed_at, FRESH_SECONDS):
                self._cache = self._refresh(self._cache)
                self._refreshed_at = time.monotonic()
            return self._cache
        except Exception:
            self._cache = None
            raise
        finally:
            self._looking.release()

    def _refresh(self, known: _VersionCache | None) -> _VersionCache:
        """The newest version. Where the store does not say which that is, the one that is known still serves.

        The table is opened afresh: one that was made anew in the same place would look like the old one to what has that open.
        """
        try:
            features = open_features(self.task, self._lake, ())
        except StorageError as error:
            if known is None:
                raise
            logger.warning("%s: whether there is a newer version is not known: %s", known.features, error)
            return known
        same = known and (features.table_id, features.version) == (known.features.table_id, known.features.version)
        return known if known and same else _VersionCache(features)

    def categories(self, columns: Collection[str]) -> dict[str, frozenset[str]]:
        """The values that models are trained on, of those of the columns that hold categories.

        Raises:
            ModelError, LedgerError, StorageError: the table cannot be read.
        """
        import pyarrow.compute as pc

        features = self.features
        kinds = features.log.columns()
        found: dict[str, set[str]] = {name: set() for name in columns if kinds[name] == "string"}
        with features.translate_errors():
            trained_on = features.span_filter(self.task.splits.train)
            for batch in features.dataset.to_batches(columns=list(found), filter=trained_on):
                for name, values in found.items():
                    if len(values) <= MAX_CATEGORIES:
                        values.update(pc.unique(batch.column(name)).drop_null().to_pylist())
        return {name: frozenset(values) for name, values in found.items() if 0 < len(values) <= MAX_CATEGORIES}


def _find_rows(pinned: _VersionCache, wanted: Sequence[KeyLookup], columns: tuple[str, ...]) -> FoundRows:
    found = pinned.find(wanted, columns)
    rest = [asked for asked in wanted if asked not in found]
    unplaced = [key for key, day in rest if day is None]
    days = _days(pinned.features, unplaced) if unplaced else {}
    placed = {(key, day): day or days.get(key) for key, day in rest}
    lacking = {day for day in placed.values() if day} - pinned.cached_days(columns)
    if len(lacking) <= MAX_DAYS:
        for day in [day for day in lacking if _count(pinned.features, day) <= WHOLE_DAY_ROWS]:
            rows = _read_day(pinned, day, columns)
            found |= {asked: rows[asked[0]] for asked, its in placed.items() if its == day and asked[0] in rows}
            lacking.remove(day)
    if lacking:
        rows_on = _read_keys(pinned.features, {key: day for (key, _), day in placed.items() if day in lacking}, columns)
        found |= {asked: rows_on[asked[0], day] for asked, day in placed.items() if (asked[0], day) in rows_on}
    return found


def _count(features: FeatureTable, day: date) -> int:
    with features.translate_errors():
        return int(features.dataset.count_rows(filter=features.span_filter((str(day), str(day)))))


def _read_day(pinned: _VersionCache, day: date, columns: tuple[str, ...]) -> Rows:
    """All rows of a day, to be kept."""
    table = pinned.features.read((str(day), str(day)), columns)
    rows = dict(zip(_keys(pinned.features.task, table), _rows(pinned.features, table, columns), strict=True))
    if rows:
        pinned.add(day, columns, rows)
    return rows


def _read_keys(features: FeatureTable, placed: Mapping[Key, date], columns: tuple[str, ...]) -> FoundRows:
    """The rows with these keys alone."""
    task, days = features.task, placed.values()
    table = features.read((str(min(days)), str(max(days))), [task.time_column, *columns], _key_values(task, [*placed]))
    keys = zip(_keys(task, table), table[task.time_column].to_pylist(), strict=True)
    return dict(zip(keys, _rows(features, table, columns), strict=True))


def _days(features: FeatureTable, keys: Sequence[Key]) -> dict[Key, date]:
    """The days of the rows with these keys, where there are any."""
    table = features.read(None, [features.task.time_column], _key_values(features.task, keys))
    found = dict(zip(_keys(features.task, table), table[features.task.time_column].to_pylist(), strict=True))
    return {key: found[key] for key in keys if key in found}


def _key_values(task: Task, keys: Sequence[Key]) -> dict[str, list[Any]]:
    """What rows with these keys have in each column of the key; others may have it, too."""
    return {name: list(dict.fromkeys(key[place] for key in keys)) for place, name in enumerate(task.key)}


def _keys(task: Task, table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in task.key), strict=True))


def _rows(features: FeatureTable, table: pa.Table, columns: Sequence[str]) -> Iterator[Row]:
    """The rows as models are given them."""
    frame = features.frame(table.select(list(columns))).astype(object)
    rows: Iterator[Row] = frame.where(frame.notna(), None).itertuples(index=False, name=None)
    return rows
