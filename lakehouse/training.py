"""Training: every model can be made again from the exact table version that it saw.

Candidates are fitted on the train split and the one with the lowest Brier score on the choose split is kept; the report split is
never read here (`lakehouse.scoring.report` reads it). All of it goes to a folder of this machine first, from which
`lakehouse.registering` takes it to MLflow: a server that is down costs no training.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lakehouse.errors import ModelError, without_password
from lakehouse.features import Features, Labelled, Model, open_features
from lakehouse.registering import Registry, Training, TrainResult, declared, says, waiting

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.storage import Location

logger = logging.getLogger(__name__)
SHUFFLES = 3
SHUFFLED_ROWS = 5_000


@dataclass(frozen=True)
class _Fitted:
    """A pipeline, the parameters it was fitted with, and how well it does."""

    pipeline: Any
    params: Mapping[str, Any]
    train: Mapping[str, float]
    choose: Mapping[str, float]
    probability: np.ndarray  # on the choose split


def train(
    model_module: Model,
    *,
    lake: Location,
    registry: Registry,
    revision: str,
    kept: Path,
    version: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fit, choose, log and register ``model_module`` from its feature table at ``version`` (by default the latest).

    ``revision`` is the code's. ``progress`` is told, in words, what happens next. A training stays in the folder ``kept``
    until MLflow has it: one that waits there is registered first, and is the result where it is of the same code, table
    version and seed. See `Registry.register` for what becomes champion.

    Raises:
        ModelError: the table, the version or a column is missing, a split has no labelled rows, the module's TRUSTED_TYPES do
            not cover what it fitted, or MLflow cannot be used.
    """
    tell = progress or (lambda _: None)
    kept = kept / model_module.NAME
    with _alone(kept, tell):
        features = open_features(model_module, lake, version)
        bound_for = {"lake": str(lake), "registry": without_password(registry.tracking_uri)}
        made_from = {
            "model": model_module.NAME, "feature_table": model_module.FEATURE_TABLE, "feature_table_id": features.table_id,
            "delta_version": features.version, "revision": revision, "seed": seed, "declared": declared(model_module),
        }  # fmt: skip
        for earlier in waiting(kept, **bound_for):
            try:
                rows = earlier.rows(model_module, lake)
            except ModelError as error:  # it can never be compared with the champion
                logger.warning("a training that waited for MLflow is set aside in %s: %s", earlier.set_aside(), error)
                continue
            tell("registering the training that waits for MLflow")
            result = registry.register(earlier, model_module, rows, tell)
            if says(earlier, made_from) and revision and not revision.endswith("dirty"):
                return result
        training = _fit_all(model_module, features, {**bound_for, **made_from}, kept, tell)
        return registry.register(training, model_module, training.rows(model_module, lake), tell)


@contextmanager
def _alone(kept: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """One training of a model at a time on this machine, so that none registers what another is about to."""
    kept.mkdir(parents=True, exist_ok=True)
    lock = FileLock(kept / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"waiting for another training of {kept.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fit_all(
    model: Model, features: Features, made_from: dict[str, Any], kept: Path, tell: Callable[[str], None]
) -> Training:
    """Fit the candidates and the baseline, and put what a training is into a folder of its own."""
    import skops.io

    seed, began = made_from["seed"], time.time()
    tell(f"reading {features}")
    chosen_on = features.labelled("choose")
    fitted_on = features.labelled("train")
    fitted = []
    for place, params in enumerate(model.CANDIDATES, start=1):
        tell(f"fitting candidate {place} of {len(model.CANDIDATES)}")
        fitted.append(_fit(model, model.FEATURES, params, seed, fitted_on, chosen_on))
    best = min(fitted, key=lambda one: one.choose["brier"])
    tell("fitting the baseline")
    base = _fit(model, model.BASELINE_FEATURES, best.params, seed, fitted_on, chosen_on)
    said = {
        "id": uuid.uuid4().hex, "began": began, **made_from, "params": dict(best.params),
        "rows": {"train": fitted_on.rows, "choose": chosen_on.rows}, "metrics": best.choose, "baseline": base.choose,
        **_data(model, made_from, {"train": fitted_on, "choose": chosen_on}),
        "logged_metrics": {
            f"{split}_{prefix}{name}": value
            for prefix, one in {"": best, "baseline_": base}.items()
            for split in ("train", "choose")
            for name, value in getattr(one, split).items()
        },
    }  # fmt: skip
    said["logged_params"] |= {f"model_{name}": value for name, value in best.params.items()}
    with tempfile.TemporaryDirectory(prefix=".", dir=kept) as unfinished:
        (folder := Path(unfinished, "training")).mkdir()
        for name, one in {"model": best, "baseline": base}.items():
            skops.io.dump(_trusted(model, one.pipeline), folder / f"{name}.skops")
        _draw(folder / "shown", model, fitted, best, base, chosen_on, seed)
        return Training(folder, said).save(kept)


def _data(model: Model, made_from: Mapping[str, Any], splits: Mapping[str, Labelled]) -> dict[str, Any]:
    """What the model was made from: enough to make it again, and to check that it was the same rows."""
    named = ("feature_table", "feature_table_id", "delta_version", "revision", "seed")
    params = {name: made_from[name] for name in named} | {"features": len(model.FEATURES)}
    inputs = []
    for name, split in splits.items():
        params |= {f"{name}_from": split.span[0], f"{name}_until": split.span[1], f"{name}_rows": split.rows}
        params |= {f"{name}_unlabelled": split.unlabelled, f"{name}_keys_sha256": split.keys_sha256}
        digest = f"v{made_from['delta_version']}-{split.keys_sha256[:16]}"
        inputs.append({"context": name, "digest": digest, "rows": split.rows})
    return {"logged_params": params, "inputs": inputs}


def _trusted(model: Model, pipeline: Any) -> Any:
    import skops.io

    strange = set(skops.io.get_untrusted_types(data=skops.io.dumps(pipeline))) - set(model.TRUSTED_TYPES)
    if strange:
        raise ModelError(
            f"{model.NAME}: its pipeline holds types that TRUSTED_TYPES does not name: {', '.join(sorted(strange))}. Read what they "
            "do, then add them there."
        )
    return pipeline


def _fit(
    model: Model,
    features: tuple[str, ...],
    params: Mapping[str, Any],
    seed: int,
    fitted_on: Labelled,
    chosen_on: Labelled,
) -> _Fitted:
    labelled = fitted_on.frame.assign(**{model.LABEL: fitted_on.label})
    pipeline = model.fit(labelled, features=features, params=params, seed=seed)
    probability = model.predict(pipeline, chosen_on.frame)
    return _Fitted(
        pipeline,
        params,
        train=model.evaluate(fitted_on.label, model.predict(pipeline, fitted_on.frame)),
        choose=model.evaluate(chosen_on.label, probability),
        probability=probability,
    )


def _importance(model: Model, pipeline: Any, split: Labelled, seed: int) -> np.ndarray:
    """How much the Brier score rises, a row per feature and a column per shuffle, on a sample of held-out rows."""
    import numpy as np

    random = np.random.default_rng(seed)
    taken = np.sort(random.choice(split.rows, min(SHUFFLED_ROWS, split.rows), replace=False))
    frame, label = split.frame.iloc[taken].reset_index(drop=True), split.label[taken]

    def brier(changed: pd.DataFrame) -> float:
        return float(np.mean((model.predict(pipeline, changed) - label) ** 2))

    plain = brier(frame)
    rise = np.empty((len(model.FEATURES), SHUFFLES))
    for row, name in enumerate(model.FEATURES):
        for column in range(SHUFFLES):
            shuffled = frame[name].iloc[random.permutation(len(frame))].reset_index(drop=True)
            rise[row, column] = brier(frame.assign(**{name: shuffled})) - plain
    return rise


def _draw(
    folder: Path, model: Model, fitted: list[_Fitted], best: _Fitted, base: _Fitted, chosen_on: Labelled, seed: int
) -> None:
    """The files that a run shows: every candidate, the calibration, what the model goes by."""
    from lakehouse import plots

    folder.mkdir()
    tried = [{"params": dict(one.params), "train": one.train, "choose": one.choose} for one in fitted]
    chosen = {"chosen": fitted.index(best), "candidates": tried}
    (folder / "candidates.json").write_text(json.dumps(chosen, indent=2))
    days = f"{chosen_on.span[0]} to {chosen_on.span[1]}"
    curves = {
        f"model (Brier {best.choose['brier']:.4f})": best.probability,
        f"baseline (Brier {base.choose['brier']:.4f})": base.probability,
    }
    title = f"{model.NAME}, choose split: {days}, {chosen_on.rows:,} rows"
    plots.calibration(chosen_on.label, curves, title).savefig(folder / "choose_calibration.png")
    rise = _importance(model, best.pipeline, chosen_on, seed)
    rows = min(SHUFFLED_ROWS, chosen_on.rows)
    title = f"{model.NAME}: {rows:,} rows of {days}, {SHUFFLES} shuffles"
    plots.importance(model.FEATURES, rise, title).savefig(folder / "choose_importance.png")
