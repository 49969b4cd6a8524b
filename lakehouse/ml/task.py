"""A task, and what a module must hold to learn it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lakehouse.ml.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from lakehouse.ml.dataset import LabelledRows

SplitName = Literal["train", "validation", "test"]
Span = tuple[str, str]
# Told how a model does after each step of its fitting: a step's number, and values by name.
Curve = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Splits:
    """Spans of days as ISO dates, both ends included: to train on, to choose by, to report once."""

    train: Span
    validation: Span
    test: Span


@dataclass(frozen=True)
class Task:
    """What models compete for: the label, a boolean of a feature table, that is to be predicted for each of its keys.

    ``name`` is that of the model in the registry; ``time`` a date column of the table; ``predictions``, ``quality`` and
    ``drift`` are the tables that scores, what became of them and how the features moved are written to.
    """

    name: str
    feature_table: str
    predictions_table: str
    quality_table: str
    drift_table: str
    key: tuple[str, ...]
    time_column: str
    label_column: str
    splits: Splits
    limits: Limits = field(default_factory=Limits)


class Model(Protocol):
    """What a module must hold to be trained and scored. One that is to be tuned, too, also has a function ``space(trial)``, which
    draws parameters for `fit` from an Optuna trial (``trial.suggest_float`` and the like).

    Frames hold the features, the key and the time. Integers, booleans and decimals are float64 (missing as NaN), whatever some
    rows happen to lack, so that a model sees the same types every time.
    """

    @property
    def __name__(self) -> str: ...
    @property
    def TASK(self) -> Task: ...
    @property
    def FEATURES(self) -> tuple[str, ...]: ...
    @property
    def BASELINE_FEATURES(self) -> tuple[str, ...]: ...
    @property
    def CANDIDATES(self) -> Sequence[Mapping[str, Any]]:
        """Parameters for `fit` to try; the candidate with the lowest Brier score on the validation split is kept."""

    @property
    def REQUIREMENTS(self) -> tuple[str, ...]:
        """The packages that loading and predicting take."""

    @property
    def CODE(self) -> tuple[str, ...]:
        """The project's packages that loading and predicting take, beside the platform's."""

    @property
    def ON_SPARK(self) -> bool:
        """Whether `fit` needs a Spark session (`Rows.distributed`)."""

    def fit(
        self,
        train: LabelledRows,
        validation: LabelledRows,
        *,
        features: tuple[str, ...],
        params: Mapping[str, Any],
        seed: int,
        curve: Curve,
    ) -> Any:
        """A fitted model, the same for the same rows and seed; ``choose`` is for stopping early."""

    def predict(self, fitted: Any, frame: pd.DataFrame) -> np.ndarray:
        """The label's probability for each row."""

    def input_columns(self, fitted: Any) -> tuple[str, ...]:
        """The columns that a fitted model was given: an older one's may differ from FEATURES of today."""

    def save(self, fitted: Any, folder: Path) -> None:
        """Write the fitted model to files of an empty folder, none of them a pickle."""

    def load(self, folder: Path) -> Any:
        """What `save` wrote. Raises whatever it likes on files that were cut short or forged, but runs nothing from them."""


def columns_of(model: Model) -> list[str]:
    """Every feature that the model or its baseline reads."""
    return list(dict.fromkeys((*model.FEATURES, *model.BASELINE_FEATURES)))
