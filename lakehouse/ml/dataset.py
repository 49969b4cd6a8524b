"""Feature rows for training and scoring: the feature table at an exact version.

Features are read as Arrow with delta-rs, some days at a time, without Spark. The same version gives the same rows in
the same order, whatever the layout of its files.
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

# The days of one batch.
BATCH_DAYS: Final = 7
# The rows of one read, 100 MB of the flights' features. A single larger batch is still read at once.
READ_ROWS: Final = 400_000


def split_into_weeks(span: Span) -> list[Span]:
    """Split a span into pieces of BATCH_DAYS days."""
    first, last = (date.fromisoformat(end) for end in span)
    step = timedelta(days=BATCH_DAYS)
    starts = [first + n * step for n in range((last - first) // step + 1)]
    return [(str(day), str(min(day + step - timedelta(days=1), last))) for day in starts]


def _count_until(days: np.ndarray, spans: Sequence[Span]) -> list[int]:
    """Count the sorted days up to the end of each span."""
    import numpy as np

    counts: list[int] = np.searchsorted(days, np.array([last for _, last in spans], days.dtype), side="right").tolist()
    return counts


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
        """Return Delta's id of the table. A table rebuilt in its place has another id, and its versions start again."""
        return str(self.log.delta_table.metadata().id)

    def __str__(self) -> str:
        return f"{self.task.feature_table} version {self.version}"

    @cached_property
    def dataset(self) -> Any:
        """Return the table as a dataset of pyarrow; read it within `translate_errors`."""
        return self.log.open_dataset()

    def build_span_filter(self, span: Span) -> Any:
        """Return pyarrow's filter for the rows of a span."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        first, last = (pa.scalar(date.fromisoformat(day)) for day in span)
        return (ds.field(self.task.time_column) >= first) & (ds.field(self.task.time_column) <= last)

    def read(
        self, span: Span | None, columns: Iterable[str], key_values: Mapping[str, Iterable[Any]] | None = None
    ) -> pa.Table:
        """Read the key and some columns, sorted by key.

        Args:
            span: the days to read, both included; None for all rows.
            key_values: the allowed values by column; rows with other values are left out.

        Raises:
            ModelError: the version's files are gone.
            StorageError: the object store cannot be used.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        names = list(dict.fromkeys((*self.task.key, *columns)))
        with self.translate_errors():
            condition = self.build_span_filter(span) if span else None
            for name, values in (key_values or {}).items():
                is_allowed = ds.field(name).isin(pa.array(values, self.dataset.schema.field(name).type))
                condition = is_allowed if condition is None else condition & is_allowed
            rows = self.dataset.to_table(columns=names, filter=condition)
        return rows.sort_by([(name, "ascending") for name in self.task.key])

    def has_rows(self, span: Span) -> bool:
        with self.translate_errors():
            return bool(
                self.dataset.head(1, columns=[self.task.time_column], filter=self.build_span_filter(span)).num_rows
            )

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate the errors of pyarrow and delta-rs into those of `read`.

        Raises:
            ModelError: the version's files are gone.
            StorageError: the object store cannot be used.
        """
        try:
            yield
        except FileNotFoundError as error:
            raise ModelError(
                f"{self}: some of its files are gone, probably vacuumed. Name a version that still exists, or none for "
                "the latest."
            ) from error
        except Exception as error:  # pyarrow and delta-rs raise many types
            if explanation := s3.explain_error(error):
                raise StorageError(f"{self}: {explanation}") from error
            raise

    def read_batches(self, span: Span, columns: Iterable[str]) -> Iterator[pa.Table]:
        """Read the rows of a span a week at a time; see `read`.

        A read scans whole files, however few of their rows it returns. So weeks are read together, up to READ_ROWS
        rows.
        """
        import numpy as np

        names = list(dict.fromkeys((*self.task.key, *columns)))
        for weeks in self._group_spans(split_into_weeks(span)):
            rows = self.read((weeks[0][0], weeks[-1][1]), [*names, self.task.time_column])
            days = rows[self.task.time_column].to_numpy()
            order = np.argsort(days, kind="stable")
            ends = _count_until(days[order], weeks)
            for start, end in pairwise([0, *ends]):
                # Sorted positions restore the order of the keys.
                yield rows.take(np.sort(order[start:end])).select(names)

    def _group_spans(self, spans: Sequence[Span]) -> Iterator[list[Span]]:
        """Group adjoining spans, each group with at most READ_ROWS rows or with a single span."""
        import numpy as np

        with self.translate_errors():
            in_spans = self.build_span_filter((spans[0][0], spans[-1][1]))
            days = self.dataset.to_table(columns=[self.task.time_column], filter=in_spans)[self.task.time_column]
        group, group_start, previous_end = list[Span](), 0, 0
        for span, end in zip(spans, _count_until(np.sort(days.to_numpy()), spans), strict=True):
            if group and end - group_start > READ_ROWS:
                yield group
                group, group_start = [], previous_end
            group.append(span)
            previous_end = end
        yield group

    def split(self, name: SplitName, columns: Iterable[str]) -> LabelledRows:
        """Return the labelled rows of a split, with these columns.

        Raises:
            ModelError: the split has no labelled row, or only rows with the same label.
        """
        span = getattr(self.task.splits, name)
        rows = LabelledRows(self, span, tuple(dict.fromkeys((*self.task.key, self.task.time_column, *columns))))
        label = rows.label
        if len(label) == 0 or label.all() or not label.any():
            rest = f"only rows with {self.task.label_column} {bool(label[0])}" if len(label) else "no labelled rows"
            raise ModelError(f"{self}: {rest} in the {name} split, {span[0]} to {span[1]}. {self._describe_days()}")
        return rows

    def read_frame(self, rows: pa.Table) -> pd.DataFrame:
        """Convert rows to a model's input frame, without the label."""
        return as_frame(rows.drop_columns([name for name in rows.column_names if name == self.task.label_column]))

    def filter_existing_columns(self, names: Iterable[str]) -> list[str]:
        """Return the given columns that the table has."""
        existing = self.log.read_columns()
        return [name for name in names if name in existing]

    def _describe_days(self) -> str:
        import pyarrow.compute as pc

        rows = self.read(None, [self.task.time_column, self.task.label_column])
        days, labelled = pc.min_max(rows[self.task.time_column]).as_py(), pc.count(rows[self.task.label_column]).as_py()
        if not rows.num_rows:
            return "The table is empty: land some data and build it (`lakehouse run`)."
        return (
            f"The table has {rows.num_rows:,} rows, {labelled:,} of them labelled, with {self.task.time_column} from "
            f"{days['min']} to {days['max']}: build the missing days (`lakehouse run`) or change the task's splits."
        )


@dataclass(frozen=True)
class LabelledRows:
    """The labelled rows of a span of days, sorted by week and key.

    Attributes:
        columns: the columns of each row, the key and the time among them.
    """

    features: FeatureTable
    span: Span
    columns: tuple[str, ...]

    def read_batches(self) -> Iterator[pa.Table]:
        """Read the rows and their label a week at a time, so that only one week is in memory."""
        import pyarrow.compute as pc

        label = self.features.task.label_column
        for rows in self.features.read_batches(self.span, (*self.columns, label)):
            if labelled := rows.filter(pc.is_valid(rows[label])):
                yield labelled

    def read_frames(self) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """Read the input frames of `Model.predict` and their labels, a week at a time."""
        for rows in self.read_batches():
            yield self.features.read_frame(rows), rows[self.features.task.label_column].to_numpy()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Read and cache all rows as one frame, for learners that need them at once."""
        import pandas as pd

        return pd.concat((frame for frame, _ in self.read_frames()), ignore_index=True)

    def sample(self, max_rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
        """Sample at most ``max_rows`` rows in their order, as an input frame of `Model.predict` and labels."""
        import numpy as np
        import pandas as pd

        positions = np.random.default_rng(seed).choice(self.rows, min(max_rows, self.rows), replace=False)
        positions.sort()
        parts, start = list[pd.DataFrame](), 0
        for frame, _ in self.read_frames():
            offsets = positions - start
            parts.append(frame.iloc[offsets[(offsets >= 0) & (offsets < len(frame))]])
            start += len(frame)
        return pd.concat(parts, ignore_index=True), self.label[positions]

    def read_on_spark(self) -> DataFrame:
        """Read the rows and their label on the process's Spark session."""
        from lakehouse.ml.spark_scoring import read_labelled

        return read_labelled(self)

    @property
    def label(self) -> np.ndarray:
        return self._label_columns[0]

    @property
    def days(self) -> np.ndarray:
        """Return each row's day."""
        return self._label_columns[1]

    @property
    def rows(self) -> int:
        return len(self.label)

    @property
    def unlabelled(self) -> int:
        """Return the number of rows of the span without a label."""
        return self._label_columns[2]

    @cached_property
    def _label_columns(self) -> tuple[np.ndarray, np.ndarray, int]:
        import numpy as np
        import pyarrow.compute as pc

        label, time, unlabelled = self.features.task.label_column, self.features.task.time_column, 0
        labels, days = [np.empty(0, dtype=bool)], [np.empty(0, dtype="datetime64[D]")]
        for rows in self.features.read_batches(self.span, [label, time]):
            labelled = rows.filter(pc.is_valid(rows[label]))
            labels.append(labelled[label].to_numpy())
            days.append(labelled[time].to_numpy())
            unlabelled += rows.num_rows - labelled.num_rows
        return np.concatenate(labels), np.concatenate(days), unlabelled

    def compute_fingerprint(self, keys_to: Path | None = None) -> dict[str, str]:
        """Compute sha256 of the rows' keys and of all their values, independent of the layout in Arrow and in files.

        Args:
            keys_to: a Parquet file to write the keys to.
        """
        import pyarrow.parquet as pq

        key, label = list(self.features.task.key), self.features.task.label_column
        keys, content, writer = hashlib.sha256(), hashlib.sha256(), None
        for rows in self.read_batches():
            keys.update(_to_csv(rows.select(key)))
            content.update(_to_csv(rows.select([*self.columns, label])))
            if keys_to:
                writer = writer or pq.ParquetWriter(keys_to, rows.select(key).schema, compression="zstd")
                writer.write_table(rows.select(key))
        if writer:
            writer.close()
        return {"keys_sha256": keys.hexdigest(), "content_sha256": content.hexdigest()}


def predict_probabilities(model: Model, fitted: Any, rows: LabelledRows) -> np.ndarray:
    """Return a fitted model's probabilities for all rows, in their order."""
    import numpy as np

    return np.concatenate([model.predict(fitted, frame) for frame, _ in rows.read_frames()])


def open_features(task: Task, lake: Location, columns: Iterable[str], version: int | None = None) -> FeatureTable:
    """Open the task's feature table pinned at ``version``, the latest by default.

    Raises:
        ModelError: the table or the version does not exist, or lacks one of ``columns``, the key, the time or the
            label.
        LedgerError: the table's log is damaged.
    """
    from lakehouse.deltalog.table_log import open_log

    path = lake.joinpath(*task.feature_table.split("."))
    log = open_log(path)
    if log is None:
        raise ModelError(
            f"{task.name}: its feature table {task.feature_table} is not there ({path}). Build it first: "
            "`lakehouse run`."
        )
    if version is not None and not 0 <= version <= log.version:
        raise ModelError(f"{task.feature_table} has no version {version}; its latest is {log.version}.")
    if version not in (None, log.version):
        log = open_log(path, version)
        assert log is not None
    existing = log.read_columns()
    required = dict.fromkeys((*task.key, task.time_column, *columns, task.label_column))
    if missing := [name for name in required if name not in existing]:
        raise ModelError(
            f"{task.feature_table} version {log.version} has {', '.join(existing)}, but lacks columns that {task.name} "
            f"reads: {', '.join(missing)}. Rebuild the table from today's declaration "
            "(`lakehouse run --full-refresh`), or change the model's columns."
        )
    return FeatureTable(task, log)


def check_columns(version: int, input_columns: Sequence[str], features: FeatureTable) -> None:
    """Check that a feature table has every column that a version of a model reads.

    Raises:
        ModelError: the table lacks some; they are named.
    """
    existing = features.log.read_columns()
    if missing := [name for name in input_columns if name not in existing]:
        raise ModelError(
            f"{features.task.name} version {version} was trained on columns that {features} does not have: "
            f"{', '.join(missing)}. Run `lakehouse train`, or name the feature version it was trained on."
        )


def as_frame(rows: pa.Table) -> pd.DataFrame:
    """Convert rows without the label to a model's input frame, with numbers and booleans as float64."""
    import pyarrow as pa

    floats = [pa.field(f.name, pa.float64()) if is_number(f.type) else f for f in rows.schema]
    frame: pd.DataFrame = rows.cast(pa.schema(floats)).to_pandas()
    return frame


def is_number(kind: pa.DataType) -> bool:
    """Return whether models receive values of this type as float64."""
    from pyarrow import types

    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _to_csv(rows: pa.Table) -> Any:
    """Return the rows' values as CSV, in their order."""
    import pyarrow as pa
    import pyarrow.csv

    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink)
    return sink.getvalue()
