"""Trainings on their way from this machine into MLflow's registry.

Registering a training again goes on where it stopped, so that each becomes one version, however often a server failed on the way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import ModelError
from lakehouse.ml.dataset import FeatureTable, LabelledRows
from lakehouse.ml.mlflow_client import BASELINE, LEARNER_TAG, MODEL, tracking_client
from lakehouse.ml.promotion import assign_alias
from lakehouse.ml.task import Model
from lakehouse.ml.training_record import TrainResult
from lakehouse.project import find_root

if TYPE_CHECKING:
    from lakehouse.ml.training_record import Training

TRAINING_TAG: Final = "training"
CANDIDATE_TAG: Final = "candidate_of"
EXAMPLE_ROWS = 5
# What MLflow's servers take in one request.
MAX_METRICS, MAX_PARAMS = 1000, 100


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
        rows: tuple[FeatureTable, LabelledRows],
        progress: Callable[[str], None],
    ) -> TrainResult:
        """Log a training, make it a version of the model, and give up its folder. ``rows`` are its own, `Training.rows`.

        The new version becomes `champion` where there is none, where `lakehouse.ml.promotion` finds it better than the champion on the
        same held-out rows, or where the table of today lacks a column that the champion reads; otherwise it becomes `challenger`.

        Raises:
            ModelError: MLflow cannot be used; the folder is still there.
        """
        try:
            with tracking_client(self.tracking_uri) as client:
                result = self._register(client, training, models, *rows, progress)
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
        features: FeatureTable,
        validation: LabelledRows,
        progress: Callable[[str], None],
    ) -> TrainResult:
        import mlflow

        said, name = training.record, features.task.name
        progress("logging to MLflow")
        experiment = get_or_create_experiment(client, self.experiment, self.artifact_root)
        run, version = _find_or_create_run(client, experiment, training)
        with mlflow.start_run(run_id=run.info.run_id):
            if version is None:
                logged = _log(training, models[said["learner"]], features, validation)
                _log_candidates(client, experiment, run.info.run_id, training)
                version = _create_version(client, logged, run.info.run_id, features, said)
            progress("comparing with the champion")
            number = int(version.version)
            alias, reason = assign_alias(client, training, models, features, validation, number)
        _end_other_runs(client, experiment, said["id"], run.info.run_id)
        fields = {name: said[name] for name in ("delta_version", "params", "rows", "metrics", "baseline")}
        return TrainResult(name, number, alias, reason, run.info.run_id, **fields)


def _find_or_create_run(client: Any, experiment: str, training: Training) -> tuple[Any, Any | None]:
    """The training's run, and its version of the model where an earlier try came as far as that."""
    said = training.record
    for run in _search_runs(client, experiment, said["id"]):
        if version := _keep_one_version(client, run.info.run_id):
            return run, version
    tags = {
        TRAINING_TAG: said["id"],
        "delta_version": str(said["delta_version"]),
        "revision": said["revision"],
        "mlflow.source.name": "lakehouse train",
        "mlflow.source.git.commit": said["revision"],
    }
    name = f"{said['model']} from {said['feature_table']} version {said['delta_version']}"
    return client.create_run(experiment, int(said["started_at"] * 1000), tags, name), None


def _search_runs(client: Any, experiment: str, training: str, tag: str = TRAINING_TAG) -> Any:
    return client.search_runs([experiment], f"tags.{tag} = '{training}'")


def _end_other_runs(client: Any, experiment: str, training: str, run_id: str) -> None:
    """End the runs of tries that were cut short, and of a request that MLflow's client sent again."""
    for run in (
        *_search_runs(client, experiment, training),
        *_search_runs(client, experiment, training, CANDIDATE_TAG),
    ):
        belongs_to = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
        if belongs_to != run_id and run.info.status != "FAILED":
            client.set_terminated(run.info.run_id, "FAILED")


def get_or_create_experiment(client: Any, name: str, artifact_root: str) -> str:
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


def _log(training: Training, model: Model, features: FeatureTable, validation: LabelledRows) -> Any:
    """Everything about a training under the active run; returns the model as logged."""
    import mlflow
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    class Pinned(DeltaDatasetSource):
        """MLflow's own leaves out a version that is 0, so that the latest would be loaded in its place."""

        def to_dict(self) -> dict[Any, Any]:
            return {**super().to_dict(), "delta_table_version": self.delta_table_version}

    said = training.record
    source = Pinned(path=str(features.log.path), delta_table_version=features.version)
    for one in said["inputs"]:
        dataset = MetaDataset(source, name=features.task.feature_table, digest=one["digest"])  # type: ignore[abstract]
        tags = {"delta_version": str(features.version), "rows": str(one["rows"])}
        mlflow.log_input(dataset, context=one["context"], tags=tags)
    mlflow.log_params(said["logged_params"])
    mlflow.log_metrics(said["logged_metrics"])
    mlflow.log_artifacts(str(training.folder / "artifacts"))
    mlflow.log_artifacts(str(training.folder / BASELINE), BASELINE)
    return _log_model(training, model, validation)


def _log_model(training: Training, model: Model, validation: LabelledRows) -> Any:
    """Store the model's files under the active run, with the code that MLflow itself would load them by."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    example = next(validation.frames())[0][list(model.FEATURES)].head(EXAMPLE_ROWS)
    fitted = model.load(training.folder / MODEL)
    return mlflow.pyfunc.log_model(
        name=MODEL,
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={MODEL: str(training.folder / MODEL)},
        code_paths=[str(files("lakehouse")), *(str(find_root() / name) for name in model.CODE)],
        signature=infer_signature(example, model.predict(fitted, example)),
        input_example=example,
        # Given, because MLflow would otherwise start another process to find them out.
        pip_requirements=[f"{name}=={installed(name)}" for name in ("mlflow", "pandas", *model.REQUIREMENTS)],
    )


def _log_candidates(client: Any, experiment: str, parent: str, training: Training) -> None:
    """A run below the training's own for each candidate, with what its library said of it."""
    tags = {CANDIDATE_TAG: training.record["id"]}
    for place, one in enumerate(training.record["candidates"], start=1):
        run = log_child_run(
            client, experiment, parent, f"candidate {place}", tags, one, int(training.record["started_at"] * 1000)
        )
        client.set_terminated(run)


def log_child_run(
    client: Any,
    experiment: str,
    parent: str,
    name: str,
    tags: Mapping[str, str],
    logged: Mapping[str, Any],
    started_ms: int,
) -> str:
    """A run below another, not ended yet; returns its id.

    ``said`` has params by name, and metrics by name as (step, value); ``began`` is in milliseconds since 1970.
    """
    from mlflow.entities import Metric, Param

    run: str = client.create_run(experiment, started_ms, {"mlflow.parentRunId": parent, **tags}, name).info.run_id
    metrics = [
        Metric(name, value, started_ms, step) for name, all_of in logged["metrics"].items() for step, value in all_of
    ]
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run, metrics=metrics[start : start + MAX_METRICS])
    params = [Param(name, str(value)) for name, value in logged["params"].items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run, params=params[start : start + MAX_PARAMS])
    return run


def _create_version(client: Any, logged: Any, run_id: str, features: FeatureTable, record: Mapping[str, Any]) -> Any:
    from mlflow import MlflowException

    name = features.task.name
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {LEARNER_TAG: record["learner"], "delta_version": str(features.version), "revision": record["revision"]}
    client.create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        description=f"{record['learner']} trained on {features}, code {record['revision']}.",
        tags=tags | {f"{part}_sha256": value for part, value in record["sha256"].items()},
    )
    return _keep_one_version(client, run_id)


def _keep_one_version(client: Any, run_id: str) -> Any | None:
    """The run's version of the model. MLflow's client asks again where an answer is lost, and makes one more."""
    versions = sorted(client.search_model_versions(f"run_id = '{run_id}'"), key=lambda one: int(one.version))
    for again in versions[1:]:
        client.delete_model_version(again.name, again.version)
    return versions[0] if versions else None
