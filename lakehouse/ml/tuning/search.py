"""Tuning: parameters of a model's `space`, fitted on the train split and judged by their Brier score on the choose split.

The report split is never read. Trials are kept in a study of Optuna, in a file of this machine: a search that was cut off goes on
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

from lakehouse.definitions.fingerprint import code_of
from lakehouse.errors import LakehouseError, ModelError, first_line, place_of
from lakehouse.ml.dataset import Features, open_features
from lakehouse.ml.registry import Registry
from lakehouse.ml.task import Model
from lakehouse.ml.training import Tuned
from lakehouse.ml.training_record import declared
from lakehouse.ml.tuning.study_runs import StudyRuns, Trial
from lakehouse.ml.tuning.trials import On, Work, opened, try_out, workers

if TYPE_CHECKING:
    import optuna

    from lakehouse.storage.location import Location

logger = logging.getLogger(__name__)
JUDGED_BY: Final = "choose_brier"
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
    kept: Path,
    trials: int,
    jobs: int = 1,
    on: On = "threads",
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
    space = _space_of(learner, model)
    if on == "dask" and model.ON_SPARK:
        raise ModelError(f"{learner} fits on Spark, which has workers of its own: tune it on threads.")
    features = open_features(model.TASK, lake, model.FEATURES)
    about = _about(learner, model, features, seed)
    name = f"{learner}-v{features.version}-{_digest(about)}"
    work = Work(model.__name__, lake, features.table_id, features.version, seed)
    with _studies(kept) as storage, _alone(kept, name):
        study = _open(storage, name, about, model)
        tags = {
            key: str(about[key]) for key in ("learner", "feature_table", "feature_table_id", "delta_version", "seed")
        }
        runs = StudyRuns(registry, name, f"tuning {learner} on {features}", tags)
        runs.tell(_trials(study))  # before the first trial: a server that is down should cost none
        if on == "threads":
            opened(work)  # once, for all threads
        try:
            with workers(on, dask, jobs) as pool:
                _search(
                    study, space, trials, jobs, lambda params: pool.submit(try_out, work, params), tell, runs, revision
                )
        except BaseException:
            runs.tell(_trials(study), "KILLED", strict=False)
            raise
        runs.tell(_trials(study), "FINISHED")
        found = _trials(study)
    if all(one.error for one in found):
        raise ModelError(f"None of the {len(found)} trials of {learner} succeeded. The last one: {found[-1].error}")
    return TuneResult(learner, name, runs.run_id, features.version, tuple(sorted(found, key=_rank)))


def best(learner: str, model: Model, kept: Path) -> Tuned:
    """The best parameters of the model's newest study with its space of today, of whichever version of its feature table.

    Raises:
        ModelError: there is none.
    """
    import optuna

    space = code_of(_space_of(learner, model))
    with _studies(kept) as storage:
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
        return Tuned(newest.study_name, newest.best_trial.user_attrs["params"])


# --- studies --------------------------------------------------------------------------------------------------------


def _space_of(learner: str, model: Model) -> Space:
    space: Space | None = getattr(model, "space", None)
    if space is None:
        raise ModelError(
            f"{learner} cannot be tuned: {model.__name__} has no function `space(trial)` that returns parameters for its `fit`, "
            "each from one of trial.suggest_float, suggest_int and suggest_categorical."
        )
    return space


def _about(learner: str, model: Model, features: Features, seed: int) -> dict[str, Any]:
    """What a study is of: where any of it differs, trials cannot be compared, and another study begins."""
    return {
        "learner": learner, "feature_table": model.TASK.feature_table, "feature_table_id": features.table_id,
        "delta_version": features.version, "space": code_of(_space_of(learner, model)), "seed": seed,
        "declared": declared(model),
    }  # fmt: skip


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:DIGITS]


@contextmanager
def _studies(kept: Path) -> Iterator[optuna.storages.RDBStorage]:
    """The database of all studies.

    Raises:
        ModelError: it cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    kept.mkdir(parents=True, exist_ok=True)
    file = kept / "studies.db"
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ModelError(
            f"The studies in {file} cannot be used: {first_line(error)}. Move the file away, or restore it."
        ) from error


@contextmanager
def _alone(kept: Path, study: str) -> Iterator[None]:
    lock = FileLock(kept / f".{study}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ModelError(f"Another `lakehouse tune` is at the study {study}: wait for it, or end it.") from None
    try:
        yield
    finally:
        lock.release()


def _open(storage: optuna.storages.BaseStorage, name: str, about: Mapping[str, Any], model: Model) -> optuna.Study:
    """The study, in which no trial is under way, and the model's own candidates come first."""
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    for key, value in about.items():
        study.set_user_attr(key, value)
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if "metrics" in left.user_attrs:  # cut off when all was known
            study.tell(left.number, left.user_attrs["metrics"][JUDGED_BY])
        else:  # it counts only with an error
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    for params in _untried(study, model):
        study.enqueue_trial(params)
    # A sampler that began with the same seed again would draw the same parameters again.
    study.sampler = optuna.samplers.TPESampler(seed=about["seed"] + len(study.get_trials(deepcopy=False)))
    return study


def _untried(study: optuna.Study, model: Model) -> list[dict[str, Any]]:
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
    return bool(trial.error), trial.metrics.get(JUDGED_BY, 0.0), trial.number


# --- the search -----------------------------------------------------------------------------------------------------


def _search(
    study: optuna.Study,
    space: Space,
    trials: int,
    jobs: int,
    submit: Callable[[Mapping[str, Any]], Future[dict[str, Any]]],
    tell: Callable[[str], None],
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
                params = _drawn(space, trial)
                under_way[submit(params)] = trial
            tell(_progress(ended, trials))
            runs.tell(ended, strict=False)
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                _record(study, under_way.pop(future), future)
    except KeyboardInterrupt:
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        if under_way:
            tell("ending the trials under way; interrupt again to give them up")
        for future in as_completed(under_way):
            _record(study, under_way[future], future)
        signal.signal(signal.SIGINT, before)
        raise


def _progress(ended: list[Trial], trials: int) -> str:
    known = [one.metrics[JUDGED_BY] for one in ended if not one.error]
    return f"{len(ended)} of {trials} trials" + (f", the best Brier score {min(known):.4f}" if known else "")


def _drawn(space: Space, trial: optuna.Trial) -> Mapping[str, Any]:
    try:
        params = dict(space(trial))
        trial.set_user_attr("params", params)
    except Exception as error:  # whatever a mistake in the user's function raises
        said = f"{type(error).__name__}: {first_line(error)}{place_of(error)}"
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
            raise ModelError(f"The workers are gone ({first_line(error)}). Run it again to go on.") from error
        said = {"error": "its worker died, as one does that runs out of memory"}
    if "error" in said:
        logger.warning("trial %d failed: %s", trial.number, said.pop("trace", said["error"]))
    for name, value in said.items():
        trial.set_user_attr(name, value)
    if "error" in said:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, said["metrics"][JUDGED_BY])
