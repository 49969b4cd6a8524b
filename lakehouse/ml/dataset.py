"""The features that a model reads: the feature table at an exact version.

Features come as Arrow from delta-rs, some days at a time, without Spark: the same version gives the same rows in the same order,
however its files lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import ModelError, StorageError
from lakehouse.ml.task import Span
from lakehouse.storage import s3

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from lakehouse.deltalog.table_log import TableLog
    from lakehouse.ml.task import Model, SplitName, Task
    from lakehouse.storage.location import Location

# How many days of rows are taken at once.
BATCH_DAYS: Final = 7
# How many rows are read at once, 100 MB of the flights' features: more only where one batch has more.
READ_ROWS: Final = 400_000


def split_into_weeks(span: Span) -> list[Span]:
    """The span in pieces of BATCH_DAYS days."""
    first, last = (date.fromisoformat(end) for end in span)
    step = timedelta(days=BATCH_DAYS)
    starts = [first + n * step for n in range((last - first) // step + 1)]
    return [(str(day), str(min(day + step - timedelta(days=1), last))) for day in starts]


def _count_until(days: np.ndarray, spans: Sequence[Span]) -> list[int]:
    """Of sorted days, how many there are until the end of each span."""
    import numpy as np

    found: list[int] = np.searchsorted(days, np.array([last for _, last in spans], days.dtype), side="right").tolist()
    return found


@dataclass(frozen=True)
class FeatureTable:
    """A task's feature table at one version."""

    task: Task
    log: TableLog

    @property
    def version(self) -> int:
        return self.log.version

    @property
    def table_id(self) -> str:
        """It tells a table from one that was made anew in its place, whose versions start again."""
        return str(self.log.delta_table.metadata().id)

    def __str__(self) -> str:
        return f"{self.task.feature_table} version {self.version}"

    @cached_property
    def dataset(self) -> Any:
        """The table's rows, for pyarrow to read; what goes wrong meanwhile is told by `reading`."""
        return self.log.delta_table.to_pyarrow_dataset()

    def span_filter(self, span: Span) -> Any:
        """For pyarrow: the rows whose time is in the span."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        first, last = (pa.scalar(date.fromisoformat(day)) for day in span)
        return (ds.field(self.task.time_column) >= first) & (ds.field(self.task.time_column) <= last)

    def read(
        self, span: Span | None, columns: Iterable[str], key_values: Mapping[str, Iterable[Any]] | None = None
    ) -> pa.Table:
        """The key and these columns of the rows in ``span`` (of all rows without one), in the order of their keys.

        ``among``: of those alone that have one of these values in each of these columns.

        Raises:
            ModelError: the version's files are gone.
            StorageError: the object store cannot be used.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        named = list(dict.fromkeys((*self.task.key, *columns)))
        with self.translate_errors():
            wanted = self.span_filter(span) if span else None
            for name, values in (key_values or {}).items():
                one = ds.field(name).isin(pa.array(values, self.dataset.schema.field(name).type))
                wanted = one if wanted is None else wanted & one
            rows = self.dataset.to_table(columns=named, filter=wanted)
        return rows.sort_by([(name, "ascending") for name in self.task.key])

    def has_rows(self, span: Span) -> bool:
        with self.translate_errors():
            return bool(self.dataset.head(1, columns=[self.task.time_column], filter=self.span_filter(span)).num_rows)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raises what `read` does in place of what pyarrow and delta-rs raise."""
        try:
            yield
        except FileNotFoundError as error:
            raise ModelError(
                f"{self}: some of its files are gone, probably vacuumed. Name a version that is still there, or none for "
                "the latest."
            ) from error
        except Exception as error:  # pyarrow's and delta-rs's alike
            if said := s3.explain_error(error):
                raise StorageError(f"{self}: {said}") from error
            raise

    def batches(self, span: Span, columns: Iterable[str]) -> Iterator[pa.Table]:
        """`read`, a week at a time.

        Reading looks through whole files however few of their rows are wanted, so that weeks are read together, as long as
        they have no more than READ_ROWS rows.
        """
        import numpy as np

        named = list(dict.fromkeys((*self.task.key, *columns)))
        for together in self._group_spans(split_into_weeks(span)):
            rows = self.read((together[0][0], together[-1][1]), [*named, self.task.time_column])
            days = rows[self.task.time_column].to_numpy()
            order = np.argsort(days, kind="stable")
            ends = _count_until(days[order], together)
            for start, end in pairwise([0, *ends]):
                # In the order of their keys, as they were read.
                yield rows.take(np.sort(order[start:end])).select(named)

    def _group_spans(self, spans: Sequence[Span]) -> Iterator[list[Span]]:
        """Adjoining spans in groups, each of no more than READ_ROWS rows or of one span."""
        import numpy as np

        with self.translate_errors():
            wanted = self.span_filter((spans[0][0], spans[-1][1]))
            days = self.dataset.to_table(columns=[self.task.time_column], filter=wanted)[self.task.time_column]
        group, before, until = list[Span](), 0, 0
        for span, end in zip(spans, _count_until(np.sort(days.to_numpy()), spans), strict=True):
            if group and end - before > READ_ROWS:
                yield group
                group, before = [], until
            group.append(span)
            until = end
        yield group

    def split(self, name: SplitName, columns: Iterable[str]) -> LabelledRows:
        """The labelled rows of a split, with these columns.

        Raises:
            ModelError: it has no labelled row, or only rows with the same label.
        """
        span = getattr(self.task.splits, name)
        rows = LabelledRows(self, span, tuple(dict.fromkeys((*self.task.key, self.task.time_column, *columns))))
        label = rows.label
        if len(label) == 0 or label.all() or not label.any():
            what = f"only rows whose {self.task.label_column} is {bool(label[0])}" if len(label) else "no labelled rows"
            raise ModelError(f"{self}: {what} in the {name} split, {span[0]} to {span[1]}. {self._describe_days()}")
        return rows

    def frame(self, rows: pa.Table) -> pd.DataFrame:
        """The rows as a model takes them."""
        return as_frame(rows.drop_columns([name for name in rows.column_names if name == self.task.label_column]))

    def existing_columns(self, names: Iterable[str]) -> list[str]:
        """Those of these columns that the table has."""
        there = self.log.columns()
        return [name for name in names if name in there]

    def _describe_days(self) -> str:
        import pyarrow.compute as pc

        rows = self.read(None, [self.task.time_column, self.task.label_column])
        days, labelled = pc.min_max(rows[self.task.time_column]).as_py(), pc.count(rows[self.task.label_column]).as_py()
        if not rows.num_rows:
            return "The table is empty: land some data and build it (`lakehouse run`)."
        return (
            f"The table holds {rows.num_rows:,} rows, {labelled:,} of them labelled, with {self.task.time_column} from "
            f"{days['min']} to {days['max']}: build the missing days (`lakehouse run`) or change the task's splits."
        )


@dataclass(frozen=True)
class LabelledRows:
    """The labelled rows of a span of days, in the order of their weeks and keys; of each the key, the time and these columns."""

    features: FeatureTable
    span: Span
    columns: tuple[str, ...]

    def batches(self) -> Iterator[pa.Table]:
        """The rows and their label, a week at a time: nothing here holds them all."""
        import pyarrow.compute as pc

        label = self.features.task.label_column
        for rows in self.features.batches(self.span, (*self.columns, label)):
            if known := rows.filter(pc.is_valid(rows[label])):
                yield known

    def frames(self) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """The rows as `Model.predict` takes them, with their labels, a week at a time."""
        for rows in self.batches():
            yield self.features.frame(rows), rows[self.features.task.label_column].to_numpy()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows at once, and kept, for what cannot learn from less."""
        import pandas as pd

        return pd.concat((frame for frame, _ in self.frames()), ignore_index=True)

    def sample(self, max_rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
        """At most so many of the rows, in their order, as `Model.predict` takes them, with their labels."""
        import numpy as np
        import pandas as pd

        taken = np.random.default_rng(seed).choice(self.rows, min(max_rows, self.rows), replace=False)
        taken.sort()
        kept, before = list[pd.DataFrame](), 0
        for frame, _ in self.frames():
            here = taken - before
            kept.append(frame.iloc[here[(here >= 0) & (here < len(frame))]])
            before += len(frame)
        return pd.concat(kept, ignore_index=True), self.label[taken]

    def read_on_spark(self) -> DataFrame:
        """Read the rows and their label on the process's Spark session."""
        from lakehouse.ml.spark_scoring import read_labelled

        return read_labelled(self)

    @property
    def label(self) -> np.ndarray:
        return self._label_columns[0]

    @property
    def days(self) -> np.ndarray:
        """Each row's day."""
        return self._label_columns[1]

    @property
    def rows(self) -> int:
        return len(self.label)

    @property
    def unlabelled(self) -> int:
        """How many rows of the span have no label."""
        return self._label_columns[2]

    @cached_property
    def _label_columns(self) -> tuple[np.ndarray, np.ndarray, int]:
        import numpy as np
        import pyarrow.compute as pc

        label, time, unlabelled = self.features.task.label_column, self.features.task.time_column, 0
        labels, days = [np.empty(0, dtype=bool)], [np.empty(0, dtype="datetime64[D]")]
        for rows in self.features.batches(self.span, [label, time]):
            known = rows.filter(pc.is_valid(rows[label]))
            labels.append(known[label].to_numpy())
            days.append(known[time].to_numpy())
            unlabelled += rows.num_rows - known.num_rows
        return np.concatenate(labels), np.concatenate(days), unlabelled

    def fingerprint(self, keys_to: Path | None = None) -> dict[str, str]:
        """sha256 of the rows' keys and of all that they say, which do not depend on how Arrow or files lay them out.

        With ``keys_to`` the keys are written there, as Parquet.
        """
        import pyarrow.parquet as pq

        key, label = list(self.features.task.key), self.features.task.label_column
        keys, content, writer = hashlib.sha256(), hashlib.sha256(), None
        for rows in self.batches():
            keys.update(_to_csv(rows.select(key)))
            content.update(_to_csv(rows.select([*self.columns, label])))
            if keys_to:
                writer = writer or pq.ParquetWriter(keys_to, rows.select(key).schema, compression="zstd")
                writer.write_table(rows.select(key))
        if writer:
            writer.close()
        return {"keys_sha256": keys.hexdigest(), "content_sha256": content.hexdigest()}


def predict_probabilities(model: Model, fitted: Any, rows: LabelledRows) -> np.ndarray:
    """What a fitted model says of all rows, in their order."""
    import numpy as np

    return np.concatenate([model.predict(fitted, frame) for frame, _ in rows.frames()])


def open_features(task: Task, lake: Location, columns: Iterable[str], version: int | None = None) -> FeatureTable:
    """The task's feature table pinned at ``version``, the latest by default.

    Raises:
        ModelError: there is no such table or version, or it lacks one of ``columns``, the key, the time or the label.
        LedgerError: the table's log is damaged.
    """
    from lakehouse.deltalog.table_log import open_log

    path = lake.joinpath(*task.feature_table.split("."))
    log = open_log(path)
    if log is None:
        raise ModelError(
            f"{task.name}: its feature table {task.feature_table} is not there ({path}). Build it first: `lakehouse run`."
        )
    if version is not None and not 0 <= version <= log.version:
        raise ModelError(f"{task.feature_table} has no version {version}; its latest is {log.version}.")
    if version not in (None, log.version):
        log = open_log(path, version)
        assert log is not None
    there = log.columns()
    missing = [
        name for name in dict.fromkeys((*task.key, task.time_column, *columns, task.label_column)) if name not in there
    ]
    if missing:
        raise ModelError(
            f"{task.feature_table} version {log.version} lacks what {task.name} reads: {', '.join(missing)}. It has: "
            f"{', '.join(there)}. Build the table anew from today's declaration (`lakehouse run --full-refresh`), or "
            "change the model's columns."
        )
    return FeatureTable(task, log)


def check_columns(version: int, input_columns: Sequence[str], features: FeatureTable) -> None:
    """Check that a feature table has every column that a version of a model reads.

    Raises:
        ModelError: the table lacks some; they are named.
    """
    existing = features.log.columns()
    if missing := [name for name in input_columns if name not in existing]:
        raise ModelError(
            f"{features.task.name} version {version} was trained on columns that {features} does not have: "
            f"{', '.join(missing)}. Run `lakehouse train`, or name the feature version it was trained on."
        )


def as_frame(rows: pa.Table) -> pd.DataFrame:
    """Rows without the label as a model takes them: numbers and booleans as float64."""
    import pyarrow as pa

    floats = [pa.field(f.name, pa.float64()) if is_number(f.type) else f for f in rows.schema]
    frame: pd.DataFrame = rows.cast(pa.schema(floats)).to_pandas()
    return frame


def is_number(kind: pa.DataType) -> bool:
    """Whether models see values of this type as float64."""
    import pyarrow as pa

    of = pa.types
    return bool(of.is_boolean(kind) or of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind))


def _to_csv(rows: pa.Table) -> Any:
    """The rows' values, in their order."""
    import pyarrow as pa
    import pyarrow.csv

    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink)
    return sink.getvalue()
