"""Metrics of probabilities against labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

# The metrics of `evaluate`.
METRICS: Final = ("roc_auc", "average_precision", "brier")


def evaluate(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Compute ROC AUC, average precision and the Brier score (mean squared error of the probability)."""
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    return {
        "roc_auc": float(roc_auc_score(label, probability)),
        "average_precision": float(average_precision_score(label, probability)),
        "brier": float(brier_score_loss(label, probability)),
    }
