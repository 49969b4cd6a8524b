"""Tuning: parameters of a model's `space`, fitted on the train split and judged by their Brier score on the validation split.

The test split is never read. Trials are kept in a study of Optuna, in a file of this machine: a search that was cut off goes on
where it stopped, for the same model, version of its feature table and space.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from lakehouse.definitions.fingerprint import compute_code_fingerprint
from lakehouse.errors import LakehouseError, ModelError, get_first_line, locate_error
from lakehouse.ml.dataset import FeatureTable, open_features
from lakehouse.ml.registry import Registry
from lakehouse.ml.task import Model
from lakehouse.ml.training import TunedParams
from lakehouse.ml.training_record import describe_declaration
from lakehouse.ml.tuning.study_runs import StudyRuns, Trial
from lakehouse.ml.tuning.trials import Backend, TrialSpec, open_executor, open_splits, run_trial

if TYPE_CHECKING:
    import optuna

    from lakehouse.storage.location import Location

logger = logging.getLogger(__name__)
OBJECTIVE: Final = "validation_brier"
DIGITS = 12
Space = Callable[["optuna.Trial"], Mapping[str, Any]]


@dataclass(frozen=True)
class TuneResult:
    """What a study holds: all its trials, the best first and those that failed last, and its run in MLflow."""

    learner: str
    study: str
    run_id: str
    delta_version: int
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        return self.trials[0]


def tune(
    learner: str,
    models: Mapping[str, Model],
    *,
    lake: Location,
    registry: Registry,
    revision: str,
    studies_folder: Path,
    trials: int,
    jobs: int = 1,
    backend: Backend = "threads",
    dask: str = "",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> TuneResult:
    """Go on with a study of ``models[learner]`` until it has so many ``trials``, those that failed included.

    ``jobs`` of them are under way at once: on threads, or on Dask, whose scheduler's address is ``dask``; without one, workers
    are started on this machine. The model's CANDIDATES come first. Studies are kept in the folder ``kept``.

    Raises:
        ModelError: the model has no space or cannot be tuned there, its table or a split's rows are missing, no trial succeeded,
            another tuning is at the same study, or MLflow or Dask cannot be used. Trials that finished are kept.
    """
    tell, model = progress or (lambda _: None), models[learner]
    space = _require_space(learner, model)
    if backend == "dask" and model.ON_SPARK:
        raise ModelError(f"{learner} fits on Spark, which has workers of its own: tune it on threads.")
    features = open_features(model.TASK, lake, model.FEATURES)
    about = _study_attributes(learner, model, features, seed)
    name = f"{learner}-v{features.version}-{_digest(about)}"
    work = TrialSpec(model.__name__, lake, features.table_id, features.version, seed)
    with _open_storage(studies_folder) as storage, _study_lock(studies_folder, name):
        study = _open_study(storage, name, about, model)
        tags = {
            key: str(about[key]) for key in ("learner", "feature_table", "feature_table_id", "delta_version", "seed")
        }
        runs = StudyRuns(registry, name, f"tuning {learner} on {features}", tags)
        runs.log_trials(_trials(study))  # before the first trial: a server that is down should cost none
        if backend == "threads":
            open_splits(work)  # once, for all threads
        try:
            with open_executor(backend, dask, jobs) as pool:
                _search(
                    study,
                    space,
                    trials,
                    jobs,
                    lambda params: pool.submit(run_trial, work, params),
                    tell,
                    runs,
                    revision,
                )
        except BaseException:
            runs.log_trials(_trials(study), "KILLED", is_strict=False)
            raise
        runs.log_trials(_trials(study), "FINISHED")
        found = _trials(study)
    if all(one.error for one in found):
        raise ModelError(f"None of the {len(found)} trials of {learner} succeeded. The last one: {found[-1].error}")
    return TuneResult(learner, name, runs.run_id, features.version, tuple(sorted(found, key=_rank)))


def find_best_params(learner: str, model: Model, studies_folder: Path) -> TunedParams:
    """The best parameters of the model's newest study with its space of today, of whichever version of its feature table.

    Raises:
        ModelError: there is none.
    """
    import optuna

    space = compute_code_fingerprint(_require_space(learner, model))
    with _open_storage(studies_folder) as storage:
        found = [one for one in optuna.get_all_study_summaries(storage) if one.best_trial and one.datetime_start]
        mine = [
            one for one in found if (one.user_attrs.get("learner"), one.user_attrs.get("space")) == (learner, space)
        ]
        if not mine:
            raise ModelError(
                f"{learner} has no finished trial of its present space: run `lakehouse tune {learner}` first."
            )
        newest = max(mine, key=lambda one: one.datetime_start.timestamp() if one.datetime_start else 0)
        assert newest.best_trial
        return TunedParams(newest.study_name, newest.best_trial.user_attrs["params"])


# --- studies --------------------------------------------------------------------------------------------------------


def _require_space(learner: str, model: Model) -> Space:
    space: Space | None = getattr(model, "space", None)
    if space is None:
        raise ModelError(
            f"{learner} cannot be tuned: {model.__name__} has no function `space(trial)` that returns parameters for its `fit`, "
            "each from one of trial.suggest_float, suggest_int and suggest_categorical."
        )
    return space


def _study_attributes(learner: str, model: Model, features: FeatureTable, seed: int) -> dict[str, Any]:
    """What a study is of: where any of it differs, trials cannot be compared, and another study begins."""
    return {
        "learner": learner, "feature_table": model.TASK.feature_table, "feature_table_id": features.table_id,
        "delta_version": features.version, "space": compute_code_fingerprint(_require_space(learner, model)), "seed": seed,
        "declared": describe_declaration(model),
    }  # fmt: skip


def _digest(attributes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()[:DIGITS]


@contextmanager
def _open_storage(folder: Path) -> Iterator[optuna.storages.RDBStorage]:
    """The database of all studies.

    Raises:
        ModelError: it cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "studies.db"
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ModelError(
            f"The studies in {file} cannot be used: {get_first_line(error)}. Move the file away, or restore it."
        ) from error


@contextmanager
def _study_lock(folder: Path, study: str) -> Iterator[None]:
    lock = FileLock(folder / f".{study}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ModelError(f"Another `lakehouse tune` is at the study {study}: wait for it, or end it.") from None
    try:
        yield
    finally:
        lock.release()


def _open_study(
    storage: optuna.storages.BaseStorage, name: str, attributes: Mapping[str, Any], model: Model
) -> optuna.Study:
    """The study, in which no trial is under way, and the model's own candidates come first."""
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if "metrics" in left.user_attrs:  # cut off when all was known
            study.tell(left.number, left.user_attrs["metrics"][OBJECTIVE])
        else:  # it counts only with an error
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    for params in _pending_candidates(study, model):
        study.enqueue_trial(params)
    # A sampler that began with the same seed again would draw the same parameters again.
    study.sampler = optuna.samplers.TPESampler(seed=attributes["seed"] + len(study.get_trials(deepcopy=False)))
    return study


def _pending_candidates(study: optuna.Study, model: Model) -> list[dict[str, Any]]:
    """The model's candidates that neither came to an end nor wait: one that was cut off is tried again."""
    from optuna.trial import TrialState

    kept = [
        one.system_attrs.get("fixed_params")
        for one in study.get_trials(deepcopy=False)
        if one.state in (TrialState.COMPLETE, TrialState.WAITING) or "error" in one.user_attrs
    ]
    candidates = json.loads(json.dumps([dict(one) for one in model.CANDIDATES]))  # as Optuna keeps them
    return [one for one in candidates if one not in kept]


def _trials(study: optuna.Study) -> list[Trial]:
    """The trials that have come to an end, in their order."""
    from optuna.trial import TrialState

    found = []
    for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
        said, began, ended = one.user_attrs, one.datetime_start, one.datetime_complete
        if began and ended and ("metrics" in said or "error" in said):
            metrics, error = said.get("metrics", {}), said.get("error", "")
            seconds = (ended - began).total_seconds()
            found.append(
                Trial(one.number, said["params"], metrics, began.timestamp(), seconds, said["revision"], error)
            )
    return found


def _rank(trial: Trial) -> tuple[bool, float, int]:
    return bool(trial.error), trial.metrics.get(OBJECTIVE, 0.0), trial.number


# --- the search -----------------------------------------------------------------------------------------------------


def _search(
    study: optuna.Study,
    space: Space,
    trials: int,
    jobs: int,
    submit: Callable[[Mapping[str, Any]], Future[dict[str, Any]]],
    progress: Callable[[str], None],
    runs: StudyRuns,
    revision: str,
) -> None:
    """Keep ``jobs`` trials under way until so many have ended. An interrupt lets those under way end, a second one does not."""
    under_way: dict[Future[dict[str, Any]], optuna.Trial] = {}
    try:
        while True:
            ended = _trials(study)
            for _ in range(min(jobs, trials - len(ended)) - len(under_way)):
                trial = study.ask()
                trial.set_user_attr("revision", revision)
                params = _draw_params(space, trial)
                under_way[submit(params)] = trial
            progress(_progress(ended, trials))
            runs.log_trials(ended, is_strict=False)
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                _record(study, under_way.pop(future), future)
    except KeyboardInterrupt:
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        if under_way:
            progress("ending the trials under way; interrupt again to give them up")
        for future in as_completed(under_way):
            _record(study, under_way[future], future)
        signal.signal(signal.SIGINT, before)
        raise


def _progress(ended: list[Trial], trials: int) -> str:
    known = [one.metrics[OBJECTIVE] for one in ended if not one.error]
    return f"{len(ended)} of {trials} trials" + (f", the best Brier score {min(known):.4f}" if known else "")


def _draw_params(space: Space, trial: optuna.Trial) -> Mapping[str, Any]:
    try:
        params = dict(space(trial))
        trial.set_user_attr("params", params)
    except Exception as error:  # whatever a mistake in the user's function raises
        said = f"{type(error).__name__}: {get_first_line(error)}{locate_error(error)}"
        raise ModelError(f"The model's space cannot be drawn from: {said}") from error
    return params


def _record(study: optuna.Study, trial: optuna.Trial, future: Future[dict[str, Any]]) -> None:
    """Put on record what became of a trial.

    Raises:
        ModelError: it could not be tried, which says nothing of its parameters.
    """
    from optuna.trial import TrialState

    try:
        said = future.result()
    except LakehouseError:
        raise
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # of Dask
            raise ModelError(f"The workers are gone ({get_first_line(error)}). Run it again to go on.") from error
        said = {"error": "its worker died, as one does that runs out of memory"}
    if "error" in said:
        logger.warning("trial %d failed: %s", trial.number, said.pop("trace", said["error"]))
    for name, value in said.items():
        trial.set_user_attr(name, value)
    if "error" in said:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, said["metrics"][OBJECTIVE])
