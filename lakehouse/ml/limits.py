"""How far a model in service may move from what it was when it was chosen, and what is found where it moved further."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_NAMED = 8


@dataclass(frozen=True)
class Limits:
    """The limits of a task's models, over all the days that are looked at.

    ``roc_auc_drop`` and ``brier_skill_drop`` are below what the model reached on its validation split. The skill is 1 - Brier score
    / that of the label's own rate: the Brier score itself rises and falls with the rate, however well a model does.
    ``calibration_error`` is the mean distance between predicted and observed share. ``psi`` is the least that counts as drift of
    a feature: where the training days moved further among themselves, that is the feature's limit. ``missing_rise`` is how much
    larger a feature's share of missing values may be than it was in training.
    """

    roc_auc_drop: float = 0.05
    brier_skill_drop: float = 0.1
    calibration_error: float = 0.05
    psi: float = 0.25
    missing_rise: float = 0.2


@dataclass(frozen=True)
class FeatureDrift:
    """A feature over the days that are looked at, against the training days.

    ``psi`` is None where it has no value at all; ``psi_limit`` is the least that counts as drift; the shares are of rows that
    miss it, now and in training.
    """

    feature: str
    psi: float | None
    psi_limit: float
    missing_share: float
    training_missing_share: float

    @property
    def has_drifted(self) -> bool:
        return self.psi is not None and self.psi > self.psi_limit


@dataclass(frozen=True)
class Finding:
    """A limit that was broken: what (``roc_auc``, ``brier_skill``, ``calibration_error``, ``drift``, ``missing``), and in words."""

    limit: str
    message: str


def check_results(limits: Limits, validation: Mapping[str, float], current: Mapping[str, float]) -> list[Finding]:
    """What results break the limits, where they are known; ``chosen`` are those of the validation split."""
    found = []
    drops = {"roc_auc": ("ROC AUC", limits.roc_auc_drop), "brier_skill": ("Brier skill", limits.brier_skill_drop)}
    for name, (words, limit) in drops.items():
        drop = validation[name] - current[name]
        if drop > limit:
            said = f"{words} is {current[name]:.4f}, {drop:.4f} below {validation[name]:.4f} of the validation split (limit {limit:g})"
            found.append(Finding(name, said))
    error = current["calibration_error"]
    if error > limits.calibration_error:
        said = (
            f"predicted and observed shares are {error:.4f} apart (limit {limits.calibration_error:g}): it says "
            f"{current['mean_probability']:.1%} where {current['label_rate']:.1%} came true"
        )
        found.append(Finding("calibration_error", said))
    return found


def check_features(limits: Limits, drifts: Iterable[FeatureDrift]) -> list[Finding]:
    """What features break the limits, one finding for those that drifted and one for those that are missing more often."""
    drifts = list(drifts)
    found = []
    drifted = [one for one in drifts if one.has_drifted]
    if drifted := sorted(
        drifted, key=lambda one: one.psi_limit / (one.psi or 1)
    ):  # the furthest beyond its limit first
        said = [f"{one.feature} (PSI {one.psi:.2f}, limit {one.psi_limit:.2f})" for one in drifted]
        found.append(Finding("drift", f"{len(drifted)} of {len(drifts)} features drifted: {_join_names(said)}"))
    missing = [one for one in drifts if one.missing_share - one.training_missing_share > limits.missing_rise]
    if missing := sorted(missing, key=lambda one: one.training_missing_share - one.missing_share):
        said = [
            f"{one.feature} ({one.missing_share:.0%} of rows, {one.training_missing_share:.0%} in training)"
            for one in missing
        ]
        more = f"missing more often than {limits.missing_rise:.0%} above training"
        found.append(Finding("missing", f"{len(missing)} of {len(drifts)} features {more}: {_join_names(said)}"))
    return found


def _join_names(said: list[str]) -> str:
    rest = len(said) - MAX_NAMED
    return ", ".join(said[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
