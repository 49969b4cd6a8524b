"""Parameter search: draw from a model's `space`, fit on the train split, compare Brier scores on the validation split.

The test split is never read. Trials are stored in an Optuna study in a file of this machine. An interrupted search
continues its study as long as the model, the version of its feature table and its space are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, as_completed, wait
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
    """Result of a search: all trials of a study, best first and failed ones last, and the study's run in MLflow."""

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
    """Continue a study of ``models[learner]`` until it has ``trials`` trials, failed ones included.

    The model's CANDIDATES are tried first.

    Args:
        studies_folder: the folder of the studies' database.
        jobs: the number of trials that run at once.
        backend: threads of this process, or Dask.
        dask: the address of Dask's scheduler; empty to start workers on this machine.

    Raises:
        ModelError: the model has no space or cannot be tuned there, its table or a split's rows are missing, no trial
            succeeded, another process tunes the same study, or MLflow or Dask cannot be used. Finished trials stay in
            the study.
    """
    model = models[learner]
    space = _require_space(learner, model)
    if backend == "dask" and model.ON_SPARK:
        raise ModelError(f"{learner} fits on Spark, which has workers of its own: tune it on threads.")
    features = open_features(model.TASK, lake, model.FEATURES)
    attributes = _build_study_attributes(learner, model, features, seed)
    name = f"{learner}-v{features.version}-{_compute_digest(attributes)}"
    spec = TrialSpec(model.__name__, lake, features.table_id, features.version, seed)
    with _open_storage(studies_folder) as storage, _lock_study(studies_folder, name):
        study = _open_study(storage, name, attributes, model)
        runs = StudyRuns(registry, name, f"tuning {learner} on {features}", _run_tags(attributes))
        with _read_logged_trials(study, runs):
            if backend == "threads":
                open_splits(spec)  # once, for all threads
            with open_executor(backend, dask, jobs) as pool:
                _search(study, space, trials, jobs, pool, spec, runs, revision, progress or (lambda _: None))
        ended = _list_ended_trials(study)
    if all(trial.error for trial in ended):
        raise ModelError(f"None of the {len(ended)} trials of {learner} succeeded. The last one: {ended[-1].error}")
    return TuneResult(learner, name, runs.run_id, features.version, tuple(sorted(ended, key=_rank)))


def find_best_params(learner: str, model: Model, studies_folder: Path) -> TunedParams:
    """Return the best parameters of the newest study of the model's current space, on any version of its table.

    Raises:
        ModelError: there is no such study with a finished trial.
    """
    import optuna

    space = compute_code_fingerprint(_require_space(learner, model))
    with _open_storage(studies_folder) as storage:
        studies = [
            study
            for study in optuna.get_all_study_summaries(storage)
            if study.best_trial and study.datetime_start
            if (study.user_attrs.get("learner"), study.user_attrs.get("space")) == (learner, space)
        ]
        if not studies:
            raise ModelError(
                f"{learner} has no finished trial of its present space: run `lakehouse tune {learner}` first."
            )
        newest = max(studies, key=lambda study: study.datetime_start.timestamp() if study.datetime_start else 0)
        assert newest.best_trial
        return TunedParams(newest.study_name, newest.best_trial.user_attrs["params"])


# --- studies --------------------------------------------------------------------------------------------------------


def _require_space(learner: str, model: Model) -> Space:
    space: Space | None = getattr(model, "space", None)
    if space is None:
        raise ModelError(
            f"{learner} cannot be tuned: {model.__name__} has no function `space(trial)`. Add one that returns "
            "parameters for `fit`, each from trial.suggest_float, suggest_int or suggest_categorical."
        )
    return space


def _build_study_attributes(learner: str, model: Model, features: FeatureTable, seed: int) -> dict[str, Any]:
    """Return the identity of a study: trials under different attributes are not comparable and get another study."""
    return {
        "learner": learner,
        "feature_table": model.TASK.feature_table,
        "feature_table_id": features.table_id,
        "delta_version": features.version,
        "space": compute_code_fingerprint(_require_space(learner, model)),
        "seed": seed,
        "declared": describe_declaration(model),
    }


def _run_tags(attributes: Mapping[str, Any]) -> dict[str, str]:
    names = ("learner", "feature_table", "feature_table_id", "delta_version", "seed")
    return {name: str(attributes[name]) for name in names}


def _compute_digest(attributes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()[:DIGITS]


@contextmanager
def _open_storage(folder: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open the database of all studies.

    Raises:
        ModelError: the database cannot be used.
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
def _lock_study(folder: Path, study: str) -> Iterator[None]:
    lock = FileLock(folder / f".{study}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ModelError(
            f"Study {study} is in use by another `lakehouse tune`. Wait until that command ends, or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _read_logged_trials(study: optuna.Study, runs: StudyRuns) -> Iterator[None]:
    """Log the study's trials before a search, and again after it with the status in which the search ended.

    Raises:
        ModelError: MLflow cannot be used before the search, or after a search that succeeded.
    """
    runs.log_trials(_list_ended_trials(study))  # before the first trial: an unreachable server must cost none
    try:
        yield
    except BaseException:
        runs.log_trials(_list_ended_trials(study), "KILLED", is_strict=False)
        raise
    runs.log_trials(_list_ended_trials(study), "FINISHED")


def _open_study(
    storage: optuna.storages.BaseStorage, name: str, attributes: Mapping[str, Any], model: Model
) -> optuna.Study:
    """Create or load a study, close the trials of an interrupted search and enqueue the model's candidates."""
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if "metrics" in trial.user_attrs:  # interrupted after its metrics were stored
            study.tell(trial.number, trial.user_attrs["metrics"][OBJECTIVE])
        else:  # without an error it does not count as ended
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    for params in _list_pending_candidates(study, model):
        study.enqueue_trial(params)
    # A sampler that began with the same seed again would draw the same parameters again.
    study.sampler = optuna.samplers.TPESampler(seed=attributes["seed"] + len(study.get_trials(deepcopy=False)))
    return study


def _list_pending_candidates(study: optuna.Study, model: Model) -> list[dict[str, Any]]:
    """Return the model's candidates that have neither ended nor wait in the queue; interrupted ones are tried again."""
    from optuna.trial import TrialState

    tried = [
        trial.system_attrs.get("fixed_params")
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.WAITING) or "error" in trial.user_attrs
    ]
    candidates = json.loads(json.dumps([dict(params) for params in model.CANDIDATES]))  # as Optuna stores them
    return [params for params in candidates if params not in tried]


def _list_ended_trials(study: optuna.Study) -> list[Trial]:
    """Return the trials that have ended, by number."""
    from optuna.trial import TrialState

    trials = []
    for stored in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
        attributes, start, end = stored.user_attrs, stored.datetime_start, stored.datetime_complete
        if start and end and ("metrics" in attributes or "error" in attributes):
            trials.append(
                Trial(
                    number=stored.number,
                    params=attributes["params"],
                    metrics=attributes.get("metrics", {}),
                    started_at=start.timestamp(),
                    seconds=(end - start).total_seconds(),
                    revision=attributes["revision"],
                    error=attributes.get("error", ""),
                )
            )
    return trials


def _rank(trial: Trial) -> tuple[bool, float, int]:
    return bool(trial.error), trial.metrics.get(OBJECTIVE, 0.0), trial.number


# --- the search -----------------------------------------------------------------------------------------------------


def _search(
    study: optuna.Study,
    space: Space,
    trials: int,
    jobs: int,
    pool: Executor,
    spec: TrialSpec,
    runs: StudyRuns,
    revision: str,
    progress: Callable[[str], None],
) -> None:
    """Keep ``jobs`` trials running until ``trials`` have ended.

    After a first interrupt the running trials finish; a second one ends the process.
    """
    running: dict[Future[dict[str, Any]], optuna.Trial] = {}
    try:
        while True:
            ended = _list_ended_trials(study)
            for _ in range(min(jobs, trials - len(ended)) - len(running)):
                trial = study.ask()
                trial.set_user_attr("revision", revision)
                params = _draw_params(space, trial)
                running[pool.submit(run_trial, spec, params)] = trial
            progress(_describe_progress(ended, trials))
            runs.log_trials(ended, is_strict=False)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                _record(study, running.pop(future), future)
    except KeyboardInterrupt:
        handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
        if running:
            progress("waiting for the running trials; interrupt again to give them up")
        for future in as_completed(running):
            _record(study, running[future], future)
        signal.signal(signal.SIGINT, handler)
        raise


def _describe_progress(ended: list[Trial], trials: int) -> str:
    scores = [trial.metrics[OBJECTIVE] for trial in ended if not trial.error]
    return f"{len(ended)} of {trials} trials" + (f", the best Brier score {min(scores):.4f}" if scores else "")


def _draw_params(space: Space, trial: optuna.Trial) -> Mapping[str, Any]:
    try:
        params = dict(space(trial))
        trial.set_user_attr("params", params)
    except Exception as error:  # the user's function may raise anything
        reason = f"{type(error).__name__}: {get_first_line(error)}{locate_error(error)}"
        raise ModelError(
            f"The model's space(): no parameters could be drawn: {reason}. Correct the function."
        ) from error
    return params


def _record(study: optuna.Study, trial: optuna.Trial, future: Future[dict[str, Any]]) -> None:
    """Store a trial's outcome in the study.

    Raises:
        ModelError: the trial could not run, which says nothing about its parameters.
    """
    from optuna.trial import TrialState

    try:
        outcome = future.result()
    except LakehouseError:
        raise
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's
            raise ModelError(
                f"Tuning: the workers are gone ({get_first_line(error)}). Run `lakehouse tune` again to continue."
            ) from error
        outcome = {"error": "its worker died, probably out of memory"}
    if "error" in outcome:
        logger.warning("trial %d failed: %s", trial.number, outcome.pop("trace", outcome["error"]))
    for name, value in outcome.items():
        trial.set_user_attr(name, value)
    if "error" in outcome:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, outcome["metrics"][OBJECTIVE])
