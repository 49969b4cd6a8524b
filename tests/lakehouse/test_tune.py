"""Tuning on a shop's parcels: studies that go on where they stopped, trials that fail, what MLflow is told, Dask."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from deltalake import DeltaTable
from threadpoolctl import threadpool_limits

from lakehouse import app, tuning
from lakehouse.errors import ModelError
from lakehouse.registering import Registry
from lakehouse.settings import PROJECT, load
from lakehouse.tracking import tracking
from lakehouse.tuning import TuneResult
from tests import parcel_trees
from tests.parcels import LEARNER, Place, model, parcels


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def tune(place: Place, trials: int, module: Any = parcel_trees, **more: Any) -> TuneResult:
    registry = Registry(place.tracking_uri, place.artifact_root, place.experiment)
    told = {"revision": "abc123", "kept": place.kept, **more}
    return tuning.tune(LEARNER, {LEARNER: module}, lake=place.lake, registry=registry, trials=trials, **told)


def runs(place: Place, result: TuneResult) -> list[Any]:
    """The runs below the study's, by number."""
    with tracking(place.tracking_uri) as client:
        experiment = client.get_experiment_by_name(place.experiment).experiment_id
        below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    return sorted(below, key=lambda run: int(run.data.tags["trial"]))


def in_a_process(place: Place, trials: int, first: str = "", **more: Any) -> str:
    """A script that tunes."""
    registry = f"Registry({place.tracking_uri!r}, {place.artifact_root!r}, {place.experiment!r})"
    places = f"lake=Path({str(place.lake)!r}), kept=Path({str(place.kept)!r}), registry={registry}"
    return "\n".join(
        [
            "import os",
            "from pathlib import Path",
            "from lakehouse import study_runs, tuning",
            "from lakehouse.registering import Registry",
            "from tests import parcel_trees",
            textwrap.dedent(first),
            "if __name__ == '__main__':",
            f"    models = {{{LEARNER!r}: parcel_trees}}",
            f"    tuning.tune({LEARNER!r}, models, revision='abc123', trials={trials}, {places}, **{more!r})",
        ]
    )


def numbers(result: TuneResult) -> list[int]:
    return sorted(one.number for one in result.trials)


def test_a_study_finds_what_the_candidates_lack_and_mlflow_has_every_trial(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    result = tune(place, 6, progress=told.append)

    assert len(result.trials) == 6
    assert result.trials[0].number != 0, "the candidate of two rounds is not the best"
    briers = [one.metrics["choose_brier"] for one in result.trials if not one.error]
    assert briers == sorted(briers)
    first = next(one for one in result.trials if one.number == 0)
    assert first.params == {"max_iter": 2, "max_depth": 3}, "the model's own candidate comes first"
    assert told[-1] == f"6 of 6 trials, the best Brier score {briers[0]:.4f}"
    parent, below = place.run(result.run_id), runs(place, result)
    assert (parent.info.status, len(below)) == ("FINISHED", 6)
    assert parent.data.tags["best_trial"] == str(result.best.number)
    assert json.loads(parent.data.tags["best_params"]) == result.best.params
    assert (parent.data.tags["delta_version"], parent.data.tags["trials"]) == ("0", "6")
    assert parent.data.metrics["choose_brier"] == briers[0]
    for run, trial in zip(below, sorted(result.trials, key=lambda one: one.number), strict=True):
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert {name: run.data.metrics[name] for name in trial.metrics} == trial.metrics
        assert run.data.tags["revision"] == "abc123"
        assert 0 < run.info.end_time - run.info.start_time < 60_000
        assert not [name for name in run.data.metrics if name.startswith("report")]
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error:Fixed parameter")
def test_the_spaces_of_the_example_hold_its_candidates() -> None:
    for one in app.load_models(load()).values():
        assert [one.space(optuna.trial.FixedTrial(dict(params))) for params in one.CANDIDATES] == [*one.CANDIDATES]


def test_a_trial_is_judged_as_training_judges(place: Place) -> None:
    result = tune(place, 3)
    trained = place.train(model(CANDIDATES=(result.best.params,)))
    assert trained.metrics["brier"] == result.best.metrics["choose_brier"]


def test_a_trial_that_fails_is_on_record_and_ends_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 5}, {"max_iter": 20}, {"max_iter": 6}))
    result = tune(place, 3)

    assert [one.params["max_iter"] for one in result.trials][2:] == [20], "those that failed come last"
    assert result.trials[2].error.startswith("ValueError: 20 rounds are too many (tests/parcel_trees.py, line ")
    run = runs(place, result)[1]
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", result.trials[2].error)
    assert [run.info.status for run in runs(place, result)] == ["FINISHED", "FAILED", "FINISHED"]
    assert numbers(tune(place, 3)) == [0, 1, 2], "it counts: it would fail again"
    assert [one.params["max_iter"] for one in tune(place, 4).trials].count(20) == 1


def test_where_all_trials_fail_the_error_says_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_trees, "fit", lambda *_, **how: 1 / how["seed"])
    with pytest.raises(
        ModelError,
        match=r"None of the 2 trials of trees succeeded. The last one: ZeroDivisionError: .* \(lakehouse/test_tune.py, line",
    ):
        tune(place, 2)
    with pytest.raises(ModelError, match="trees has no finished trial of its present space"):
        tuning.best(LEARNER, parcel_trees, place.kept)


def test_a_study_goes_on_to_so_many_trials_in_all(place: Place) -> None:
    first = tune(place, 4)
    with_more = tune(place, 9)
    none_left = tune(place, 5)

    assert (first.study, first.run_id) == (with_more.study, with_more.run_id)
    assert numbers(with_more) == list(range(9)) == numbers(none_left)
    assert {one.number: one for one in with_more.trials} | {one.number: one for one in first.trials} == {
        one.number: one for one in with_more.trials
    }, "what was known stays"
    drawn = [one.params["max_iter"] for one in sorted(with_more.trials, key=lambda one: one.number)]
    assert drawn[4:8] != drawn[1:5] and drawn[4:8] != drawn[:4], (
        "a sampler that begins again must not draw the same again"
    )
    assert len(runs(place, with_more)) == 9


def test_another_version_space_or_declaration_is_another_study(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [tune(place, 1).study]
    monkeypatch.setattr(parcel_trees, "FEATURES", ("distance_km",))
    studies.append(tune(place, 1).study)
    monkeypatch.setattr(parcel_trees, "space", lambda trial: {"max_iter": trial.suggest_int("max_iter", 1, 3)})
    studies.append(tune(place, 1).study)
    place.write(parcels(seed=1))
    studies.append(tune(place, 1, revision="def456").study)
    assert len(set(studies)) == 4
    assert studies[0].startswith("trees-v0-")
    assert studies[3].startswith("trees-v1-")
    assert tune(place, 1, revision="789abc").study == studies[3], "whatever the revision"


def test_an_interrupt_keeps_what_ended_and_lets_the_trials_under_way_end(place: Place) -> None:
    def interrupt(said: str) -> None:
        if said.startswith("2 of 8"):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tune(place, 8, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    with tracking(place.tracking_uri) as client:
        experiment = client.get_experiment_by_name(place.experiment).experiment_id
        (parent,) = client.search_runs([experiment], "tags.study LIKE 'trees%'")
    assert (parent.info.status, parent.data.tags["trials"]) == ("KILLED", "3"), "the third was under way"
    result = tune(place, 5)
    assert result.run_id == parent.info.run_id
    assert place.run(result.run_id).info.status == "FINISHED"
    assert numbers(result) == [0, 1, 2, 3, 4]


def test_after_a_kill_a_study_goes_on(place: Place, tmp_path: Path) -> None:
    """The process ends while a trial is under way, and while MLflow is told of another."""
    cut_off = """
        logged = study_runs.log_below
        def cut_off(*args):
            run = logged(*args)
            if args[3] == "trial 2":
                os.kill(os.getpid(), 9)
            return run
        study_runs.log_below = cut_off
    """
    script = in_a_process(place, 6, cut_off)
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    result = tune(place, 6)
    below = runs(place, result)

    assert len(result.trials) == 6
    assert not [one for one in result.trials if one.error], "what was cut off is no failure"
    assert [int(run.data.tags["trial"]) for run in below] == numbers(result), "each trial is told once"
    assert {run.info.status for run in below} == {"FINISHED"}


def test_a_candidate_that_was_cut_off_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the process ends during its first trial, which is one of the model's own candidates."""
    cut_off = """
        parcel_trees.CANDIDATES = ({"max_iter": 7}, {"max_iter": 5})
        tuning.try_out = lambda *_: os.kill(os.getpid(), 9)
    """
    for _ in range(2):
        command = [sys.executable, "-c", in_a_process(place, 2, cut_off)]
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 7}, {"max_iter": 5}))
    result = tune(place, 2)
    assert sorted(one.params["max_iter"] for one in result.trials) == [5, 7]
    assert sorted(one.params["max_iter"] for one in tune(place, 4).trials if one in result.trials) == [5, 7]
    assert len(runs(place, result)) == 4, "none is tried twice that came to an end"


def test_a_trial_that_was_cut_off_when_all_was_known_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(optuna.Study, "tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(place, 1)
    known = tune(place, 1)
    assert (numbers(known), known.best.params) == ([0], parcel_trees.CANDIDATES[0] | {"max_depth": 3})


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_mlflow_is_told_later_what_it_missed(place: Place, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"

    def cut_off(said: str) -> None:
        if said.startswith("1 of 4"):
            database.rename(tmp_path / "away.db")
            database.mkdir()
        if said.startswith("3 of 4"):
            database.rmdir()
            (tmp_path / "away.db").rename(database)

    result = tune(place, 4, progress=cut_off)
    assert [int(run.data.tags["trial"]) for run in runs(place, result)] == [0, 1, 2, 3]


def test_a_server_that_is_down_costs_no_trial(place: Place, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "mlflow.db").write_text("not a database, but some text that is long enough to be read as one " * 20)
    with pytest.raises(ModelError, match=r"mlflow.db cannot be used") as error:
        tune(place, 3, progress=told.append)
    assert "Trials that ended are kept in the study" in error.value.__notes__[0]
    assert told == []


def test_several_trials_are_under_way_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = [], []

    def fit(*splits: Any, **how: Any) -> Any:
        under_way.append(1)
        time.sleep(0.2)
        most.append(len(under_way))
        under_way.pop()
        return fitted(*splits, **how)

    fitted = parcel_trees.fit
    monkeypatch.setattr(parcel_trees, "fit", fit)
    result = tune(place, 5, jobs=2)
    assert (len(result.trials), max(most)) == (5, 2)


def test_two_tunings_of_one_study_do_not_mix(place: Place) -> None:
    said: list[str] = []

    def again(_: str) -> None:
        if not said:
            said.append("")
            with pytest.raises(ModelError, match="Another `lakehouse tune` is at the study trees-v0-"):
                tune(place, 2)

    assert len(tune(place, 2, progress=again).trials) == 2
    assert said


@pytest.mark.parametrize(
    ("module", "more", "text"),
    [
        (model(), {}, r"trees cannot be tuned: tests.parcels has no function `space\(trial\)`"),
        (
            model(__name__=parcel_trees.__name__, space=lambda trial: trial.suggest_int("max_iter", 3, 1)),
            {},
            r"space cannot be drawn from: ValueError: .*low.*high.* \(lakehouse/test_tune.py, line",
        ),
        (model(space=lambda trial: {}, ON_SPARK=True), {"on": "dask"}, "trees fits on Spark, .* tune it on threads"),
        (model(space=lambda trial: {}, FEATURES=("weight",)), {}, "lacks what late_parcel reads: weight"),
    ],
)
def test_what_cannot_be_tuned_is_told(place: Place, module: Any, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        tune(place, 2, module, **more)


def test_studies_that_are_damaged_are_told(place: Place) -> None:
    place.kept.mkdir()
    (place.kept / "studies.db").write_text("not a database, but some text that is long enough to be read as one " * 20)
    with pytest.raises(ModelError, match=r"The studies in .*studies.db cannot be used: .*not a database"):
        tune(place, 2)


def test_training_takes_the_best_parameters_as_its_only_candidate(place: Place) -> None:
    with pytest.raises(
        ModelError, match="trees has no finished trial of its present space: run `lakehouse tune trees` first"
    ):
        tuning.best(LEARNER, parcel_trees, place.kept)
    result = tune(place, 4)
    place.write(parcels(seed=1))  # the study's version need not be the newest
    best = tuning.best(LEARNER, parcel_trees, place.kept)
    trained = place.train(parcel_trees, tuned=best)

    assert (best.study, best.params) == (result.study, result.best.params) == (best.study, trained.params)
    run = place.run(trained.run_id)
    assert run.data.params["study"] == result.study
    assert run.data.params["model_max_iter"] == str(result.best.params["max_iter"])
    assert trained.delta_version == 1
    plain = place.run(place.train(parcel_trees).run_id)
    assert "study" not in plain.data.params
    assert plain.data.params["model_max_iter"] == "2"


def test_dask_workers_read_the_lake_themselves(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 5}, {"max_iter": 20}))
    result = tune(place, 4, on="dask", jobs=2)
    assert numbers(result) == [0, 1, 2, 3]
    failed = next(one for one in result.trials if one.number == 1)
    assert failed.error.startswith("ValueError: 20 rounds are too many")
    assert len(runs(place, result)) == 4
    assert capfd.readouterr() == ("", "")
    on_threads = tune(place, 5)
    assert on_threads.study == result.study
    assert numbers(on_threads) == [0, 1, 2, 3, 4], "it goes on on threads"


def test_an_interrupt_reaches_the_workers_of_dask_and_ends_no_trial(place: Place, tmp_path: Path) -> None:
    script, out = tmp_path / "tune.py", tmp_path / "out"
    script.write_text(in_a_process(place, 50, on="dask", jobs=2))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SLOW_FIT": "2"}
    with out.open("wb") as said:
        running = subprocess.Popen(
            [sys.executable, script], env=environment, stdout=said, stderr=said, start_new_session=True
        )
    studies, until = place.kept / "studies.db", time.monotonic() + 120
    while ended(studies) < 2:
        assert running.poll() is None and time.monotonic() < until, out.read_text()
        time.sleep(0.2)
    time.sleep(1)  # the next two are under way
    workers = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    running.wait(60)
    assert "KeyboardInterrupt" in out.read_text()
    assert "died" not in out.read_text()
    psutil.wait_procs(workers, timeout=20)
    assert not [one for one in workers if one.is_running()]
    known = ended(studies)
    assert known >= 4
    result = tune(place, known)
    assert len(result.trials) == known
    assert not [one for one in result.trials if one.error]


def ended(studies: Path) -> int:
    """How many trials have ended, by the file."""
    if not studies.exists():
        return 0
    with closing(sqlite3.connect(studies)) as connection, suppress(sqlite3.OperationalError):
        return int(connection.execute("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')").fetchone()[0])
    return 0


def test_a_dask_cluster_elsewhere_is_named_by_its_address(place: Place) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, host="tcp://127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        result = tune(place, 3, on="dask", dask=cluster.scheduler_address)
        assert numbers(result) == [0, 1, 2]
    with pytest.raises(ModelError, match="The Dask scheduler tcp://127.0.0.1:1 does not answer"):
        tune(place, 4, on="dask", dask="tcp://127.0.0.1:1")


def test_a_worker_that_finds_another_table_does_not_count_as_a_failed_trial(place: Place) -> None:
    from lakehouse.trials import Work, try_out

    table = DeltaTable(place.lake / "gold" / "parcels")
    work = Work(parcel_trees.__name__, place.lake, "another-id", table.version(), 0)
    with pytest.raises(ModelError, match="A worker finds another gold.parcels in .*: the lake must be one for all"):
        try_out(work, {"max_iter": 2})
