"""Registration of this machine's trainings in MLflow.

A repeated registration continues where the last one stopped. Each training becomes a single version, however often a
server failed meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import ModelError
from lakehouse.ml.dataset import FeatureTable, LabelledRows
from lakehouse.ml.mlflow_client import BASELINE, LEARNER_TAG, MODEL, open_tracking_client
from lakehouse.ml.promotion import assign_alias
from lakehouse.ml.task import Model
from lakehouse.ml.training_record import TrainResult

if TYPE_CHECKING:
    from lakehouse.ml.training_record import Training

TRAINING_TAG: Final = "training"
CANDIDATE_TAG: Final = "candidate_of"
EXAMPLE_ROWS = 5
# The most that an MLflow server accepts in one request.
MAX_METRICS, MAX_PARAMS = 1000, 100


@dataclass(frozen=True)
class Registry:
    """The experiment of trainings on a tracking server or in a database.

    Attributes:
        artifact_root: the URI below which a new experiment stores its files; "" for the tracking server's default.
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
        """Log a training, register it as a version of the model, and delete its folder.

        The new version becomes `champion` if there is none, if `lakehouse.ml.promotion` finds it better than the
        champion on the same validation rows, or if today's table lacks a column that the champion reads. Otherwise it
        becomes `challenger`.

        Args:
            rows: the training's own, from `Training.open_rows`.

        Raises:
            ModelError: MLflow cannot be used. The folder still exists.
        """
        try:
            with open_tracking_client(self.tracking_uri) as client:
                result = self._register(client, training, models, *rows, progress)
        except Exception as error:
            error.add_note(
                f"The trained model is kept in {training.folder}: the next `lakehouse train` registers it. Delete the "
                "folder to give it up."
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

        record, name = training.record, features.task.name
        progress("logging to MLflow")
        experiment = get_or_create_experiment(client, self.experiment, self.artifact_root)
        run, version = _find_or_create_run(client, experiment, training)
        with mlflow.start_run(run_id=run.info.run_id):
            if version is None:
                logged = _log_training(training, models[record["learner"]], features, validation)
                _log_candidates(client, experiment, run.info.run_id, training)
                version = _create_version(client, logged, run.info.run_id, features, record)
            progress("comparing with the champion")
            number = int(version.version)
            alias, reason = assign_alias(client, training, models, features, validation, number)
        _end_other_runs(client, experiment, record["id"], run.info.run_id)
        fields = {name: record[name] for name in ("delta_version", "params", "rows", "metrics", "baseline")}
        return TrainResult(name, number, alias, reason, run.info.run_id, **fields)


def _find_or_create_run(client: Any, experiment: str, training: Training) -> tuple[Any, Any | None]:
    """Find the training's run and its model version if an earlier attempt registered one; otherwise create a run."""
    record = training.record
    for run in _search_runs(client, experiment, record["id"]):
        if version := _remove_duplicate_versions(client, run.info.run_id):
            return run, version
    tags = {
        TRAINING_TAG: record["id"],
        "delta_version": str(record["delta_version"]),
        "revision": record["revision"],
        "mlflow.source.name": "lakehouse train",
        "mlflow.source.git.commit": record["revision"],
    }
    name = f"{record['model']} from {record['feature_table']} version {record['delta_version']}"
    return client.create_run(experiment, int(record["started_at"] * 1000), tags, name), None


def _search_runs(client: Any, experiment: str, training: str, tag: str = TRAINING_TAG) -> Any:
    return client.search_runs([experiment], f"tags.{tag} = '{training}'")


def _end_other_runs(client: Any, experiment: str, training: str, run_id: str) -> None:
    """End the runs of interrupted attempts, and those of requests that MLflow's client sent twice."""
    own_runs = _search_runs(client, experiment, training)
    candidate_runs = _search_runs(client, experiment, training, CANDIDATE_TAG)
    for run in (*own_runs, *candidate_runs):
        parent = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
        if parent != run_id and run.info.status != "FAILED":
            client.set_terminated(run.info.run_id, "FAILED")


def get_or_create_experiment(client: Any, name: str, artifact_root: str) -> str:
    """Return the id of the experiment; create it if it does not exist."""
    from mlflow import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root or None))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # created by another process, or by a request without response
    if experiment.lifecycle_stage != "active":
        raise ModelError(f"MLflow experiment {name!r} was deleted. Restore it (`mlflow experiments restore`).")
    return str(experiment.experiment_id)


def _log_training(training: Training, model: Model, features: FeatureTable, validation: LabelledRows) -> Any:
    """Log a training to the active run, and return the logged model."""
    import mlflow
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    class PinnedSource(DeltaDatasetSource):
        """A source that also stores version 0, which MLflow omits and would load as the latest version."""

        def to_dict(self) -> dict[Any, Any]:
            return {**super().to_dict(), "delta_table_version": self.delta_table_version}

    record = training.record
    source = PinnedSource(path=str(features.log.path), delta_table_version=features.version)
    for split in record["inputs"]:
        dataset = MetaDataset(source, name=features.task.feature_table, digest=split["digest"])  # type: ignore[abstract]
        tags = {"delta_version": str(features.version), "rows": str(split["rows"])}
        mlflow.log_input(dataset, context=split["context"], tags=tags)
    mlflow.log_params(record["logged_params"])
    mlflow.log_metrics(record["logged_metrics"])
    mlflow.log_artifacts(str(training.folder / "artifacts"))
    mlflow.log_artifacts(str(training.folder / BASELINE), BASELINE)
    return _log_model(training, model, validation)


def _log_model(training: Training, model: Model, validation: LabelledRows) -> Any:
    """Store the model's files in the active run, with the code by which MLflow itself can load them."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    example = next(validation.read_frames())[0][list(model.FEATURES)].head(EXAMPLE_ROWS)
    fitted = model.load(training.folder / MODEL)
    return mlflow.pyfunc.log_model(
        name=MODEL,
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={MODEL: str(training.folder / MODEL)},
        # A package without an __init__.py has a path, too.
        code_paths=[import_module(package).__path__[0] for package in ("lakehouse", *model.CODE)],
        signature=infer_signature(example, model.predict(fitted, example)),
        input_example=example,
        # Explicit, because MLflow would otherwise start another process to infer them.
        pip_requirements=[f"{name}=={installed(name)}" for name in ("mlflow", "pandas", *model.REQUIREMENTS)],
    )


def _log_candidates(client: Any, experiment: str, parent: str, training: Training) -> None:
    """Log a child run for each candidate, with the values from its library's autologging."""
    tags, start_ms = {CANDIDATE_TAG: training.record["id"]}, int(training.record["started_at"] * 1000)
    for number, candidate in enumerate(training.record["candidates"], start=1):
        run = log_child_run(client, experiment, parent, f"candidate {number}", tags, candidate, start_ms)
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
    """Create a run below another, log its values, and leave it open.

    Args:
        logged: params by name, and metrics by name as pairs of step and value.
        started_ms: in milliseconds since 1970.

    Returns:
        The run's id.
    """
    from mlflow.entities import Metric, Param

    run: str = client.create_run(experiment, started_ms, {"mlflow.parentRunId": parent, **tags}, name).info.run_id
    metrics = [
        Metric(name, value, started_ms, step) for name, values in logged["metrics"].items() for step, value in values
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
    return _remove_duplicate_versions(client, run_id)


def _remove_duplicate_versions(client: Any, run_id: str) -> Any | None:
    """Return the run's first model version, if any, and delete the others.

    MLflow's client repeats a request without a response, which creates another version.
    """
    versions = sorted(client.search_model_versions(f"run_id = '{run_id}'"), key=lambda entry: int(entry.version))
    for duplicate in versions[1:]:
        client.delete_model_version(duplicate.name, duplicate.version)
    return versions[0] if versions else None
