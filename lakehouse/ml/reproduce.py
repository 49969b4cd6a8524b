"""Making a registered model again, from its table as it was, and saying what differs. Changes nothing in MLflow."""

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
from lakehouse.ml.environment import describe_environment, installed_version
from lakehouse.ml.mlflow_client import NOT_FOUND_CODES, LoadedModel, load_version, sqlite_file, tracking_client
from lakehouse.ml.task import Model, Task
from lakehouse.ml.training import FittedCandidate, fit, named_metrics
from lakehouse.ml.training_record import RECIPE_FILE, describe_declaration, recorded_splits

if TYPE_CHECKING:
    from lakehouse.storage.location import Location

# What the same sum differs by when it is added up in another order, as on more or fewer threads.
TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Recipe:
    """What a run at ``tracking_uri`` says of how its model was made, and of what came of it: parameters and metrics as logged."""

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
        """All that the rows held when their fingerprint was taken."""
        return tuple(dict.fromkeys((*self.features, *self.recorded["declared"]["BASELINE_FEATURES"])))

    def task(self, today: Task) -> Task:
        """The task as it was declared then."""
        then = self.recorded["declared"]
        named = {"key": tuple(then["key"]), "label": then["label"], "time": then["time"]}
        named["splits"] = recorded_splits(then, today)
        return replace(today, feature_table=self.recorded["feature_table"], **named)


@dataclass(frozen=True)
class ReproductionResult:
    """What became of making a model again.

    ``differs`` says in words what is not the same; ``notes`` what is not, and need not matter. ``metrics`` are those recorded and
    those of now. ``same`` is the share of the validation split's ``rows`` of which both models say exactly the same, ``largest`` the
    largest difference; None where they could not be compared.
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
    """The run's version in the registry: ready to predict, unless ``problem`` says why not, and the packages it was made with."""

    version: int | None
    loaded: LoadedModel | None
    packages: Mapping[str, str]
    problem: str = ""


def open_recipe(run_id: str, tracking_uri: str) -> Recipe:
    """
    Raises:
        ModelError: there is no such run, it is no training, or MLflow cannot be used.
    """
    from mlflow import MlflowException

    none = ModelError(f"No run {run_id!r} is known at {redact_password(tracking_uri)}.")
    database = sqlite_file(tracking_uri)
    if database and not database.exists():
        raise none
    with tracking_client(tracking_uri) as client, tempfile.TemporaryDirectory() as folder:
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in NOT_FOUND_CODES:
                raise none from error
            raise
        file = _download_artifact(client, run_id, RECIPE_FILE, Path(folder))
        if file is None:
            raise ModelError(
                f"The run {run_id} holds no {RECIPE_FILE}: it is not one of `lakehouse train`, or its files are gone."
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
    """Fit the model of a run again, on the same version of the same table, and compare. ``revision`` is the code's of now.

    Raises:
        ModelError: none of the ``models`` made it, or MLflow cannot be used.
        StorageError: the object store cannot be used.
    """
    tell = progress or (lambda _: None)
    if recipe.learner not in models:
        raise ModelError(f"It was made by {recipe.learner!r}, which `models` in conf/base.yml does not name.")
    model = models[recipe.learner]
    registered = _load_registered(recipe, models)

    def found(*differs: str, metrics: Mapping[str, tuple[float, float]] | None = None) -> ReproductionResult:
        notes = tuple(_notes(recipe, model, revision, registered.packages))  # last, when it is known on what was fitted
        return ReproductionResult(recipe, registered.version, differs, notes, metrics or {})

    differs = [registered.problem] if registered.problem else []
    tell("reading the table as it was")
    try:
        splits = _read_splits(recipe, model, lake, differs)
    except (ModelError, LedgerError) as error:  # the table, its version or its rows are no longer there
        return found(*differs, str(error))
    differs += _rows_differ(recipe, splits)
    tell("fitting")
    try:
        again = fit(
            model,
            recipe.features,
            recipe.recorded["params"],
            recipe.recorded["seed"],
            splits["train"],
            splits["validation"],
        )
    except Exception as error:  # whatever today's code makes of yesterday's parameters
        said = f"today's code cannot fit it: {type(error).__name__}: {get_first_line(error)}"
        return found(*differs, said)
    metrics = {name: (recipe.metrics.get(name, math.nan), value) for name, value in named_metrics(again).items()}
    for name, (then, now) in metrics.items():
        if not math.isclose(then, now, rel_tol=TOLERANCE):
            differs.append(f"{name} was {then:.6f} and is {now:.6f}")
    return _compare_predictions(found(*differs, metrics=metrics), registered.loaded, again, splits["validation"])


def _compare_predictions(
    found: ReproductionResult, registered: LoadedModel | None, again: FittedCandidate, validation: LabelledRows
) -> ReproductionResult:
    """With what the registered model says of the validation split's rows beside what the new one does."""
    import numpy as np

    if registered is None:
        return found
    then = predict_probabilities(registered.model, registered.fitted, validation)
    largest = float(np.max(np.abs(then - again.probability)))
    differs = found.differences
    if not largest <= TOLERANCE:
        differs = (*differs, f"its predictions differ from the registered model's by up to {largest:.6f}")
    same = float(np.mean(then == again.probability))
    return replace(found, differences=differs, rows=validation.rows, same_share=same, largest_difference=largest)


def _read_splits(recipe: Recipe, model: Model, lake: Location, differences: list[str]) -> dict[str, LabelledRows]:
    """The rows to fit on and to choose by; ``differs`` gets it where they are another table's."""
    task, version = recipe.task(model.TASK), int(recipe.recorded["delta_version"])
    latest = open_features(task, lake, ())
    if latest.table_id != recipe.recorded["feature_table_id"]:
        differences.append(
            f"{task.feature_table} is another table than the one that it was trained on: its id was "
            f"{recipe.recorded['feature_table_id']} and is {latest.table_id}"
        )
    features: FeatureTable = open_features(task, lake, recipe.columns, version)
    if gone := features.log.list_missing_files():
        raise ModelError(f"{len(gone)} of the {features.log.count_files()} files of {features} are gone (VACUUM)")
    return {
        "train": features.split("train", recipe.columns),
        "validation": features.split("validation", recipe.columns),
    }


def _rows_differ(recipe: Recipe, splits: Mapping[str, LabelledRows]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in splits.items():
            keys = Path(folder, f"{name}.parquet")
            now = rows.fingerprint(keys)
            if now["keys_sha256"] != recipe.params.get(f"{name}_keys_sha256"):
                then = f"it had {recipe.params.get(f'{name}_rows')} and has {rows.rows}"
                yield f"other rows in the {name} split: {then}{_keys_differ(recipe, name, keys)}"
            elif now["content_sha256"] != recipe.params.get(f"{name}_content_sha256"):
                yield f"the rows of the {name} split have the same keys and other values"


def _keys_differ(recipe: Recipe, split: str, now: Path) -> str:
    """How many keys are missing and how many are new, of a split whose keys the run has kept."""
    import pyarrow.parquet as pq

    with tracking_client(recipe.tracking_uri) as client:
        kept = _download_artifact(client, recipe.run_id, f"{split}_keys.parquet", now.parent)
    if kept is None:
        return ""
    then, found = pq.read_table(kept), pq.read_table(now)
    if then.schema != found.schema:
        return ", and their keys are of other types"
    missing, new = (
        one.join(other, one.column_names, join_type="left anti") for one, other in ((then, found), (found, then))
    )
    return f"; {missing.num_rows} keys are missing, {new.num_rows} are new"


def _load_registered(recipe: Recipe, models: Mapping[str, Model]) -> _RegisteredVersion:
    with tracking_client(recipe.tracking_uri) as client, tempfile.TemporaryDirectory() as folder:
        found = client.search_model_versions(f"run_id = '{recipe.run_id}'")
        if not found:
            return _RegisteredVersion(
                None, None, {}, "its model is no longer in the registry, so that predictions cannot be compared"
            )
        entry = found[0]
        version = int(entry.version)
        lines = _download_artifact(client, None, f"models:/{entry.name}/{version}/requirements.txt", Path(folder))
        pinned = (line.partition("==") for line in (lines.read_text().splitlines() if lines else []))
        packages = {name: number for name, _, number in pinned if number}
        try:
            return _RegisteredVersion(version, load_version(client, entry, models), packages)
        except ModelError as error:
            return _RegisteredVersion(version, None, packages, str(error))


def _notes(recipe: Recipe, model: Model, revision: str, packages: Mapping[str, str]) -> Iterator[str]:
    then = recipe.recorded["revision"]
    if then != revision:
        yield f"the code is another: it was revision {then or 'unknown'}, and is {revision or 'unknown'}"
    elif then.endswith("dirty"):
        yield f"the code may be another: revision {then} had changes that were not committed"
    today = describe_declaration(model)
    if changed := [name for name, value in recipe.recorded["declared"].items() if today[name] != value]:
        yield f"the model declares otherwise by now: {', '.join(changed)}; what it declared then was used"
    yield from _environment_differs(
        recipe.recorded.get("fitted_on", {}), describe_environment(model.REQUIREMENTS), packages
    )


def _environment_differs(then: Mapping[str, Any], now: Mapping[str, Any], packages: Mapping[str, str]) -> Iterator[str]:
    """``then`` is empty in older recipes; ``packages`` are those that the registered model asks for."""
    for name, pinned in {**then.get("packages", {}), **packages}.items():
        if (here := installed_version(name)) != pinned:
            yield f"{name} was {pinned} and is {here}"
    for name, what in {"python": "Python", "threads": "the number of threads", "device": "the device"}.items():
        if then.get(name, now[name]) != now[name]:
            yield f"{what} was {then[name]} and is {now[name]}"
    if then.get("device", now["device"]) != now["device"]:
        yield f"numbers of 32 bits, as networks have, differ by more than {TOLERANCE:g} from one device to another"


def _download_artifact(client: Any, run_id: str | None, path: str, folder: Path) -> Path | None:
    """An artifact of a run, or one named in full; None where it is not there."""
    import mlflow
    from mlflow import MlflowException

    uri = f"runs:/{run_id}/{path}" if run_id else path
    try:
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise
    except FileNotFoundError:
        return None
    return Path(found)
