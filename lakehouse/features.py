"""A model and its features: what a model module must hold, and its feature table at an exact version.

Features are read by delta-rs, without Spark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from lakehouse import s3
from lakehouse.errors import ModelError, StorageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from lakehouse.log import TableLog
    from lakehouse.storage import Location

# What every model's `evaluate` says, and perhaps more.
METRICS: Final = ("roc_auc", "average_precision", "brier")
Split = Literal["train", "choose", "report"]
Span = tuple[str, str]


class Splits(Protocol):
    """Spans of the model's time column, both ends included, as ISO dates."""

    @property
    def train(self) -> Span: ...
    @property
    def choose(self) -> Span: ...
    @property
    def report(self) -> Span: ...


class Model(Protocol):
    """What a module must hold to be trained and scored.

    Frames hold the features, the key and the time. Integers, booleans and decimals are float64 (missing as NaN), whatever a
    split happens to lack, so that a model sees the same types every time. The frame for ``fit`` also has the label (bool,
    never missing); the frame for ``predict`` has none.
    """

    @property
    def NAME(self) -> str: ...
    @property
    def FEATURE_TABLE(self) -> str: ...
    @property
    def PREDICTIONS(self) -> str: ...
    @property
    def QUALITY(self) -> str: ...
    @property
    def FEATURES(self) -> tuple[str, ...]: ...
    @property
    def BASELINE_FEATURES(self) -> tuple[str, ...]: ...
    @property
    def LABEL(self) -> str: ...
    @property
    def KEY(self) -> tuple[str, ...]: ...
    @property
    def TIME(self) -> str: ...
    @property
    def SPLITS(self) -> Splits: ...
    @property
    def CANDIDATES(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def TRUSTED_TYPES(self) -> tuple[str, ...]: ...
    def fit(self, frame: pd.DataFrame, *, features: tuple[str, ...], params: Mapping[str, Any], seed: int) -> Any: ...
    def predict(self, model: Any, frame: pd.DataFrame) -> np.ndarray: ...
    def evaluate(self, label: np.ndarray, probability: np.ndarray) -> dict[str, float]: ...


@dataclass(frozen=True)
class Labelled:
    """The labelled rows of one split: ``frame`` as `predict` takes it, in the order of their keys, and the label."""

    frame: pd.DataFrame
    label: np.ndarray
    span: Span
    unlabelled: int
    keys_sha256: str

    @property
    def rows(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Features:
    """A model's feature table at one version."""

    model: Model
    log: TableLog

    @property
    def version(self) -> int:
        return self.log.version

    @property
    def table_id(self) -> str:
        """It tells a table from one that was made anew in its place, whose versions start again."""
        return str(self.log.delta.metadata().id)

    def __str__(self) -> str:
        return f"{self.model.FEATURE_TABLE} version {self.version}"

    def read(self, span: Span | None, columns: Iterable[str]) -> pa.Table:
        """The key and these columns of the rows in ``span`` (of all rows without one), in the order of their keys: the
        same version gives the same table, however its files lie.

        Raises:
            ModelError: the version's files are gone.
            StorageError: the object store cannot be used.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        time = ds.field(self.model.TIME)
        days = [pa.scalar(date.fromisoformat(day)) for day in span or ()]
        within = (time >= days[0]) & (time <= days[1]) if days else None
        try:
            named = list(dict.fromkeys((*self.model.KEY, *columns)))
            rows = self.log.delta.to_pyarrow_dataset().to_table(columns=named, filter=within)
        except FileNotFoundError as error:
            raise ModelError(
                f"{self}: some of its files are gone, probably vacuumed. Name a version that is still there, or none for "
                "the latest."
            ) from error
        except Exception as error:  # pyarrow's and delta-rs's alike
            if said := s3.explained(error):
                raise StorageError(f"{self}: {said}") from error
            raise
        return rows.sort_by([(name, "ascending") for name in self.model.KEY])

    def labelled(self, split: Split, also: Iterable[str] = ()) -> Labelled:
        """The labelled rows of a split. ``also`` names further features, read where the table has them.

        Raises:
            ModelError: the split has no labelled row, or only rows with the same label.
        """
        import pyarrow.compute as pc

        model, span = self.model, getattr(self.model.SPLITS, split)
        landed = self.read(span, [*columns_of(model), model.LABEL, *self.present(also)])
        rows = landed.filter(pc.is_valid(landed[model.LABEL]))
        label = rows[model.LABEL].to_numpy()
        if len(label) == 0 or label.all() or not label.any():
            what = f"only rows whose {model.LABEL} is {bool(label[0])}" if len(label) else "no labelled rows"
            raise ModelError(f"{self}: {what} in the {split} split, {span[0]} to {span[1]}. {self._holds()}")
        keys = rows.select(list(model.KEY))
        return Labelled(self.frame(rows), label, span, landed.num_rows - len(label), _sha256(keys))

    def frame(self, rows: pa.Table) -> pd.DataFrame:
        """The rows as a model takes them: no label, numbers and booleans as float64."""
        import pyarrow as pa

        fields = [field for field in rows.schema if field.name != self.model.LABEL]
        floats = [pa.field(f.name, pa.float64()) if _is_number(f.type) else f for f in fields]
        frame: pd.DataFrame = rows.select([field.name for field in fields]).cast(pa.schema(floats)).to_pandas()
        return frame

    def present(self, names: Iterable[str]) -> list[str]:
        """Those of these columns that the table has."""
        there = self.log.columns()
        return [name for name in names if name in there]

    def _holds(self) -> str:
        import pyarrow.compute as pc

        rows = self.read(None, [self.model.TIME, self.model.LABEL])
        days, labelled = pc.min_max(rows[self.model.TIME]).as_py(), pc.count(rows[self.model.LABEL]).as_py()
        if not rows.num_rows:
            return "The table is empty: land some data and build it (`lakehouse run`)."
        return (
            f"The table holds {rows.num_rows:,} rows, {labelled:,} of them labelled, with {self.model.TIME} from "
            f"{days['min']} to {days['max']}: build the missing days (`lakehouse run`) or change the model's SPLITS."
        )


def columns_of(model: Model) -> list[str]:
    """Every column that the model reads, but for the label."""
    return list(dict.fromkeys((*model.KEY, model.TIME, *model.FEATURES, *model.BASELINE_FEATURES)))


def open_features(model: Model, lake: Location, version: int | None = None) -> Features:
    """The model's feature table pinned at ``version``, the latest by default.

    Raises:
        ModelError: there is no such table or version, or it lacks a column that the model needs.
        LedgerError: the table's log is damaged.
    """
    from lakehouse.log import open_log

    path = lake.joinpath(*model.FEATURE_TABLE.split("."))
    log = open_log(path)
    if log is None:
        raise ModelError(
            f"{model.NAME}: its feature table {model.FEATURE_TABLE} is not there ({path}). Build it first: `lakehouse run`."
        )
    if version is not None and not 0 <= version <= log.version:
        raise ModelError(f"{model.FEATURE_TABLE} has no version {version}; its latest is {log.version}.")
    if version not in (None, log.version):
        log = open_log(path, version)
        assert log is not None
    there = log.columns()
    missing = [name for name in (*columns_of(model), model.LABEL) if name not in there]
    if missing:
        raise ModelError(
            f"{model.FEATURE_TABLE} version {log.version} lacks what {model.NAME} reads: {', '.join(missing)}. It has: "
            f"{', '.join(there)}. Build the table anew from today's declaration (`lakehouse run --full-refresh`), or "
            "change the model's columns."
        )
    return Features(model, log)


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    of = pa.types
    return bool(of.is_boolean(kind) or of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind))


def _sha256(rows: pa.Table) -> str:
    """A hash of the rows' values, in their order, that does not depend on how Arrow lays them out."""
    import pyarrow as pa
    import pyarrow.csv

    sink = pa.BufferOutputStream()
    pa.csv.write_csv(rows, sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()
