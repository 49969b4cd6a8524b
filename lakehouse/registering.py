"""Trainings on their way from this machine into MLflow's registry.

A training waits in a folder of its own until MLflow has all of it. Registering one again goes on where it stopped, so that each
becomes one version, however often a server failed on the way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from lakehouse.errors import ModelError
from lakehouse.features import Features, Labelled, Model, open_features
from lakehouse.tracking import BASELINE_TAG, CHAMPION, find_champion, load_pipeline, reads, tracking

if TYPE_CHECKING:
    from lakehouse.storage import Location

SAID: Final = "training.json"
CHALLENGER: Final = "challenger"
TRAINING_TAG: Final = "training"
REQUIREMENTS = ("mlflow", "scikit-learn", "skops", "pandas", "numpy")
EXAMPLE_ROWS = 5


@dataclass(frozen=True)
class TrainResult:
    """What one training made. ``metrics`` and ``baseline`` are those of the choose split, ``rows`` the labelled rows used."""

    model_name: str
    model_version: int
    alias: Literal["champion", "challenger"]
    reason: str
    run_id: str
    delta_version: int
    params: Mapping[str, Any]
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """What one training made: the pipelines `model` and `baseline` as skops files, files to show, and what it ``said``.

    ``said`` holds what a `TrainResult` does and: id; began, seconds since 1970; for which lake and tracking server, from what, as
    the model was declared, and by which code it was made; the parameters, metrics and inputs that MLflow is told.
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

    def rows(self, model: Model, lake: Location) -> tuple[Features, Labelled]:
        """The feature table as it was, and its choose split.

        Raises:
            ModelError: the model is declared otherwise now, or the version of its table is gone.
        """
        if declared(model) != self.said["declared"]:
            raise ModelError(f"{model.NAME} is declared otherwise since.")
        features = open_features(model, lake, self.said["delta_version"])
        if features.table_id != self.said["feature_table_id"]:
            raise ModelError(f"{model.FEATURE_TABLE} was made anew since.")
        return features, features.labelled("choose")

    def pipeline(self, name: str, trusted: tuple[str, ...]) -> Any:
        import skops.io

        return skops.io.load(self.folder / f"{name}.skops", trusted=list(trusted))


def declared(model: Model) -> dict[str, Any]:
    """What a training depends on, as the model's module declares it."""
    splits = {name: list(getattr(model.SPLITS, name)) for name in ("train", "choose")}
    named = {name: list(getattr(model, name)) for name in ("FEATURES", "BASELINE_FEATURES", "KEY", "TRUSTED_TYPES")}
    return {**named, "LABEL": model.LABEL, "TIME": model.TIME, "SPLITS": splits}


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
        self, training: Training, model_module: Model, rows: tuple[Features, Labelled], tell: Callable[[str], None]
    ) -> TrainResult:
        """Log a training, make it a version of the model, and give up its folder. ``rows`` are its own, `Training.rows`.

        The new version becomes `champion` where there is none, where its Brier score on the choose split is lower than the
        champion's on the same rows, or where the champion is gone, damaged or cannot be evaluated; otherwise it becomes
        `challenger`.

        Raises:
            ModelError: MLflow cannot be used; the folder is still there.
        """
        try:
            with tracking(self.tracking_uri) as client:
                result = self._register(client, training, model_module, *rows, tell)
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
        model: Model,
        features: Features,
        chosen_on: Labelled,
        tell: Callable[[str], None],
    ) -> TrainResult:
        import mlflow

        said = training.said
        tell("logging to MLflow")
        experiment = _experiment(client, self.experiment, self.artifact_root)
        run, version = _started(client, experiment, training)
        with mlflow.start_run(run_id=run.info.run_id):
            if version is None:
                base, best = _log(training, model, features, chosen_on)
                mlflow.set_tag(BASELINE_TAG, base.model_uri)
                version = _new_version(client, model.NAME, best, run.info.run_id, features, said["revision"])
            tell("comparing with the champion")
            alias, reason = _decide(client, model, features, said["metrics"], chosen_on, int(version.version))
            mlflow.set_tags({"decision": alias, "decision_reason": reason})
            client.set_model_version_tag(model.NAME, version.version, "decision_reason", reason)
            # Last, so that a training cut short never leaves a champion half described.
            client.set_registered_model_alias(model.NAME, alias, version.version)
        _end_others(client, experiment, said["id"], run.info.run_id)
        fields = {name: said[name] for name in ("delta_version", "params", "rows", "metrics", "baseline")}
        return TrainResult(model.NAME, int(version.version), alias, reason, run.info.run_id, **fields)


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


def _runs(client: Any, experiment: str, training: str) -> Any:
    return client.search_runs([experiment], f"tags.{TRAINING_TAG} = '{training}'")


def _end_others(client: Any, experiment: str, training: str, run_id: str) -> None:
    """End the runs of tries that were cut short, and of a request that MLflow's client sent again."""
    for run in _runs(client, experiment, training):
        if run.info.run_id != run_id and run.info.status != "FAILED":
            client.set_terminated(run.info.run_id, "FAILED")


def _experiment(client: Any, name: str, artifact_root: str) -> str:
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


def _log(training: Training, model: Model, features: Features, chosen_on: Labelled) -> tuple[Any, Any]:
    """Everything about a training under the active run; returns the baseline and the model as logged."""
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
        dataset = MetaDataset(source, name=model.FEATURE_TABLE, digest=one["digest"])  # type: ignore[abstract]
        tags = {"delta_version": str(features.version), "rows": str(one["rows"])}
        mlflow.log_input(dataset, context=one["context"], tags=tags)
    mlflow.log_params(said["logged_params"])
    mlflow.log_metrics(said["logged_metrics"])
    mlflow.log_artifacts(str(training.folder / "shown"))
    base = _log_model(training, "baseline", model, model.BASELINE_FEATURES, chosen_on)
    return base, _log_model(training, "model", model, model.FEATURES, chosen_on)


def _log_model(training: Training, name: str, model: Model, features: tuple[str, ...], split: Labelled) -> Any:
    """Store a pipeline with skops under the active run; its pyfunc flavour answers with both classes' probabilities."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    pipeline = training.pipeline(name, model.TRUSTED_TYPES)
    example = split.frame[list(features)].head(EXAMPLE_ROWS)
    return mlflow.sklearn.log_model(
        pipeline,
        name=name,
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
        skops_trusted_types=list(model.TRUSTED_TYPES),
        signature=infer_signature(example, pipeline.predict_proba(example)),
        input_example=example,
        pyfunc_predict_fn="predict_proba",
        # Given, because MLflow would otherwise start another process to find them out.
        pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
    )


def _new_version(client: Any, name: str, logged: Any, run_id: str, features: Features, revision: str) -> Any:
    from mlflow import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        description=f"Trained on {features}, code {revision}.",
        tags={"delta_version": str(features.version), "revision": revision},
    )
    return _only_version(client, run_id)


def _only_version(client: Any, run_id: str) -> Any | None:
    """The run's version of the model. MLflow's client asks again where an answer is lost, and makes one more."""
    versions = sorted(client.search_model_versions(f"run_id = '{run_id}'"), key=lambda one: int(one.version))
    for again in versions[1:]:
        client.delete_model_version(again.name, again.version)
    return versions[0] if versions else None


def _decide(
    client: Any, model: Model, features: Features, metrics: Mapping[str, float], chosen_on: Labelled, version: int
) -> tuple[Literal["champion", "challenger"], str]:
    """Which alias the new version gets, and why. The rows are the same for both, those of the training's table version."""
    import mlflow

    found = find_champion(client, model.NAME)
    if found is None:
        return CHAMPION, "there was no champion"
    if int(found.version) == version:  # an earlier try came as far as that
        return CHAMPION, str(found.tags["decision_reason"])
    held = f"on {chosen_on.rows:,} rows of {chosen_on.span[0]} to {chosen_on.span[1]}"
    new = metrics["brier"]
    try:
        pipeline = load_pipeline(client, f"models:/{found.name}/{found.version}", model.TRUSTED_TYPES)
        old = _champion_brier(model, features, pipeline, chosen_on)
    # A champion that fails here fails when it scores, so that any other serves better.
    except (ModelError, ValueError, KeyError, TypeError, AttributeError) as error:
        return CHAMPION, f"champion version {found.version} cannot be evaluated {held}: {type(error).__name__}: {error}"
    mlflow.log_metric("choose_champion_brier", old)
    if new < old:
        return CHAMPION, f"Brier score {new:.6f} {held} is below {old:.6f} of version {found.version}"
    return CHALLENGER, f"Brier score {new:.6f} {held} is not below {old:.6f} of champion version {found.version}"


def _champion_brier(model: Model, features: Features, pipeline: Any, chosen_on: Labelled) -> float:
    """The champion's score on the rows that the new model was chosen on, with the columns that it was trained on."""
    also = [name for name in features.present(reads(pipeline)) if name not in chosen_on.frame]
    split = features.labelled("choose", also) if also else chosen_on
    return model.evaluate(split.label, model.predict(pipeline, split.frame))["brier"]
