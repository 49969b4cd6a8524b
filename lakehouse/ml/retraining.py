"""Plans to train the champion again, with nothing but later days changed. Nothing here trains or starts Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.monitoring import MonitoringReport, shift_splits
from lakehouse.ml.reproduction import Recipe, open_recipe
from lakehouse.ml.task import Model, Splits
from lakehouse.ml.training import TunedParams


@dataclass(frozen=True)
class Retraining:
    """Arguments of `lakehouse.ml.training.train` for a retraining.

    Attributes:
        model: the champion's learner, with the later splits in its task.
        tuned: the parameters of the champion's run.
        seed: the seed of the champion's run.
        version: the monitored version of the feature table.
    """

    learner: str
    model: Model
    tuned: TunedParams
    seed: int
    version: int


def plan_retraining(report: MonitoringReport, models: Mapping[str, Model], *, tracking_uri: str) -> Retraining | str:
    """Plan the champion's retraining.

    Returns:
        The plan, or the reason for none: no later days are left, or the same training was done already and lost.

    Raises:
        ModelError: the champion's run has no recipe, its learner is not among the models, or MLflow cannot be used.
    """
    champion, splits = report.champion, shift_splits(report)
    if splits is None:
        return (
            f"with a validation split as long as the task's, no labelled day up to {report.span[1]} is left to learn "
            f"from that version {champion.version} has not learned from (to {report.trained_until})."
        )
    recipe = open_recipe(champion.run_id, tracking_uri)
    if recipe.learner not in models:
        raise ModelError(
            f"{report.features.task.name} version {champion.version} was made by {recipe.learner!r}, which `models` in "
            "conf/base.yml does not name. Add the learner there."
        )
    if attempt := _find_earlier_attempt(report, recipe, splits):
        return attempt
    tuned = TunedParams(recipe.recorded.get("study", ""), recipe.recorded["params"])
    model = with_splits(models[recipe.learner], splits)
    return Retraining(recipe.learner, model, tuned, recipe.recorded["seed"], report.features.version)


def with_splits(model: Model, splits: Splits) -> Model:
    """Return the model with these splits in its task."""
    attributes = {name: getattr(model, name) for name in dir(Model) if not name.startswith("_")}
    attributes |= {"__name__": model.__name__, "TASK": replace(model.TASK, splits=splits)}
    return cast("Model", SimpleNamespace(**attributes))


def _find_earlier_attempt(report: MonitoringReport, recipe: Recipe, splits: Splits) -> str:
    """Describe the outcome of an earlier training with the same inputs; return "" if there is none."""
    features = report.features
    # MLflow stores every parameter of a run as text.
    model_params = {f"model_{name}": str(value) for name, value in recipe.recorded["params"].items()}
    inputs = {
        "learner": recipe.learner,
        "seed": str(recipe.recorded["seed"]),
        "feature_table_id": features.table_id,
        "delta_version": str(features.version),
        "train_from": splits.train[0],
        "train_until": splits.train[1],
        "validation_from": splits.validation[0],
        "validation_until": splits.validation[1],
    }
    with open_tracking_client(recipe.tracking_uri) as client:
        for entry in client.search_model_versions(f"name = '{features.task.name}'"):
            if entry.tags.get("delta_version") != inputs["delta_version"]:
                continue
            run: Any = client.get_run(entry.run_id).data
            run_params = {name: value for name, value in run.params.items() if name.startswith("model_")}
            if "decision" in run.tags and run_params == model_params and inputs.items() <= run.params.items():
                return (
                    f"version {entry.version} has learned from {splits.train[0]} to {splits.train[1]} of {features} "
                    f"with the same parameters, and became {run.tags['decision']}: {run.tags['decision_reason']}"
                )
    return ""
