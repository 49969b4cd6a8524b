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
from lakehouse.ml.dataset import Features, open_features
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
MOST_DAYS: Final = 10
KEPT_ROWS: Final = 100_000
# A text column with more values than this holds names rather than categories.
MOST_CATEGORIES: Final = 10_000

logger = logging.getLogger(__name__)
Rows = dict[Key, Row]
# What is asked for: a key, and the row's time, if that is known.
Asked = tuple[Key, date | None]
Found = dict[Asked, Row]


def _older(when: float, seconds: float) -> bool:
    return time.monotonic() - when >= seconds


@dataclass
class _Pinned:
    """One version of the table, and whole days of it, by day and columns: the one that was asked for longest ago goes first."""

    features: Features
    days: OrderedDict[tuple[date, tuple[str, ...]], Rows] = field(default_factory=OrderedDict)
    kept: int = 0
    lock: Lock = field(default_factory=Lock)

    def keep(self, day: date, columns: tuple[str, ...], rows: Rows) -> None:
        with self.lock:
            self.days[day, columns] = rows
            self.kept += len(rows)
            while self.kept > KEPT_ROWS and len(self.days) > 1:
                self.kept -= len(self.days.popitem(last=False)[1])

    def has(self, columns: tuple[str, ...]) -> set[date]:
        """The days of which these columns are kept."""
        with self.lock:
            return {day for day, of in self.days if of == columns}

    def find(self, wanted: Sequence[Asked], columns: tuple[str, ...]) -> Found:
        """The rows that the kept days hold."""
        found: Found = {}
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
        self._pinned: _Pinned | None = None
        self._looked = -math.inf

    @property
    def features(self) -> Features:
        """The table.

        Raises:
            ModelError, LedgerError, StorageError: see `lakehouse.ml.dataset.open_features`.
        """
        return self._now().features

    def kept(self, wanted: Sequence[Asked], columns: tuple[str, ...]) -> tuple[Found, int] | None:
        """`find`, where it need not wait for anything; None otherwise."""
        pinned = self._pinned
        if pinned is None or (_older(self._looked, FRESH_SECONDS) and not self._looking.locked()):
            return None
        found = pinned.find(wanted, columns)
        return (found, pinned.features.version) if all(one in found for one in wanted) else None

    def find(self, wanted: Sequence[Asked], columns: tuple[str, ...]) -> tuple[Found, int]:
        """These columns of the rows with these keys, as far as they are there, and the version that they were read from.

        Raises:
            ModelError, LedgerError, StorageError: the table cannot be read.
        """
        self._now()
        if kept := self.kept(wanted, columns):
            return kept
        with self._reading:  # one at a time, so that a day that many ask for is read once
            pinned = self._now()
            try:
                found = _find(pinned, wanted, columns)
            except ModelError:  # its files are gone: begin again with what is there now
                self._pinned = None
                pinned = self._now()
                found = _find(pinned, wanted, columns)
            return found, pinned.features.version

    def _now(self) -> _Pinned:
        pinned = self._pinned
        if pinned and not _older(self._looked, FRESH_SECONDS):
            return pinned
        # With something known, another thread that is looking already need not be waited for.
        if not self._looking.acquire(blocking=pinned is None):
            assert pinned
            return pinned
        try:
            if self._pinned is None or _older(self._looked, FRESH_SECONDS):
                self._pinned = self._look(self._pinned)
                self._looked = time.monotonic()
            return self._pinned
        except Exception:
            self._pinned = None
            raise
        finally:
            self._looking.release()

    def _look(self, known: _Pinned | None) -> _Pinned:
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
        return known if known and same else _Pinned(features)

    def categories(self, columns: Collection[str]) -> dict[str, frozenset[str]]:
        """The values that models are trained on, of those of the columns that hold categories.

        Raises:
            ModelError, LedgerError, StorageError: the table cannot be read.
        """
        import pyarrow.compute as pc

        features = self.features
        kinds = features.log.columns()
        found: dict[str, set[str]] = {name: set() for name in columns if kinds[name] == "string"}
        with features.reading():
            trained_on = features.within(self.task.splits.train)
            for batch in features.dataset.to_batches(columns=list(found), filter=trained_on):
                for name, values in found.items():
                    if len(values) <= MOST_CATEGORIES:
                        values.update(pc.unique(batch.column(name)).drop_null().to_pylist())
        return {name: frozenset(values) for name, values in found.items() if 0 < len(values) <= MOST_CATEGORIES}


def _find(pinned: _Pinned, wanted: Sequence[Asked], columns: tuple[str, ...]) -> Found:
    found = pinned.find(wanted, columns)
    rest = [asked for asked in wanted if asked not in found]
    unplaced = [key for key, day in rest if day is None]
    days = _days(pinned.features, unplaced) if unplaced else {}
    placed = {(key, day): day or days.get(key) for key, day in rest}
    lacking = {day for day in placed.values() if day} - pinned.has(columns)
    if len(lacking) <= MOST_DAYS:
        for day in [day for day in lacking if _count(pinned.features, day) <= WHOLE_DAY_ROWS]:
            rows = _read_day(pinned, day, columns)
            found |= {asked: rows[asked[0]] for asked, its in placed.items() if its == day and asked[0] in rows}
            lacking.remove(day)
    if lacking:
        rows_on = _read_keys(pinned.features, {key: day for (key, _), day in placed.items() if day in lacking}, columns)
        found |= {asked: rows_on[asked[0], day] for asked, day in placed.items() if (asked[0], day) in rows_on}
    return found


def _count(features: Features, day: date) -> int:
    with features.reading():
        return int(features.dataset.count_rows(filter=features.within((str(day), str(day)))))


def _read_day(pinned: _Pinned, day: date, columns: tuple[str, ...]) -> Rows:
    """All rows of a day, to be kept."""
    table = pinned.features.read((str(day), str(day)), columns)
    rows = dict(zip(_keys(pinned.features.task, table), _rows(pinned.features, table, columns), strict=True))
    if rows:
        pinned.keep(day, columns, rows)
    return rows


def _read_keys(features: Features, placed: Mapping[Key, date], columns: tuple[str, ...]) -> Found:
    """The rows with these keys alone."""
    task, days = features.task, placed.values()
    table = features.read((str(min(days)), str(max(days))), [task.time, *columns], _among(task, [*placed]))
    keys = zip(_keys(task, table), table[task.time].to_pylist(), strict=True)
    return dict(zip(keys, _rows(features, table, columns), strict=True))


def _days(features: Features, keys: Sequence[Key]) -> dict[Key, date]:
    """The days of the rows with these keys, where there are any."""
    table = features.read(None, [features.task.time], _among(features.task, keys))
    found = dict(zip(_keys(features.task, table), table[features.task.time].to_pylist(), strict=True))
    return {key: found[key] for key in keys if key in found}


def _among(task: Task, keys: Sequence[Key]) -> dict[str, list[Any]]:
    """What rows with these keys have in each column of the key; others may have it, too."""
    return {name: list(dict.fromkeys(key[place] for key in keys)) for place, name in enumerate(task.key)}


def _keys(task: Task, table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in task.key), strict=True))


def _rows(features: Features, table: pa.Table, columns: Sequence[str]) -> Iterator[Row]:
    """The rows as models are given them."""
    frame = features.frame(table.select(list(columns))).astype(object)
    rows: Iterator[Row] = frame.where(frame.notna(), None).itertuples(index=False, name=None)
    return rows
