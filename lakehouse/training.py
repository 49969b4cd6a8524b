"""Training: every model can be made again from the exact table version that it saw.

Candidates are fitted on the train split and the one with the lowest Brier score on the choose split is kept; the report split is
never read here (`lakehouse.scoring.report` reads it). Everything goes to one MLflow run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any, Final, Literal

from lakehouse.errors import ModelError
from lakehouse.features import Features, Labelled, Model, open_features
from lakehouse.scoring import BASELINE_TAG, CHAMPION, find_champion, load_pipeline, reads, tracking

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.storage import Location

CHALLENGER: Final = "challenger"
REQUIREMENTS = ("mlflow", "scikit-learn", "skops", "pandas", "numpy")
SHUFFLES = 3
SHUFFLED_ROWS = 5_000
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
    tracking_uri: str,
    artifact_root: str,
    experiment: str,
    revision: str,
    version: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fit, choose, log and register ``model_module`` from its feature table at ``version`` (by default the latest).

    ``artifact_root`` is the URI below which a new experiment keeps its files; "" leaves that to the tracking server.
    ``revision`` is the code's. ``progress`` is told, in words, what happens next. The new version becomes `champion` where
    there is none, where its Brier score on the choose split is lower than the champion's on the same rows, or where
    the champion can no longer be loaded or evaluated; otherwise it becomes `challenger`.

    Raises:
        ModelError: the table, the version or a column is missing, a split has no labelled rows, the module's TRUSTED_TYPES do
            not cover what it fitted, or MLflow cannot be used.
    """
    tell = progress or (lambda _: None)
    features = open_features(model_module, lake, version)
    tell(f"reading {features}")
    chosen_on = features.labelled("choose")
    fitted_on = features.labelled("train")
    with tracking(tracking_uri) as client:
        import mlflow

        run = mlflow.start_run(
            experiment_id=_experiment(client, experiment, artifact_root),
            run_name=f"{model_module.NAME} from {features}",
            tags={
                "delta_version": str(features.version),
                "revision": revision,
                "mlflow.source.name": "lakehouse train",
                "mlflow.source.git.commit": revision,
            },
        )
        with run:
            run_id = run.info.run_id
            _log_data(model_module, features, fitted_on, chosen_on, revision, seed)
            fitted = []
            for place, params in enumerate(model_module.CANDIDATES, start=1):
                tell(f"fitting candidate {place} of {len(model_module.CANDIDATES)}")
                fitted.append(_fit(model_module, model_module.FEATURES, params, seed, fitted_on, chosen_on))
            best = min(fitted, key=lambda one: one.choose["brier"])
            tell("fitting the baseline")
            base = _fit(model_module, model_module.BASELINE_FEATURES, best.params, seed, fitted_on, chosen_on)
            tell("logging to MLflow")
            _log_quality(model_module, fitted, best, base, chosen_on, seed)
            base_model = _log_model(model_module, "baseline", base, model_module.BASELINE_FEATURES, chosen_on)
            best_model = _log_model(model_module, "model", best, model_module.FEATURES, chosen_on)
            registered = _register(client, model_module.NAME, best_model, run_id, features, revision)
            tell("comparing with the champion")
            alias, reason = _decide(client, model_module, features, best, chosen_on)
            mlflow.set_tags({BASELINE_TAG: base_model.model_uri, "decision": alias, "decision_reason": reason})
            client.set_model_version_tag(model_module.NAME, registered.version, "decision_reason", reason)
            # Last, so that a training cut short never leaves a champion half described.
            client.set_registered_model_alias(model_module.NAME, alias, registered.version)
    return TrainResult(
        model_name=model_module.NAME,
        model_version=int(registered.version),
        alias=alias,
        reason=reason,
        run_id=run_id,
        delta_version=features.version,
        params=dict(best.params),
        rows={"train": fitted_on.rows, "choose": chosen_on.rows},
        metrics=best.choose,
        baseline=base.choose,
    )


def _experiment(client: Any, name: str, artifact_root: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_root or None))
    if found.lifecycle_stage != "active":
        raise ModelError(f"MLflow experiment {name!r} was deleted: restore it (`mlflow experiments restore`).")
    return str(found.experiment_id)


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


def _log_data(
    model: Model, features: Features, fitted_on: Labelled, chosen_on: Labelled, revision: str, seed: int
) -> None:
    """What the model was made from: enough to make it again, and to check that it was the same rows."""
    import mlflow
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    class Pinned(DeltaDatasetSource):
        """MLflow's own leaves out a version that is 0, so that the latest would be loaded in its place."""

        def to_dict(self) -> dict[Any, Any]:
            return {**super().to_dict(), "delta_table_version": self.delta_table_version}

    # The id tells a table from one that was made anew in its place, whose versions start again.
    table_id = str(features.log.delta.metadata().id)
    params = {"feature_table": model.FEATURE_TABLE, "feature_table_id": table_id, "delta_version": features.version}
    params |= {"revision": revision, "seed": seed, "features": len(model.FEATURES)}
    source = Pinned(path=str(features.log.path), delta_table_version=features.version)
    for name, split in {"train": fitted_on, "choose": chosen_on}.items():
        params |= {f"{name}_from": split.span[0], f"{name}_until": split.span[1], f"{name}_rows": split.rows}
        params |= {f"{name}_unlabelled": split.unlabelled, f"{name}_keys_sha256": split.keys_sha256}
        digest = f"v{features.version}-{split.keys_sha256[:16]}"
        dataset = MetaDataset(source, name=model.FEATURE_TABLE, digest=digest)  # type: ignore[abstract]
        mlflow.log_input(dataset, context=name, tags={"delta_version": str(features.version), "rows": str(split.rows)})
    mlflow.log_params(params)


def _log_quality(
    model: Model, fitted: list[_Fitted], best: _Fitted, base: _Fitted, chosen_on: Labelled, seed: int
) -> None:
    import mlflow

    from lakehouse import plots

    mlflow.log_params({f"model_{name}": value for name, value in best.params.items()})
    tried = [{"params": dict(one.params), "train": one.train, "choose": one.choose} for one in fitted]
    mlflow.log_dict({"chosen": fitted.index(best), "candidates": tried}, "candidates.json")
    for prefix, one in {"": best, "baseline_": base}.items():
        mlflow.log_metrics({f"train_{prefix}{name}": value for name, value in one.train.items()})
        mlflow.log_metrics({f"choose_{prefix}{name}": value for name, value in one.choose.items()})
    days = f"{chosen_on.span[0]} to {chosen_on.span[1]}"
    curves = {
        f"model (Brier {best.choose['brier']:.4f})": best.probability,
        f"baseline (Brier {base.choose['brier']:.4f})": base.probability,
    }
    title = f"{model.NAME}, choose split: {days}, {chosen_on.rows:,} rows"
    mlflow.log_figure(plots.calibration(chosen_on.label, curves, title), "choose_calibration.png")
    rise = _importance(model, best.pipeline, chosen_on, seed)
    rows = min(SHUFFLED_ROWS, chosen_on.rows)
    title = f"{model.NAME}: {rows:,} rows of {days}, {SHUFFLES} shuffles"
    mlflow.log_figure(plots.importance(model.FEATURES, rise, title), "choose_importance.png")


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


def _log_model(model: Model, name: str, fitted: _Fitted, features: tuple[str, ...], split: Labelled) -> Any:
    """Store a pipeline with skops under the active run; its pyfunc flavour answers with both classes' probabilities."""
    import mlflow.sklearn
    import skops.io
    from mlflow.models import infer_signature

    strange = set(skops.io.get_untrusted_types(data=skops.io.dumps(fitted.pipeline))) - set(model.TRUSTED_TYPES)
    if strange:
        raise ModelError(
            f"{model.NAME}: its pipeline holds types that TRUSTED_TYPES does not name: {', '.join(sorted(strange))}. Read what they "
            "do, then add them there."
        )
    example = split.frame[list(features)].head(EXAMPLE_ROWS)
    return mlflow.sklearn.log_model(
        fitted.pipeline,
        name=name,
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
        skops_trusted_types=list(model.TRUSTED_TYPES),
        signature=infer_signature(example, fitted.pipeline.predict_proba(example)),
        input_example=example,
        pyfunc_predict_fn="predict_proba",
        # Given, because MLflow would otherwise start another process to find them out.
        pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
    )


def _register(client: Any, name: str, logged: Any, run_id: str, features: Features, revision: str) -> Any:
    from mlflow import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        description=f"Trained on {features}, code {revision}.",
        tags={"delta_version": str(features.version), "revision": revision},
    )


def _decide(
    client: Any, model: Model, features: Features, best: _Fitted, chosen_on: Labelled
) -> tuple[Literal["champion", "challenger"], str]:
    """Which alias the new version gets, and why. The rows are the same for both, those of today's table version."""
    import mlflow

    found = find_champion(client, model.NAME)
    if found is None:
        return CHAMPION, "there was no champion"
    held = f"on {chosen_on.rows:,} rows of {chosen_on.span[0]} to {chosen_on.span[1]}"
    new = best.choose["brier"]
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
