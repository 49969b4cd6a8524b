"""The declaration of a task, and the interface of a module that learns it."""

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
# Receives metrics after each step of a fit: the step's number, and values by name.
Curve = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Splits:
    """Spans of days as ISO dates, both ends included: for fitting, for selection, for one final evaluation."""

    train: Span
    validation: Span
    test: Span


@dataclass(frozen=True)
class Task:
    """The prediction of a boolean label of a feature table, for each of its keys.

    Attributes:
        name: the name of the model in the registry.
        predictions_table: the table of scores.
        quality_table: the table of the scores' quality.
        drift_table: the table of the features' drift.
        time_column: a date column of the feature table.
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
    """The interface of a module that can be trained and scored.

    A module that can be tuned also has a function ``space(trial)``, which draws parameters for `fit` from an Optuna
    trial (``trial.suggest_float`` and the like).

    Frames have the features, the key and the time. Integers, booleans and decimals are float64 (missing as NaN), so a
    model always receives the same types, whatever values are missing.
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
        """Return the parameters to try with `fit`; the lowest Brier score on the validation split wins."""

    @property
    def REQUIREMENTS(self) -> tuple[str, ...]:
        """Return the packages that loading and predicting need."""

    @property
    def CODE(self) -> tuple[str, ...]:
        """Return the project's packages that loading and predicting need, beside the platform's."""

    @property
    def ON_SPARK(self) -> bool:
        """Return whether `fit` needs a Spark session (`LabelledRows.read_on_spark`)."""

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
        """Fit a model, the same for the same rows and seed; ``validation`` is only for early stopping."""

    def predict(self, fitted: Any, frame: pd.DataFrame) -> np.ndarray:
        """Return the label's probability for each row."""

    def get_input_columns(self, fitted: Any) -> tuple[str, ...]:
        """Return the columns that the model was fitted on, which may differ from today's FEATURES."""

    def save(self, fitted: Any, folder: Path) -> None:
        """Write the fitted model to files of an empty folder, none of them a pickle."""

    def load(self, folder: Path) -> Any:
        """Load the files of `save`.

        It may raise any error on truncated or forged files, but must run no code from them.
        """


def list_read_columns(model: Model) -> list[str]:
    """Return every feature that the model or its baseline reads."""
    return list(dict.fromkeys((*model.FEATURES, *model.BASELINE_FEATURES)))
