"""Limits on how far a model in service may move from its validation results, and findings beyond those limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_NAMED = 8


@dataclass(frozen=True)
class Limits:
    """The limits of a task's models, over all monitored days together.

    Attributes:
        roc_auc_drop: the largest drop below the model's ROC AUC on its validation split.
        brier_skill_drop: the largest drop below its Brier skill on its validation split. The skill is 1 - Brier score /
            the Brier score of the label's rate. The Brier score itself rises and falls with the rate, whatever the
            model.
        calibration_error: the largest mean distance between predicted and observed share.
        psi: the smallest PSI that counts as drift of a feature. A feature that moved further within its training days
            has that as its limit.
        missing_rise: the largest rise of a feature's share of missing values since training.
    """

    roc_auc_drop: float = 0.05
    brier_skill_drop: float = 0.1
    calibration_error: float = 0.05
    psi: float = 0.25
    missing_rise: float = 0.2


@dataclass(frozen=True)
class FeatureDrift:
    """A feature over the monitored days, against the training days.

    Attributes:
        psi: None if the feature has no value at all.
        psi_limit: the smallest PSI that counts as drift.
        missing_share: the share of rows without a value.
        training_missing_share: the same share in training.
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
    """A value beyond its limit.

    Attributes:
        limit: one of roc_auc, brier_skill, calibration_error, drift and missing.
    """

    limit: str
    message: str


def check_results(limits: Limits, validation: Mapping[str, float], current: Mapping[str, float]) -> list[Finding]:
    """Compare current metrics with those of the validation split, and return the findings."""
    findings = []
    drops = {"roc_auc": ("ROC AUC", limits.roc_auc_drop), "brier_skill": ("Brier skill", limits.brier_skill_drop)}
    for name, (title, limit) in drops.items():
        drop = validation[name] - current[name]
        if drop > limit:
            message = (
                f"{title} is {current[name]:.4f}, {drop:.4f} below {validation[name]:.4f} of the validation split "
                f"(limit {limit:g})"
            )
            findings.append(Finding(name, message))
    error = current["calibration_error"]
    if error > limits.calibration_error:
        message = (
            f"predicted and observed shares are {error:.4f} apart (limit {limits.calibration_error:g}): "
            f"{current['mean_probability']:.1%} predicted, {current['label_rate']:.1%} observed"
        )
        findings.append(Finding("calibration_error", message))
    return findings


def check_features(limits: Limits, drifts: Iterable[FeatureDrift]) -> list[Finding]:
    """Return one finding for all drifted features, and one for all that are missing more often than in training."""
    drifts = list(drifts)
    findings = []
    drifted = [drift for drift in drifts if drift.has_drifted]
    drifted.sort(key=lambda drift: drift.psi_limit / (drift.psi or 1))  # the furthest beyond its limit first
    if drifted:
        texts = [f"{drift.feature} (PSI {drift.psi:.2f}, limit {drift.psi_limit:.2f})" for drift in drifted]
        findings.append(Finding("drift", f"{len(drifted)} of {len(drifts)} features drifted: {_join_first(texts)}"))
    missing = [drift for drift in drifts if drift.missing_share - drift.training_missing_share > limits.missing_rise]
    missing.sort(key=lambda drift: drift.training_missing_share - drift.missing_share)
    if missing:
        texts = [
            f"{drift.feature} ({drift.missing_share:.0%} of rows, {drift.training_missing_share:.0%} in training)"
            for drift in missing
        ]
        rise = f"missing more often than {limits.missing_rise:.0%} above training"
        findings.append(Finding("missing", f"{len(missing)} of {len(drifts)} features {rise}: {_join_first(texts)}"))
    return findings


def _join_first(texts: list[str]) -> str:
    rest = len(texts) - MAX_NAMED
    return ", ".join(texts[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
