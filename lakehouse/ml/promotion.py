"""Which version of a model is the champion: decided beside the one in service, when a new one is registered.

The gate: is a new model better than the one in service, on rows that neither was fitted to? These are the rows of the choose
split, by which candidates were chosen and networks stopped, the champion's mostly as well. That flatters who was chosen by them,
the more the more was tried: the margin is not corrected for it, and the test split, which nothing is chosen by, has the last
word.
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
        """Whether the whole interval says so."""
        return self.high < 0

    def reason(self, other: str) -> str:
        found = "is" if self.is_better else "is not surely"
        return (
            f"Brier score {self.new:.6f} on {self.sample} {found} below {self.old:.6f} of {other}: the difference is between "
            f"{self.low:+.6f} and {self.high:+.6f} in {CONFIDENCE:.0%} of samples of the days"
        )


def compare(validation: LabelledRows, new: np.ndarray, old: np.ndarray, seed: int = 0) -> Verdict:
    """Compare two models' probabilities for the rows held out, in their order.

    The interval is a percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13) over whole days:
    the rows of a day share their weather and their luck, so that drawing them one by one would show a better model where there
    is only a lucky day. A single day decides nothing.
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
    said = f"{validation.rows:,} rows of {validation.span[0]} to {validation.span[1]}"
    return Verdict(float(errors[0].mean()), float(errors[1].mean()), low, high, said)


Alias = Literal["champion", "challenger"]


def assign_alias(
    client: Any,
    training: Training,
    models: Mapping[str, Model],
    features: FeatureTable,
    validation: LabelledRows,
    version: int,
) -> tuple[Alias, str]:
    """Decide which alias the new version gets, and give it; returns the alias, and why.

    One training of a task at a time does this on this machine. Where one on another machine makes its version the champion
    meanwhile, it is decided anew; only one that does so between the last look and the next request is not seen.
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
        # Last, so that a training cut short never leaves a champion half described.
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
    """Which alias the new version gets beside the champion that was found, and why.

    The rows are the same for both, those of the training's table version. A champion that cannot be evaluated here may well serve
    elsewhere, and stays: or else a package that is missing, or a byte that is changed in the store of artifacts, would take the
    gate away.
    """
    import mlflow

    if champion_entry is None:
        return CHAMPION, "there was no champion"
    if int(champion_entry.version) == version:  # an earlier try came as far as that
        return CHAMPION, str(champion_entry.tags["decision_reason"])
    model = models[training.record["learner"]]
    new = predict_probabilities(model, model.load(training.folder / MODEL), validation)
    try:
        champion = load_version(client, champion_entry, models)
        reads = champion.input_columns()
        if gone := _describe_missing_columns(features, reads):
            return CHAMPION, f"champion version {champion_entry.version} can score no more: {gone}"
        old = predict_probabilities(
            champion.model, champion.fitted, features.split("validation", features.existing_columns(reads))
        )
    except (ModelError, ImportError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {get_first_line(error)}".rstrip(".")
        return CHALLENGER, (
            f"champion version {champion_entry.version} stays, as it cannot be evaluated here: {why}. If it serves nowhere, this version takes "
            f"its place by {_promotion_command(client, features.task.name, version)}"
        )
    learned_until = client.get_run(champion_entry.run_id).data.params["train_until"]
    if learned_until >= validation.span[0]:
        return CHALLENGER, (
            f"champion version {champion_entry.version} has learned from days up to {learned_until}, so that the two cannot be compared on "
            f"{validation.span[0]} to {validation.span[1]}: move the task's splits to later days"
        )
    verdict = compare(validation, new, old)
    mlflow.log_metrics({"validation_champion_brier": verdict.old, "gate_low": verdict.low, "gate_high": verdict.high})
    return (CHAMPION if verdict.is_better else CHALLENGER), verdict.reason(f"champion version {champion_entry.version}")


def _describe_missing_columns(features: FeatureTable, reads: Iterable[str]) -> str:
    """Says which of these columns the table of today lacks; empty where it has all of them."""
    today = open_log(features.log.path)
    assert today, "rows of it were read"
    there = today.columns()
    lacks = [name for name in reads if name not in there]
    return f"{features.task.feature_table} lacks what it reads, {', '.join(lacks)}" if lacks else ""


def _promotion_command(client: Any, name: str, version: int) -> str:
    """The command that makes a version the champion, whatever the gate says."""
    uri = redact_password(client.tracking_uri)
    return (
        f"""python -c "from mlflow import MlflowClient; MlflowClient('{uri}').set_registered_model_alias('{name}', '{CHAMPION}', """
        f"""'{version}')\""""
    )
