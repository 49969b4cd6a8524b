"""Training the champion again on later days, so that nothing but the days differs. Nothing here trains or starts Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import tracking_client
from lakehouse.ml.monitoring import MonitoringReport, later_splits
from lakehouse.ml.reproduce import Recipe, open_recipe
from lakehouse.ml.task import Model, Splits
from lakehouse.ml.training import TunedParams


@dataclass(frozen=True)
class Retraining:
    """What `lakehouse.ml.training.train` takes: the champion's learner, as if its task declared the later splits; the parameters and
    the seed of the champion's own run; the version of the feature table that was watched."""

    learner: str
    model: Model
    tuned: TunedParams
    seed: int
    version: int


def plan_retraining(report: MonitoringReport, models: Mapping[str, Model], *, tracking_uri: str) -> Retraining | str:
    """How the champion is trained anew, or in words why it is not: no days are left, or it was trained so already and lost.

    Raises:
        ModelError: the champion's run does not say how it was made, or MLflow cannot be used.
    """
    champion, splits = report.champion, later_splits(report)
    if splits is None:
        return (
            f"to leave as many days to choose by as the task's splits do, no labelled day up to {report.span[1]} is left to learn "
            f"from that version {champion.version} has not learned from (to {report.trained_until})."
        )
    recipe = open_recipe(champion.run_id, tracking_uri)
    if recipe.learner not in models:
        raise ModelError(f"It was made by {recipe.learner!r}, which `models` in conf/base.yml does not name.")
    if lost := _find_earlier_attempt(report, recipe, splits):
        return lost
    tuned = TunedParams(recipe.recorded.get("study", ""), recipe.recorded["params"])
    model = with_splits(models[recipe.learner], splits)
    return Retraining(recipe.learner, model, tuned, recipe.recorded["seed"], report.features.version)


def with_splits(model: Model, splits: Splits) -> Model:
    """The model as if its task declared these splits."""
    named = {name: getattr(model, name) for name in dir(Model) if not name.startswith("_")}
    named |= {"__name__": model.__name__, "TASK": replace(model.TASK, splits=splits)}
    return cast("Model", SimpleNamespace(**named))


def _find_earlier_attempt(report: MonitoringReport, recipe: Recipe, splits: Splits) -> str:
    """What became of a version that was trained so already, which is not the champion; "" where there is none.

    MLflow has every parameter of a run as text.
    """
    features, models_own = (
        report.features,
        {f"model_{name}": str(one) for name, one in recipe.recorded["params"].items()},
    )
    rows = {
        "learner": recipe.learner, "seed": str(recipe.recorded["seed"]), "feature_table_id": features.table_id,
        "delta_version": str(features.version), "train_from": splits.train[0], "train_until": splits.train[1],
        "validation_from": splits.validation[0], "validation_until": splits.validation[1],
    }  # fmt: skip
    with tracking_client(recipe.tracking_uri) as client:
        for entry in client.search_model_versions(f"name = '{features.task.name}'"):
            if entry.tags.get("delta_version") != rows["delta_version"]:
                continue
            run: Any = client.get_run(entry.run_id).data
            own = {name: value for name, value in run.params.items() if name.startswith("model_")}
            if "decision" in run.tags and own == models_own and rows.items() <= run.params.items():
                return (
                    f"version {entry.version} has learned from {splits.train[0]} to {splits.train[1]} of {features} with the same "
                    f"parameters, and became {run.tags['decision']}: {run.tags['decision_reason']}"
                )
    return ""
