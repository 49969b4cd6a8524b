"""Trainings on their way from this machine into MLflow's registry.

A training waits in a folder of its own until MLflow has all of it. Registering one again goes on where it stopped, so that each
becomes one version, however often a server failed on the way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import ModelError
from lakehouse.features import Features, Model, Rows, Splits, Task, columns_of, open_features
from lakehouse.promoting import Alias, settle
from lakehouse.settings import PROJECT
from lakehouse.tracking import BASELINE, LEARNER_TAG, MODEL, tracking

if TYPE_CHECKING:
    from lakehouse.storage import Location

SAID: Final = "training.json"
# What it takes to make a model again, among the files that its run shows.
RECIPE: Final = "recipe.json"
TRAINING_TAG: Final = "training"
CANDIDATE_TAG: Final = "candidate_of"
FITTED_ON: Final = ("train", "choose")
EXAMPLE_ROWS = 5
# What MLflow's servers take in one request.
MOST_METRICS, MOST_PARAMS = 1000, 100


@dataclass(frozen=True)
class TrainResult:
    """What one training made. ``metrics`` and ``baseline`` are those of the choose split, ``rows`` the labelled rows used."""

    model_name: str
    model_version: int
    alias: Alias
    reason: str
    run_id: str
    delta_version: int
    params: Mapping[str, Any]
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """What one training made: folders with the model's files, the baseline's, and those to show, and what it ``said``.

    ``said`` holds what a `TrainResult` does and: id; began, seconds since 1970; for which lake and tracking server, from what, as
    the model was declared, and by which code it was made; the parameters, metrics, inputs and candidates that MLflow is told.
    """

    folder: Path
    said: Mapping[str, Any]

    def save(self, kept: Path) -> Training:
        """The training in a folder below ``kept``, where it appears whole or not at all."""
        (self.folder / SAID).write_text(json.dumps(self.said, indent=1))
        return Training(self.folder.rename(kept / str(self.said["id"])), self.said)

    def set_aside(self) -> Path:
        """Leave it where it does not wait any longer; returns its folder."""
        aside = self.folder.parent / "set-aside"
        aside.mkdir(exist_ok=True)
        return self.folder.rename(aside / self.folder.name)

    def rows(self, model: Model, lake: Location) -> tuple[Features, Rows]:
        """The feature table as it was, and the choose split of the training itself, which need not be the declared one.

        Raises:
            ModelError: what else the model declares is otherwise now, or the version of its table is gone.
        """
        own = self.said["declared"]
        if declared(model) | {"splits": own["splits"]} != own:
            raise ModelError(f"{self.said['learner']} is declared otherwise since.")
        task = replace(model.TASK, splits=splits_then(own, model.TASK))
        features = open_features(task, lake, columns_of(model), self.said["delta_version"])
        if features.table_id != self.said["feature_table_id"]:
            raise ModelError(f"{task.feature_table} was made anew since.")
        return features, features.split("choose", columns_of(model))


def declared(model: Model) -> dict[str, Any]:
    """What a training depends on, as the model's module declares it."""
    task = model.TASK
    splits = {name: list(getattr(task.splits, name)) for name in FITTED_ON}
    features = {name: list(getattr(model, name)) for name in ("FEATURES", "BASELINE_FEATURES")}
    return {**features, "key": list(task.key), "label": task.label, "time": task.time, "splits": splits}


def splits_then(then: Mapping[str, Any], today: Task) -> Splits:
    """The splits of what a model `declared` then, and the report split of today."""
    return Splits(report=today.splits.report, **{name: tuple(then["splits"][name]) for name in FITTED_ON})


def waiting(kept: Path, **said: Any) -> list[Training]:
    """The trainings that MLflow does not have yet and that said so, the oldest first.

    Raises:
        ModelError: a training's file is damaged.
    """
    found = []
    for file in kept.glob(f"*/{SAID}"):
        try:
            found.append(Training(file.parent, json.loads(file.read_text())))
        except ValueError as error:
            raise ModelError(f"{file} is damaged ({error}): move {file.parent} away, or delete it.") from error
    return sorted((one for one in found if says(one, said)), key=lambda one: one.said["began"])


def says(training: Training, what: Mapping[str, Any]) -> bool:
    return all(training.said.get(name) == value for name, value in what.items())


@dataclass(frozen=True)
class Registry:
    """Where trainings go: an experiment of the tracking server or database at ``tracking_uri``.

    ``artifact_root`` is the URI below which a new experiment keeps its files; "" leaves that to the tracking server.
    """

    tracking_uri: str
    artifact_root: str
    experiment: str

    def register(
        self,
        training: Training,
        models: Mapping[str, Model],
        rows: tuple[Features, Rows],
        tell: Callable[[str], None],
    ) -> TrainResult:
        """Log a training, make it a version of the model, and give up its folder. ``rows`` are its own, `Training.rows`.

        The new version becomes `champion` where there is none, where `lakehouse.gate` finds it better than the champion on the
        same held-out rows, or where the table of today lacks a column that the champion reads; otherwise it becomes `challenger`.

        Raises:
            ModelError: MLflow cannot be used; the folder is still there.
        """
        try:
            with tracking(self.tracking_uri) as client:
                result = self._register(client, training, models, *rows, tell)
        except Exception as error:
            error.add_note(
                f"The trained model is kept in {training.folder}: the next `lakehouse train` registers it. Delete the folder to give "
                "it up."
            )
            raise
        shutil.rmtree(training.folder)
        return result

    def _register(
        self,
        client: Any,
        training: Training,
        models: Mapping[str, Model],
        features: Features,
        choose: Rows,
        tell: Callable[[str], None],
    ) -> TrainResult:
        import mlflow

        said, name = training.said, features.task.name
        tell("logging to MLflow")
        experiment = experiment_of(client, self.experiment, self.artifact_root)
        run, version = _started(client, experiment, training)
        with mlflow.start_run(run_id=run.info.run_id):
            if version is None:
                logged = _log(training, models[said["learner"]], features, choose)
                _log_candidates(client, experiment, run.info.run_id, training)
                version = _new_version(client, logged, run.info.run_id, features, said)
            tell("comparing with the champion")
            number = int(version.version)
            alias, reason = settle(client, training, models, features, choose, number)
        _end_others(client, experiment, said["id"], run.info.run_id)
        fields = {name: said[name] for name in ("delta_version", "params", "rows", "metrics", "baseline")}
        return TrainResult(name, number, alias, reason, run.info.run_id, **fields)


def _started(client: Any, experiment: str, training: Training) -> tuple[Any, Any | None]:
    """The training's run, and its version of the model where an earlier try came as far as that."""
    said = training.said
    for run in _runs(client, experiment, said["id"]):
        if version := _only_version(client, run.info.run_id):
            return run, version
    tags = {
        TRAINING_TAG: said["id"],
        "delta_version": str(said["delta_version"]),
        "revision": said["revision"],
        "mlflow.source.name": "lakehouse train",
        "mlflow.source.git.commit": said["revision"],
    }
    name = f"{said['model']} from {said['feature_table']} version {said['delta_version']}"
    return client.create_run(experiment, int(said["began"] * 1000), tags, name), None


def _runs(client: Any, experiment: str, training: str, tag: str = TRAINING_TAG) -> Any:
    return client.search_runs([experiment], f"tags.{tag} = '{training}'")


def _end_others(client: Any, experiment: str, training: str, run_id: str) -> None:
    """End the runs of tries that were cut short, and of a request that MLflow's client sent again."""
    for run in (*_runs(client, experiment, training), *_runs(client, experiment, training, CANDIDATE_TAG)):
        belongs_to = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
        if belongs_to != run_id and run.info.status != "FAILED":
            client.set_terminated(run.info.run_id, "FAILED")


def experiment_of(client: Any, name: str, artifact_root: str) -> str:
    """The id of the experiment, which is made where it is not there."""
    from mlflow import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root or None))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another was quicker, or an answer was lost on the way
    if found.lifecycle_stage != "active":
        raise ModelError(f"MLflow experiment {name!r} was deleted: restore it (`mlflow experiments restore`).")
    return str(found.experiment_id)


def _log(training: Training, model: Model, features: Features, choose: Rows) -> Any:
    """Everything about a training under the active run; returns the model as logged."""
    import mlflow
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    class Pinned(DeltaDatasetSource):
        """MLflow's own leaves out a version that is 0, so that the latest would be loaded in its place."""

        def to_dict(self) -> dict[Any, Any]:
            return {**super().to_dict(), "delta_table_version": self.delta_table_version}

    said = training.said
    source = Pinned(path=str(features.log.path), delta_table_version=features.version)
    for one in said["inputs"]:
        dataset = MetaDataset(source, name=features.task.feature_table, digest=one["digest"])  # type: ignore[abstract]
        tags = {"delta_version": str(features.version), "rows": str(one["rows"])}
        mlflow.log_input(dataset, context=one["context"], tags=tags)
    mlflow.log_params(said["logged_params"])
    mlflow.log_metrics(said["logged_metrics"])
    mlflow.log_artifacts(str(training.folder / "shown"))
    mlflow.log_artifacts(str(training.folder / BASELINE), BASELINE)
    return _log_model(training, model, choose)


def _log_model(training: Training, model: Model, choose: Rows) -> Any:
    """Store the model's files under the active run, with the code that MLflow itself would load them by."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    example = next(choose.frames())[0][list(model.FEATURES)].head(EXAMPLE_ROWS)
    fitted = model.load(training.folder / MODEL)
    return mlflow.pyfunc.log_model(
        name=MODEL,
        python_model=str(Path(__file__).with_name("packaged.py")),
        artifacts={MODEL: str(training.folder / MODEL)},
        code_paths=[str(PROJECT / name) for name in ("lakehouse", *model.CODE)],
        signature=infer_signature(example, model.predict(fitted, example)),
        input_example=example,
        # Given, because MLflow would otherwise start another process to find them out.
        pip_requirements=[f"{name}=={installed(name)}" for name in ("mlflow", "pandas", *model.REQUIREMENTS)],
    )


def _log_candidates(client: Any, experiment: str, parent: str, training: Training) -> None:
    """A run below the training's own for each candidate, with what its library said of it."""
    tags = {CANDIDATE_TAG: training.said["id"]}
    for place, one in enumerate(training.said["candidates"], start=1):
        run = log_below(client, experiment, parent, f"candidate {place}", tags, one, int(training.said["began"] * 1000))
        client.set_terminated(run)


def log_below(
    client: Any, experiment: str, parent: str, name: str, tags: Mapping[str, str], said: Mapping[str, Any], began: int
) -> str:
    """A run below another, not ended yet; returns its id.

    ``said`` has params by name, and metrics by name as (step, value); ``began`` is in milliseconds since 1970.
    """
    from mlflow.entities import Metric, Param

    run: str = client.create_run(experiment, began, {"mlflow.parentRunId": parent, **tags}, name).info.run_id
    metrics = [Metric(name, value, began, step) for name, all_of in said["metrics"].items() for step, value in all_of]
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run, metrics=metrics[start : start + MOST_METRICS])
    params = [Param(name, str(value)) for name, value in said["params"].items()]
    for start in range(0, len(params), MOST_PARAMS):
        client.log_batch(run, params=params[start : start + MOST_PARAMS])
    return run


def _new_version(client: Any, logged: Any, run_id: str, features: Features, said: Mapping[str, Any]) -> Any:
    from mlflow import MlflowException

    name = features.task.name
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {LEARNER_TAG: said["learner"], "delta_version": str(features.version), "revision": said["revision"]}
    client.create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        description=f"{said['learner']} trained on {features}, code {said['revision']}.",
        tags=tags | {f"{part}_sha256": value for part, value in said["sha256"].items()},
    )
    return _only_version(client, run_id)


def _only_version(client: Any, run_id: str) -> Any | None:
    """The run's version of the model. MLflow's client asks again where an answer is lost, and makes one more."""
    versions = sorted(client.search_model_versions(f"run_id = '{run_id}'"), key=lambda one: int(one.version))
    for again in versions[1:]:
        client.delete_model_version(again.name, again.version)
    return versions[0] if versions else None
