"""Promotion of a new model version to champion, by comparison with the current champion at registration.

The gate compares both models on rows that neither was fitted to: the rows of the validation split. Candidates were
selected and networks stopped by these rows, mostly the champion's as well. So the scores are optimistic, the more so
the more was tried, and the margin is not corrected for that. The final measure is the test split, by which nothing is
selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from filelock import FileLock

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import ModelError, get_first_line, redact_password
from lakehouse.ml.dataset import FeatureTable, LabelledRows, predict_probabilities
from lakehouse.ml.mlflow_client import CHALLENGER, CHAMPION, MODEL, find_alias, load_version
from lakehouse.ml.task import Model

if TYPE_CHECKING:
    import numpy as np

    from lakehouse.ml.training_record import Training

RESAMPLES: Final = 2_000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Verdict:
    """Two Brier scores on the same rows, and the interval of their difference, new less old."""

    new: float
    old: float
    low: float
    high: float
    sample: str

    @property
    def is_better(self) -> bool:
        """Return whether the whole interval is below zero."""
        return self.high < 0

    def reason(self, other: str) -> str:
        verb = "is" if self.is_better else "is not surely"
        return (
            f"Brier score {self.new:.6f} on {self.sample} {verb} below {self.old:.6f} of {other}: the difference is "
            f"between {self.low:+.6f} and {self.high:+.6f} in {CONFIDENCE:.0%} of samples of the days"
        )


def compare(validation: LabelledRows, new: np.ndarray, old: np.ndarray, seed: int = 0) -> Verdict:
    """Compare two models' probabilities for the validation rows, in their order.

    The interval is a percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13) over
    whole days. The rows of a day share their weather and their luck. Drawn one by one, they would make a lucky day look
    like a better model. A single day decides nothing.
    """
    import numpy as np
    from scipy.stats import bootstrap

    errors = [(np.asarray(probability) - validation.label) ** 2 for probability in (new, old)]
    _, day = np.unique(validation.days, return_inverse=True)
    gain, rows = np.bincount(day, errors[0] - errors[1]), np.bincount(day)
    low, high = -np.inf, np.inf
    if len(rows) > 1:
        interval = bootstrap(
            (gain, rows),
            lambda gain, rows, axis: gain.sum(axis) / rows.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=seed,
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    sample = f"{validation.rows:,} rows of {validation.span[0]} to {validation.span[1]}"
    return Verdict(float(errors[0].mean()), float(errors[1].mean()), low, high, sample)


Alias = Literal["champion", "challenger"]


def assign_alias(
    client: Any,
    training: Training,
    models: Mapping[str, Model],
    features: FeatureTable,
    validation: LabelledRows,
    version: int,
) -> tuple[Alias, str]:
    """Decide the alias of the new version and set it.

    On one machine, trainings of a task do this one after the other. If another machine sets another champion meanwhile,
    the decision is repeated. A change between the last check and the next request is not noticed.

    Returns:
        The alias, and the reason for it.
    """
    import mlflow

    name = features.task.name
    with FileLock(training.folder.parents[1] / f".{name}.lock"):
        champion = find_alias(client, name, CHAMPION)
        while True:
            alias, reason = _decide(client, training, models, features, validation, version, champion)
            mlflow.set_tags({"decision": alias, "decision_reason": reason})
            client.set_model_version_tag(name, str(version), "decision_reason", reason)
            compared, champion = champion, find_alias(client, name, CHAMPION)
            if (champion and champion.version) == (compared and compared.version):
                break
        # Last: an interrupted training must not leave a champion without its tags.
        client.set_registered_model_alias(name, alias, str(version))
    return alias, reason


def _decide(
    client: Any,
    training: Training,
    models: Mapping[str, Model],
    features: FeatureTable,
    validation: LabelledRows,
    version: int,
    champion_entry: Any | None,
) -> tuple[Alias, str]:
    """Decide the alias of the new version beside the current champion, and give the reason.

    Both models score the same rows, those of the training's table version. A champion that cannot be evaluated here
    stays, as it may well serve elsewhere. Otherwise a missing package or a damaged artifact would disable the gate.
    """
    if champion_entry is None:
        return CHAMPION, "there was no champion"
    if int(champion_entry.version) == version:  # an earlier attempt set the alias already
        return CHAMPION, str(champion_entry.tags["decision_reason"])
    model, champion = models[training.record["learner"]], f"champion version {champion_entry.version}"
    new = predict_probabilities(model, model.load(training.folder / MODEL), validation)
    try:
        loaded = load_version(client, champion_entry, models)
        columns = loaded.get_input_columns()
        if missing := _find_missing_columns(features, columns):
            table = features.task.feature_table
            return CHAMPION, f"{champion} can score no more: {table} lacks its columns {', '.join(missing)}"
        rows = features.split("validation", features.filter_existing_columns(columns))
        old = predict_probabilities(loaded.model, loaded.fitted, rows)
    except (ModelError, ImportError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        fault = f"{type(error).__name__}: {get_first_line(error)}".rstrip(".")
        return CHALLENGER, (
            f"{champion} stays, as it cannot be evaluated here: {fault}. If {champion} serves nowhere, promote this "
            f"version by {_format_promotion_command(client, features.task.name, version)}"
        )
    learned_until = client.get_run(champion_entry.run_id).data.params["train_until"]
    if learned_until >= validation.span[0]:
        return CHALLENGER, (
            f"{champion} has learned from days up to {learned_until}, which overlap the validation split "
            f"{' to '.join(validation.span)}: move the task's splits to later days"
        )
    verdict = compare(validation, new, old)
    _log_verdict(verdict)
    return (CHAMPION if verdict.is_better else CHALLENGER), verdict.reason(champion)


def _log_verdict(verdict: Verdict) -> None:
    import mlflow

    mlflow.log_metrics({"validation_champion_brier": verdict.old, "gate_low": verdict.low, "gate_high": verdict.high})


def _find_missing_columns(features: FeatureTable, columns: Iterable[str]) -> list[str]:
    """Return the given columns that the latest version of the table lacks."""
    latest = open_log(features.log.path)
    assert latest, "the table has rows, so it has a log"
    existing = latest.read_columns()
    return [name for name in columns if name not in existing]


def _format_promotion_command(client: Any, name: str, version: int) -> str:
    """Return the command that promotes a version to champion in spite of the gate."""
    uri = redact_password(client.tracking_uri)
    set_alias = f"MlflowClient('{uri}').set_registered_model_alias('{name}', '{CHAMPION}', '{version}')"
    return f'python -c "from mlflow import MlflowClient; {set_alias}"'
