"""Training: every model can be made again from the exact table version that it saw.

Candidates are fitted on the train split and the one with the lowest Brier score on the validation split is kept; the test split is
never read here (`lakehouse.ml.scoring.report` reads it). All of it goes to a folder of this machine first, from which
`lakehouse.ml.registry` takes it to MLflow: a server that is down costs no training.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lakehouse.errors import ModelError, redact_password
from lakehouse.ml.autolog import AutologResult, make_autologger
from lakehouse.ml.dataset import FeatureTable, LabelledRows, open_features, predict_probabilities
from lakehouse.ml.environment import describe_environment
from lakehouse.ml.metrics import evaluate
from lakehouse.ml.mlflow_client import BASELINE, LEARNER_FILE, MODEL, TYPICAL_FILE, digest
from lakehouse.ml.registry import Registry
from lakehouse.ml.task import Model, columns_of
from lakehouse.ml.training_record import RECIPE_FILE, Training, TrainResult, describe_declaration, find_pending, matches

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.storage.location import Location

logger = logging.getLogger(__name__)
SHUFFLES = 3
# What is typical, and what the model goes by, is seen on so many held-out rows.
SAMPLED_ROWS = 5_000


@dataclass(frozen=True)
class TunedParams:
    """The only parameters to try: those that did best in a study of `lakehouse tune`, or without one the champion's."""

    study: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class FittedCandidate:
    """A fitted model, the parameters it was fitted with, how well it does, and how it came to that by step."""

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
    """Fit, choose, log and register ``models[learner]`` from its feature table at ``version`` (by default the latest).

    ``revision`` is the code's. ``tuned`` parameters are the only candidate. ``progress`` is told, in words, what
    happens next. A training stays in the folder ``kept``
    until MLflow has it: one that waits there is registered first, and is the result where it is of the same code, table
    version and seed. See `Registry.register` for what becomes champion.

    Raises:
        ModelError: the table, the version or a column is missing, a split has no labelled rows, what was fitted cannot be
            stored safely, or MLflow cannot be used.
    """
    tell, model = progress or (lambda _: None), models[learner]
    pending_folder = pending_folder / learner
    with _training_lock(pending_folder, tell):
        features = open_features(model.TASK, lake, columns_of(model), version)
        bound_for = {"lake": str(lake), "registry": redact_password(registry.tracking_uri)}
        made_from = {
            "model": model.TASK.name, "learner": learner, "feature_table": model.TASK.feature_table,
            "feature_table_id": features.table_id, "delta_version": features.version, "revision": revision, "seed": seed,
            "declared": describe_declaration(model), "study": tuned.study if tuned else "",
            "candidate_params": [dict(params) for params in ([tuned.params] if tuned else model.CANDIDATES)],
        }  # fmt: skip
        for earlier in find_pending(pending_folder, **bound_for):
            try:
                rows = earlier.open_rows(model, lake)
            except ModelError as error:  # it can never be compared with the champion
                logger.warning("a training that waited for MLflow is set aside in %s: %s", earlier.abandon(), error)
                continue
            tell("registering the training that waits for MLflow")
            result = registry.register(earlier, models, rows, tell)
            if matches(earlier, made_from) and revision and not revision.endswith("dirty"):
                return result
        training = _fit_all(model, features, {**bound_for, **made_from}, pending_folder, tell)
        return registry.register(training, models, training.open_rows(model, lake), tell)


@contextmanager
def _training_lock(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """One training of a model at a time on this machine, so that none registers what another is about to."""
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
    model: Model,
    features: FeatureTable,
    made_from: dict[str, Any],
    pending_folder: Path,
    progress: Callable[[str], None],
) -> Training:
    """Fit the candidates and the baseline, and put what a training is into a folder of its own."""
    seed, began = made_from["seed"], time.time()
    progress(f"reading {features}")
    choose = features.split("validation", columns_of(model))
    train = features.split("train", columns_of(model))
    # Where a fitting fails, MLflow may still write what it heard of it: that error must not hide the fitting's.
    with tempfile.TemporaryDirectory(prefix=".", dir=pending_folder, ignore_cleanup_errors=True) as unfinished:
        (folder := Path(unfinished, "training")).mkdir()
        (shown := folder / "artifacts").mkdir()
        fitted = []
        listening = make_autologger(Path(unfinished))
        for place, params in enumerate(made_from["candidate_params"], start=1):
            progress(f"fitting candidate {place} of {len(made_from['candidate_params'])}")
            with listening(name := f"candidate_{place}") as heard:
                found = fit(model, model.FEATURES, params, seed, train, choose)
            fitted.append(replace(found, autologged=heard))
            if heard.files.exists():
                heard.files.rename(shown / name)
        best = min(fitted, key=lambda one: one.validation["brier"])
        progress("fitting the baseline")
        base = fit(model, model.BASELINE_FEATURES, best.params, seed, train, choose)
        sample = choose.sample(SAMPLED_ROWS, seed)
        for name, one in {MODEL: best, BASELINE: base}.items():
            (part := folder / name).mkdir()
            model.save(one.model, part)
            (part / LEARNER_FILE).write_text(json.dumps({"learner": made_from["learner"], "module": model.__name__}))
            (part / TYPICAL_FILE).write_text(
                json.dumps(_typical_values(sample[0][list(model.input_columns(one.model))]), indent=1)
            )
        prints = {"train": train.fingerprint(shown / "train_keys.parquet"), "validation": choose.fingerprint()}
        _draw(shown, model, fitted, best, base, choose, _importance(model, best.model, *sample, seed))
        recipe = {**made_from, "params": dict(best.params), "fitted_on": describe_environment(model.REQUIREMENTS)}
        (shown / RECIPE_FILE).write_text(json.dumps(recipe, indent=1))
        said = {
            "id": uuid.uuid4().hex, "started_at": began, **made_from, "params": dict(best.params),
            "rows": {"train": train.rows, "validation": choose.rows}, "metrics": best.validation, "baseline": base.validation,
            "sha256": {name: digest(folder / name) for name in (MODEL, BASELINE)},
            **_describe_inputs(model, made_from, {"train": train, "validation": choose}, prints),
            "logged_metrics": named_metrics(best) | named_metrics(base, "baseline_"),
            "candidates": [_candidate_log(one) for one in fitted],
        }  # fmt: skip
        said["logged_params"] |= {f"model_{name}": value for name, value in best.params.items()}
        return Training(folder, said).save(pending_folder)


def named_metrics(candidate: FittedCandidate, prefix: str = "") -> dict[str, float]:
    """Its metrics on both splits, as MLflow names them."""
    splits = {"train": candidate.train, "validation": candidate.validation}
    return {f"{split}_{prefix}{name}": value for split, metrics in splits.items() for name, value in metrics.items()}


def _candidate_log(candidate: FittedCandidate) -> dict[str, Any]:
    """What a candidate's own run in MLflow says."""
    metrics = {name: [(0, value)] for name, value in named_metrics(candidate).items()} | dict(candidate.curves)
    heard = candidate.autologged
    assert heard
    return {"params": {**heard.params, **candidate.params}, "metrics": heard.metrics | metrics}


def _describe_inputs(
    model: Model,
    made_from: Mapping[str, Any],
    splits: Mapping[str, LabelledRows],
    prints: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """What the model was made from: enough to make it again, and to check that it was the same rows."""
    named = ("learner", "feature_table", "feature_table_id", "delta_version", "revision", "seed")
    params = {name: made_from[name] for name in named} | {"features": len(model.FEATURES)}
    params |= {"study": made_from["study"]} if made_from["study"] else {}
    inputs = []
    for name, split in splits.items():
        params |= {f"{name}_from": split.span[0], f"{name}_until": split.span[1], f"{name}_rows": split.rows}
        params |= {f"{name}_unlabelled": split.unlabelled}
        params |= {f"{name}_{of}": value for of, value in prints[name].items()}
        digest = f"v{made_from['delta_version']}-{prints[name]['content_sha256'][:16]}"
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
    """Fit once, and see how it does on both splits."""
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


def _typical_values(frame: pd.DataFrame) -> dict[str, Any]:
    """Of each column the median, or what occurs most often, and so a value that occurs; None where all are missing."""
    import pandas as pd

    found: dict[str, Any] = {}
    for name, column in frame.items():
        values = column.dropna()
        numbers = pd.api.types.is_numeric_dtype(values)
        middle = values.quantile(interpolation="lower") if numbers else next(iter(values.mode()), None)
        found[str(name)] = None if pd.isna(middle) else middle
    return found


def _importance(model: Model, fitted: Any, frame: pd.DataFrame, label: np.ndarray, seed: int) -> np.ndarray:
    """How much the Brier score rises, a row per feature and a column per shuffle, on held-out rows."""
    import numpy as np

    random = np.random.default_rng(seed)

    def brier(changed: pd.DataFrame) -> float:
        return float(np.mean((model.predict(fitted, changed) - label) ** 2))

    plain = brier(frame)
    rise = np.empty((len(model.FEATURES), SHUFFLES))
    for row, name in enumerate(model.FEATURES):
        for column in range(SHUFFLES):
            shuffled = frame[name].iloc[random.permutation(len(frame))].reset_index(drop=True)
            rise[row, column] = brier(frame.assign(**{name: shuffled})) - plain
    return rise


def _draw(
    folder: Path,
    model: Model,
    fitted: list[FittedCandidate],
    best: FittedCandidate,
    base: FittedCandidate,
    validation: LabelledRows,
    rise: np.ndarray,
) -> None:
    """The files that a run shows: every candidate, how it learned, the calibration, what the model goes by."""
    from lakehouse.ml import plots

    tried = [{"params": dict(one.params), "train": one.train, "validation": one.validation} for one in fitted]
    chosen = {"chosen": fitted.index(best), "candidates": tried}
    (folder / "candidates.json").write_text(json.dumps(chosen, indent=2))
    name, days = model.TASK.name, f"{validation.span[0]} to {validation.span[1]}"
    curves = {
        f"model (Brier {best.validation['brier']:.4f})": best.probability,
        f"baseline (Brier {base.validation['brier']:.4f})": base.probability,
    }
    title = f"{name}, validation split: {days}, {validation.rows:,} rows"
    plots.plot_calibration(validation.label, curves, title).savefig(folder / "validation_calibration.png")
    rows = min(SAMPLED_ROWS, validation.rows)
    title = f"{name}: {rows:,} rows of {days}, {SHUFFLES} shuffles"
    plots.plot_importance(model.FEATURES, rise, title).savefig(folder / "validation_importance.png")
    if best.curves:
        plots.plot_learning(best.curves, f"{name}: the chosen candidate").savefig(folder / "learning_curve.png")
