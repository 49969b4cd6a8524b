"""Which version of a model is the champion: decided beside the one in service, when a new one is registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from lakehouse import gate
from lakehouse.errors import ModelError, first_line, without_password
from lakehouse.features import Features, Model, Rows, probabilities
from lakehouse.log import open_log
from lakehouse.tracking import CHALLENGER, CHAMPION, MODEL, find_alias, load_version

if TYPE_CHECKING:
    from lakehouse.registering import Training

Alias = Literal["champion", "challenger"]


def settle(
    client: Any, training: Training, models: Mapping[str, Model], features: Features, choose: Rows, version: int
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
            alias, reason = _decide(client, training, models, features, choose, version, champion)
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
    features: Features,
    choose: Rows,
    version: int,
    found: Any | None,
) -> tuple[Alias, str]:
    """Which alias the new version gets beside the champion that was found, and why.

    The rows are the same for both, those of the training's table version. A champion that cannot be evaluated here may well serve
    elsewhere, and stays: or else a package that is missing, or a byte that is changed in the store of artifacts, would take the
    gate away.
    """
    import mlflow

    if found is None:
        return CHAMPION, "there was no champion"
    if int(found.version) == version:  # an earlier try came as far as that
        return CHAMPION, str(found.tags["decision_reason"])
    model = models[training.said["learner"]]
    new = probabilities(model, model.load(training.folder / MODEL), choose)
    try:
        champion = load_version(client, found, models)
        reads = champion.reads()
        if gone := _gone(features, reads):
            return CHAMPION, f"champion version {found.version} can score no more: {gone}"
        old = probabilities(champion.model, champion.fitted, features.split("choose", features.present(reads)))
    except (ModelError, ImportError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {first_line(error)}".rstrip(".")
        return CHALLENGER, (
            f"champion version {found.version} stays, as it cannot be evaluated here: {why}. If it serves nowhere, this version takes "
            f"its place by {_promotion(client, features.task.name, version)}"
        )
    learned_until = client.get_run(found.run_id).data.params["train_until"]
    if learned_until >= choose.span[0]:
        return CHALLENGER, (
            f"champion version {found.version} has learned from days up to {learned_until}, so that the two cannot be compared on "
            f"{choose.span[0]} to {choose.span[1]}: move the task's splits to later days"
        )
    verdict = gate.compare(choose, new, old)
    mlflow.log_metrics({"choose_champion_brier": verdict.old, "gate_low": verdict.low, "gate_high": verdict.high})
    return (CHAMPION if verdict.better else CHALLENGER), verdict.reason(f"champion version {found.version}")


def _gone(features: Features, reads: Iterable[str]) -> str:
    """Says which of these columns the table of today lacks; empty where it has all of them."""
    today = open_log(features.log.path)
    assert today, "rows of it were read"
    there = today.columns()
    lacks = [name for name in reads if name not in there]
    return f"{features.task.feature_table} lacks what it reads, {', '.join(lacks)}" if lacks else ""


def _promotion(client: Any, name: str, version: int) -> str:
    """The command that makes a version the champion, whatever the gate says."""
    uri = without_password(client.tracking_uri)
    return (
        f"""python -c "from mlflow import MlflowClient; MlflowClient('{uri}').set_registered_model_alias('{name}', '{CHAMPION}', """
        f"""'{version}')\""""
    )
