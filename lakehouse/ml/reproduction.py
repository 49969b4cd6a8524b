"""Reproduction of a registered model from its recorded table version. Nothing in MLflow changes."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import LedgerError, ModelError, get_first_line, redact_password
from lakehouse.ml.dataset import FeatureTable, LabelledRows, open_features, predict_probabilities
from lakehouse.ml.environment import describe_environment, find_installed_version
from lakehouse.ml.mlflow_client import NOT_FOUND_CODES, LoadedModel, get_sqlite_file, load_version, open_tracking_client
from lakehouse.ml.task import Model, Task
from lakehouse.ml.training import FittedCandidate, fit, name_metrics
from lakehouse.ml.training_record import RECIPE_FILE, describe_declaration, read_splits

if TYPE_CHECKING:
    from lakehouse.storage.location import Location

# The relative difference that another order of summation makes, as with more or fewer threads.
TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Recipe:
    """The recorded inputs and results of a training run.

    Attributes:
        recorded: the content of the run's RECIPE_FILE.
        params: parameters as logged.
        metrics: metrics as logged.
    """

    tracking_uri: str
    run_id: str
    recorded: Mapping[str, Any]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def learner(self) -> str:
        return str(self.recorded["learner"])

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.recorded["declared"]["FEATURES"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that the fingerprint of the rows covers."""
        return tuple(dict.fromkeys((*self.features, *self.recorded["declared"]["BASELINE_FEATURES"])))

    def task(self, today: Task) -> Task:
        """Return the task as it was declared at the training."""
        declaration = self.recorded["declared"]
        return replace(
            today,
            feature_table=self.recorded["feature_table"],
            key=tuple(declaration["key"]),
            label_column=declaration["label"],
            time_column=declaration["time"],
            splits=read_splits(declaration, today),
        )


@dataclass(frozen=True)
class ReproductionResult:
    """Result of a reproduction.

    Attributes:
        differences: the differences, in words.
        notes: differences that need not matter, in words.
        metrics: the recorded and the new value by name.
        rows: the rows of the validation split.
        same_share: the share of rows with exactly the same prediction; None if predictions could not be compared.
        largest_difference: the largest difference of two predictions; None if predictions could not be compared.
    """

    recipe: Recipe
    model_version: int | None
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    metrics: Mapping[str, tuple[float, float]]
    rows: int = 0
    same_share: float | None = None
    largest_difference: float | None = None


@dataclass(frozen=True)
class _RegisteredVersion:
    """The run's version in the registry.

    Attributes:
        loaded: the model, ready to predict; None if there is a problem.
        packages: the pinned packages that it was logged with.
        problem: why the model cannot be loaded; empty if it can.
    """

    version: int | None
    loaded: LoadedModel | None
    packages: Mapping[str, str]
    problem: str = ""


def open_recipe(run_id: str, tracking_uri: str) -> Recipe:
    """Read the recipe of a training run from MLflow.

    Raises:
        ModelError: the run does not exist or is not a training, or MLflow cannot be used.
    """
    from mlflow import MlflowException

    missing_run = ModelError(f"No run {run_id!r} is known at {redact_password(tracking_uri)}.")
    database = get_sqlite_file(tracking_uri)
    if database and not database.exists():
        raise missing_run
    with open_tracking_client(tracking_uri) as client, tempfile.TemporaryDirectory() as folder:
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in NOT_FOUND_CODES:
                raise missing_run from error
            raise
        file = _download_artifact(client, run_id, RECIPE_FILE, Path(folder))
        if file is None:
            raise ModelError(
                f"The run {run_id} has no {RECIPE_FILE}: `lakehouse train` did not make the run, or its files are gone."
            )
        return Recipe(tracking_uri, run_id, json.loads(file.read_text()), run.data.params, run.data.metrics)


def reproduce(
    recipe: Recipe,
    models: Mapping[str, Model],
    *,
    lake: Location,
    revision: str,
    progress: Callable[[str], None] | None = None,
) -> ReproductionResult:
    """Fit a run's model again on the same version of the same table, and compare both models.

    Args:
        revision: the current revision of the code.

    Raises:
        ModelError: the run's learner is not among the ``models``, or MLflow cannot be used.
        StorageError: the object store cannot be used.
    """
    if recipe.learner not in models:
        raise ModelError(
            f"Run {recipe.run_id} was made by {recipe.learner!r}, which `models` in conf/base.yml does not name. "
            "Add the learner there."
        )
    model = models[recipe.learner]
    registered = _load_registered(recipe, models)
    result = _fit_and_compare(recipe, model, registered, lake, progress or (lambda _: None))
    # Last, because the environment is complete only after the fit has imported its packages.
    return replace(result, notes=tuple(_list_notes(recipe, model, revision, registered.packages)))


def _fit_and_compare(
    recipe: Recipe, model: Model, registered: _RegisteredVersion, lake: Location, progress: Callable[[str], None]
) -> ReproductionResult:
    """Fit the recipe with the model's current code and collect the differences; the result has no notes yet."""
    differences = [registered.problem] if registered.problem else []
    result = ReproductionResult(recipe, registered.version, differences=(), notes=(), metrics={})
    progress("reading the table at its recorded version")
    try:
        splits = _read_splits(recipe, model, lake, differences)
    except (ModelError, LedgerError) as error:  # the table, its version or its rows no longer exist
        return replace(result, differences=(*differences, str(error)))
    differences += _compare_rows(recipe, splits)
    progress("fitting")
    params, seed = recipe.recorded["params"], recipe.recorded["seed"]
    try:
        refitted = fit(model, recipe.features, params, seed, splits["train"], splits["validation"])
    except Exception as error:  # today's code may raise anything on yesterday's parameters
        failure = f"today's code cannot fit it: {type(error).__name__}: {get_first_line(error)}"
        return replace(result, differences=(*differences, failure))
    metrics = {name: (recipe.metrics.get(name, math.nan), value) for name, value in name_metrics(refitted).items()}
    differences += _compare_metrics(metrics)
    result = replace(result, differences=tuple(differences), metrics=metrics)
    return _compare_predictions(result, registered.loaded, refitted, splits["validation"])


def _compare_metrics(metrics: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for name, (recorded, current) in metrics.items():
        if not math.isclose(recorded, current, rel_tol=TOLERANCE):
            yield f"{name} was {recorded:.6f} and is {current:.6f}"


def _compare_predictions(
    result: ReproductionResult, registered: LoadedModel | None, refitted: FittedCandidate, validation: LabelledRows
) -> ReproductionResult:
    """Add to the result how the registered and the refitted model's predictions differ on the validation split."""
    import numpy as np

    if registered is None:
        return result
    recorded = predict_probabilities(registered.model, registered.fitted, validation)
    largest = float(np.max(np.abs(recorded - refitted.probability)))
    differences = result.differences
    if not largest <= TOLERANCE:
        differences = (*differences, f"its predictions differ from the registered model's by up to {largest:.6f}")
    same = float(np.mean(recorded == refitted.probability))
    return replace(result, differences=differences, rows=validation.rows, same_share=same, largest_difference=largest)


def _read_splits(recipe: Recipe, model: Model, lake: Location, differences: list[str]) -> dict[str, LabelledRows]:
    """Read the train and validation rows, and append to ``differences`` if they are another table's."""
    task, version = recipe.task(model.TASK), int(recipe.recorded["delta_version"])
    latest = open_features(task, lake, ())
    if latest.table_id != recipe.recorded["feature_table_id"]:
        differences.append(
            f"{task.feature_table} is another table than the one that it was trained on: its id was "
            f"{recipe.recorded['feature_table_id']} and is {latest.table_id}"
        )
    features: FeatureTable = open_features(task, lake, recipe.columns, version)
    if missing := features.log.list_missing_files():
        raise ModelError(f"{len(missing)} of the {features.log.count_files()} files of {features} are gone (VACUUM)")
    return {
        "train": features.split("train", recipe.columns),
        "validation": features.split("validation", recipe.columns),
    }


def _compare_rows(recipe: Recipe, splits: Mapping[str, LabelledRows]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in splits.items():
            keys = Path(folder, f"{name}.parquet")
            fingerprint = rows.compute_fingerprint(keys)
            if fingerprint["keys_sha256"] != recipe.params.get(f"{name}_keys_sha256"):
                counts = f"it had {recipe.params.get(f'{name}_rows')} and has {rows.rows}"
                yield f"other rows in the {name} split: {counts}{_compare_keys(recipe, name, keys)}"
            elif fingerprint["content_sha256"] != recipe.params.get(f"{name}_content_sha256"):
                yield f"the rows of the {name} split have the same keys and other values"


def _compare_keys(recipe: Recipe, split: str, current_file: Path) -> str:
    """Count the missing and the new keys of a split; return nothing if the run has no file of keys."""
    import pyarrow.parquet as pq

    with open_tracking_client(recipe.tracking_uri) as client:
        recorded_file = _download_artifact(client, recipe.run_id, f"{split}_keys.parquet", current_file.parent)
    if recorded_file is None:
        return ""
    recorded, current = pq.read_table(recorded_file), pq.read_table(current_file)
    if recorded.schema != current.schema:
        return ", and their keys are of other types"
    missing = recorded.join(current, recorded.column_names, join_type="left anti")
    new = current.join(recorded, current.column_names, join_type="left anti")
    return f"; {missing.num_rows} keys are missing, {new.num_rows} are new"


def _load_registered(recipe: Recipe, models: Mapping[str, Model]) -> _RegisteredVersion:
    with open_tracking_client(recipe.tracking_uri) as client, tempfile.TemporaryDirectory() as folder:
        versions = client.search_model_versions(f"run_id = '{recipe.run_id}'")
        if not versions:
            return _RegisteredVersion(
                None, None, {}, "its model is no longer in the registry, so that predictions cannot be compared"
            )
        entry = versions[0]
        version = int(entry.version)
        file = _download_artifact(client, None, f"models:/{entry.name}/{version}/requirements.txt", Path(folder))
        pins = (line.partition("==") for line in (file.read_text().splitlines() if file else []))
        packages = {name: number for name, _, number in pins if number}
        try:
            return _RegisteredVersion(version, load_version(client, entry, models), packages)
        except ModelError as error:
            return _RegisteredVersion(version, None, packages, str(error))


def _list_notes(recipe: Recipe, model: Model, revision: str, packages: Mapping[str, str]) -> Iterator[str]:
    recorded = recipe.recorded["revision"]
    if recorded != revision:
        yield f"the code is another: it was revision {recorded or 'unknown'}, and is {revision or 'unknown'}"
    elif recorded.endswith("dirty"):
        yield f"the code may be another: revision {recorded} had changes that were not committed"
    declaration = describe_declaration(model)
    if changed := [name for name, value in recipe.recorded["declared"].items() if declaration[name] != value]:
        yield f"the model's declaration has changed: {', '.join(changed)}; the recorded one was used"
    environment = describe_environment(model.REQUIREMENTS)
    yield from _compare_environments(recipe.recorded.get("fitted_on", {}), environment, packages)


def _compare_environments(
    recorded: Mapping[str, Any], current: Mapping[str, Any], packages: Mapping[str, str]
) -> Iterator[str]:
    """Describe the differences of two environments.

    Args:
        recorded: empty in older recipes.
        packages: the versions that the registered model requires.
    """
    for name, pin in {**recorded.get("packages", {}), **packages}.items():
        if (installed := find_installed_version(name)) != pin:
            yield f"{name} was {pin} and is {installed}"
    for name, title in {"python": "Python", "threads": "the number of threads", "device": "the device"}.items():
        if recorded.get(name, current[name]) != current[name]:
            yield f"{title} was {recorded[name]} and is {current[name]}"
    if recorded.get("device", current["device"]) != current["device"]:
        yield f"numbers of 32 bits, as networks have, differ by more than {TOLERANCE:g} from one device to another"


def _download_artifact(client: Any, run_id: str | None, path: str, folder: Path) -> Path | None:
    """Download an artifact of a run, or of a full URI without one; return None if the artifact does not exist."""
    import mlflow
    from mlflow import MlflowException

    uri = f"runs:/{run_id}/{path}" if run_id else path
    try:
        file = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise
    except FileNotFoundError:
        return None
    return Path(file)
