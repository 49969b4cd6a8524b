"""Training of models. Each model can be rebuilt from the exact table version that it read.

Candidates are fitted on the train split. The candidate with the lowest Brier score on the validation split is used. The
test split is never read here: `lakehouse.ml.scoring.evaluate_test_split` reads it. All results go to a local folder
first, and `lakehouse.ml.registry` logs them to MLflow. No training is lost while a server is down.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lakehouse.errors import ModelError, redact_password
from lakehouse.ml.autolog import AutologResult, make_autologger
from lakehouse.ml.dataset import FeatureTable, LabelledRows, open_features, predict_probabilities
from lakehouse.ml.environment import describe_environment
from lakehouse.ml.metrics import evaluate
from lakehouse.ml.mlflow_client import BASELINE, LEARNER_FILE, MODEL, TYPICAL_FILE, compute_digest
from lakehouse.ml.registry import Registry
from lakehouse.ml.task import Model, list_read_columns
from lakehouse.ml.training_record import (
    RECIPE_FILE,
    Training,
    TrainResult,
    describe_declaration,
    find_pending,
    is_match,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.storage.location import Location

logger = logging.getLogger(__name__)
SHUFFLES = 3
# Typical values and importances are computed from this many rows of the validation split.
SAMPLED_ROWS = 5_000


@dataclass(frozen=True)
class TunedParams:
    """The only candidate's parameters: the best of a study of `lakehouse tune`, or the champion's without a study."""

    study: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class FittedCandidate:
    """A fitted model with its parameters, its metrics on both splits, and its metrics by step."""

    model: Any
    params: Mapping[str, Any]
    train: Mapping[str, float]
    validation: Mapping[str, float]
    probability: np.ndarray  # on the validation split
    curves: Mapping[str, list[tuple[int, float]]]
    autologged: AutologResult | None = None


def train(
    learner: str,
    models: Mapping[str, Model],
    *,
    lake: Location,
    registry: Registry,
    revision: str,
    pending_folder: Path,
    version: int | None = None,
    seed: int = 0,
    tuned: TunedParams | None = None,
    progress: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fit the candidates on a feature table, and log and register the best one.

    A training that is not in MLflow yet is registered first. It is returned if its code, table version and seed are
    the same. `Registry.register` decides which version becomes champion.

    Args:
        learner: Name of the model in ``models``.
        revision: Revision of the code.
        pending_folder: Folder for trainings that are not in MLflow yet.
        version: Version of the feature table; the latest by default.
        tuned: Parameters of the only candidate; the model's candidates by default.
        progress: Called with a text before each step.

    Raises:
        ModelError: The table, the version or a column is missing, a split has no labelled rows, the fitted model cannot
            be stored safely, or MLflow cannot be used.
    """
    notify, model, pending_folder = progress or (lambda _: None), models[learner], pending_folder / learner
    with _lock_training(pending_folder, notify):
        features = open_features(model.TASK, lake, list_read_columns(model), version)
        destination = {"lake": str(lake), "registry": redact_password(registry.tracking_uri)}
        origin = _describe_origin(learner, model, features, revision, seed, tuned)
        for earlier, result in _register_pending(pending_folder, destination, models, model, lake, registry, notify):
            if is_match(earlier, origin) and revision and not revision.endswith("dirty"):
                return result
        training = _fit_all(model, features, {**destination, **origin}, pending_folder, notify)
        return registry.register(training, models, training.open_rows(model, lake), notify)


def _describe_origin(
    learner: str, model: Model, features: FeatureTable, revision: str, seed: int, tuned: TunedParams | None
) -> dict[str, Any]:
    """Describe the inputs of a training. Trainings with equal descriptions give equal models."""
    candidates = [tuned.params] if tuned else model.CANDIDATES
    return {
        "model": model.TASK.name,
        "learner": learner,
        "feature_table": model.TASK.feature_table,
        "feature_table_id": features.table_id,
        "delta_version": features.version,
        "revision": revision,
        "seed": seed,
        "declared": describe_declaration(model),
        "study": tuned.study if tuned else "",
        "candidate_params": [dict(params) for params in candidates],
    }


def _register_pending(
    pending_folder: Path,
    destination: Mapping[str, str],
    models: Mapping[str, Model],
    model: Model,
    lake: Location,
    registry: Registry,
    notify: Callable[[str], None],
) -> Iterator[tuple[Training, TrainResult]]:
    """Register the trainings that are not in MLflow yet, one at a time, the oldest first."""
    for earlier in find_pending(pending_folder, **destination):
        try:
            rows = earlier.open_rows(model, lake)
        except ModelError as error:  # it can never be compared with the champion
            logger.warning(
                "a training that waited for MLflow cannot be registered and was moved to %s: %s",
                earlier.abandon(),
                error,
            )
            continue
        notify("registering the training that waits for MLflow")
        yield earlier, registry.register(earlier, models, rows, notify)


@contextmanager
def _lock_training(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Block other trainings of the model on this machine. So no training is registered twice."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another training of {folder.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fit_all(
    model: Model, features: FeatureTable, origin: dict[str, Any], pending_folder: Path, progress: Callable[[str], None]
) -> Training:
    """Fit the candidates and the baseline, and write the training to its own folder."""
    seed, candidates, began = origin["seed"], origin["candidate_params"], time.time()
    progress(f"reading {features}")
    validation = features.split("validation", list_read_columns(model))
    train = features.split("train", list_read_columns(model))
    # After a failed fit MLflow may still write to the folder. An error of the cleanup must not hide the fit's error.
    with tempfile.TemporaryDirectory(prefix=".", dir=pending_folder, ignore_cleanup_errors=True) as unfinished:
        (folder := Path(unfinished, "training")).mkdir()
        (artifacts := folder / "artifacts").mkdir()
        autolog = make_autologger(Path(unfinished))
        fitted = _fit_candidates(model, candidates, seed, train, validation, autolog, artifacts, progress)
        best = min(fitted, key=lambda candidate: candidate.validation["brier"])
        progress("fitting the baseline")
        base = fit(model, model.BASELINE_FEATURES, best.params, seed, train, validation)
        sample = validation.sample(SAMPLED_ROWS, seed)
        for name, candidate in {MODEL: best, BASELINE: base}.items():
            _save_model(model, origin["learner"], candidate.model, sample[0], folder / name)
        fingerprints = {
            "train": train.compute_fingerprint(artifacts / "train_keys.parquet"),
            "validation": validation.compute_fingerprint(),
        }
        importances = _measure_importance(model, best.model, *sample, seed)
        _draw(artifacts, model, fitted, best, base, validation, importances)
        recipe = {**origin, "params": dict(best.params), "fitted_on": describe_environment(model.REQUIREMENTS)}
        (artifacts / RECIPE_FILE).write_text(json.dumps(recipe, indent=1))
        record = {
            **origin,
            "id": uuid.uuid4().hex,
            "started_at": began,
            "rows": {"train": train.rows, "validation": validation.rows},
            "sha256": {name: compute_digest(folder / name) for name in (MODEL, BASELINE)},
            **_describe_data(model, origin, {"train": train, "validation": validation}, fingerprints),
            **_describe_fits(fitted, best, base),
        }
        record["logged_params"] |= {f"model_{name}": value for name, value in best.params.items()}
        return Training(folder, record).save(pending_folder)


def _fit_candidates(
    model: Model,
    candidates: Sequence[Mapping[str, Any]],
    seed: int,
    train: LabelledRows,
    validation: LabelledRows,
    autolog: Callable[[str], AbstractContextManager[AutologResult]],
    folder: Path,
    notify: Callable[[str], None],
) -> list[FittedCandidate]:
    """Fit each candidate.

    Args:
        autolog: Records a fit under a name by MLflow's autologging.
        folder: Folder to which the recorded files are moved.
    """
    fitted = []
    for number, params in enumerate(candidates, start=1):
        notify(f"fitting candidate {number} of {len(candidates)}")
        with autolog(name := f"candidate_{number}") as autologged:
            candidate = fit(model, model.FEATURES, params, seed, train, validation)
        fitted.append(replace(candidate, autologged=autologged))
        if autologged.files.exists():
            autologged.files.rename(folder / name)
    return fitted


def _save_model(model: Model, learner: str, fitted: Any, sample: pd.DataFrame, folder: Path) -> None:
    """Write a fitted model, the code it needs and its typical values to a new folder."""
    folder.mkdir()
    model.save(fitted, folder)
    (folder / LEARNER_FILE).write_text(json.dumps({"learner": learner, "module": model.__name__}))
    typical = _find_typical_values(sample[list(model.get_input_columns(fitted))])
    (folder / TYPICAL_FILE).write_text(json.dumps(typical, indent=1))


def _describe_fits(fitted: list[FittedCandidate], best: FittedCandidate, base: FittedCandidate) -> dict[str, Any]:
    """Collect the parameters and metrics of the chosen model, the baseline and the candidates."""
    return {
        "params": dict(best.params),
        "metrics": best.validation,
        "baseline": base.validation,
        "logged_metrics": name_metrics(best) | name_metrics(base, "baseline_"),
        "candidates": [_describe_candidate(candidate) for candidate in fitted],
    }


def name_metrics(candidate: FittedCandidate, prefix: str = "") -> dict[str, float]:
    """Return a fitted model's metrics on both splits by their names in MLflow."""
    splits = {"train": candidate.train, "validation": candidate.validation}
    return {f"{split}_{prefix}{name}": value for split, metrics in splits.items() for name, value in metrics.items()}


def _describe_candidate(candidate: FittedCandidate) -> dict[str, Any]:
    """Collect the parameters and metrics for a candidate's own run in MLflow."""
    metrics = {name: [(0, value)] for name, value in name_metrics(candidate).items()} | dict(candidate.curves)
    autologged = candidate.autologged
    assert autologged
    return {"params": {**autologged.params, **candidate.params}, "metrics": autologged.metrics | metrics}


def _describe_data(
    model: Model,
    origin: Mapping[str, Any],
    splits: Mapping[str, LabelledRows],
    fingerprints: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Describe the training rows. A rebuild of the model compares its rows with these."""
    names = ("learner", "feature_table", "feature_table_id", "delta_version", "revision", "seed")
    params = {name: origin[name] for name in names} | {"features": len(model.FEATURES)}
    params |= {"study": origin["study"]} if origin["study"] else {}
    inputs = []
    for name, split in splits.items():
        params |= {f"{name}_from": split.span[0], f"{name}_until": split.span[1], f"{name}_rows": split.rows}
        params |= {f"{name}_unlabelled": split.unlabelled}
        params |= {f"{name}_{part}": value for part, value in fingerprints[name].items()}
        digest = f"v{origin['delta_version']}-{fingerprints[name]['content_sha256'][:16]}"
        inputs.append({"context": name, "digest": digest, "rows": split.rows})
    return {"logged_params": params, "inputs": inputs}


def fit(
    model: Model,
    features: tuple[str, ...],
    params: Mapping[str, Any],
    seed: int,
    train: LabelledRows,
    validation: LabelledRows,
) -> FittedCandidate:
    """Fit a model once, and evaluate it on both splits."""
    curves: dict[str, list[tuple[int, float]]] = {}

    def curve(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            curves.setdefault(name, []).append((step, float(value)))

    fitted = model.fit(train, validation, features=features, params=params, seed=seed, curve=curve)
    probability = predict_probabilities(model, fitted, validation)
    return FittedCandidate(
        fitted,
        params,
        train=evaluate(train.label, predict_probabilities(model, fitted, train)),
        validation=evaluate(validation.label, probability),
        probability=probability,
        curves=curves,
    )


def _find_typical_values(frame: pd.DataFrame) -> dict[str, Any]:
    """Find a value of each column that occurs: a number's median, else the most frequent; None if all are missing."""
    import pandas as pd

    typical: dict[str, Any] = {}
    for name, column in frame.items():
        values = column.dropna()
        numbers = pd.api.types.is_numeric_dtype(values)
        middle = values.quantile(interpolation="lower") if numbers else next(iter(values.mode()), None)
        typical[str(name)] = None if pd.isna(middle) else middle
    return typical


def _measure_importance(model: Model, fitted: Any, frame: pd.DataFrame, label: np.ndarray, seed: int) -> np.ndarray:
    """Measure the rise of the Brier score when a feature is shuffled, on rows outside the train split.

    Returns:
        One row for each feature and one column for each shuffle.
    """
    import numpy as np
    from sklearn.inspection import permutation_importance

    def negative_brier(model: Model, features: pd.DataFrame, label: np.ndarray) -> float:
        return -float(np.mean((model.predict(fitted, features) - label) ** 2))

    # The model's module is the estimator. Only fitted models of scikit-learn have an estimator's methods.
    result = permutation_importance(
        model, frame[list(model.FEATURES)], label, scoring=negative_brier, n_repeats=SHUFFLES, random_state=seed
    )
    importances: np.ndarray = result.importances
    return importances


def _draw(
    folder: Path,
    model: Model,
    fitted: list[FittedCandidate],
    best: FittedCandidate,
    base: FittedCandidate,
    validation: LabelledRows,
    importances: np.ndarray,
) -> None:
    """Write a run's list of candidates and its plots to ``folder``."""
    from lakehouse.ml import plots

    candidates = [
        {"params": dict(entry.params), "train": entry.train, "validation": entry.validation} for entry in fitted
    ]
    record = {"chosen": fitted.index(best), "candidates": candidates}
    (folder / "candidates.json").write_text(json.dumps(record, indent=2))
    name, days = model.TASK.name, f"{validation.span[0]} to {validation.span[1]}"
    curves = {
        f"Model (Brier {best.validation['brier']:.4f})": best.probability,
        f"Baseline (Brier {base.validation['brier']:.4f})": base.probability,
    }
    title = f"Calibration of {name}\nvalidation split: {days}, {validation.rows:,} rows"
    plots.draw_calibration(validation.label, curves, title).savefig(folder / "validation_calibration.png")
    rows = min(SAMPLED_ROWS, validation.rows)
    title = f"Permutation importance for {name}\n{rows:,} rows of the validation split: {days}, {SHUFFLES} shuffles"
    plots.draw_importance(model.FEATURES, importances, title).savefig(folder / "validation_importance.png")
    if best.curves:
        title = f"Learning curve of {name}: the chosen candidate"
        plots.draw_learning_curve(best.curves, title).savefig(folder / "learning_curve.png")
