"""Studies that are interrupted, killed, damaged, or run on Dask's workers."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from deltalake import DeltaTable

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import open_tracking_client
from tests import parcel_trees
from tests.lakehouse.ml.tuning.test_search import numbers, runs, tune
from tests.parcels import LEARNER, Place
from tests.paths import PROJECT


def tuning_script(place: Place, trials: int, first: str = "", **more: Any) -> str:
    """Return a Python script that tunes."""
    registry = f"Registry({place.tracking_uri!r}, {place.artifact_root!r}, {place.experiment!r})"
    places = f"lake=Path({str(place.lake)!r}), studies_folder=Path({str(place.pending_folder)!r}), registry={registry}"
    return "\n".join(
        [
            "import os",
            "from pathlib import Path",
            "from lakehouse.ml.tuning import search, study_runs",
            "from lakehouse.ml.registry import Registry",
            "from tests import parcel_trees",
            textwrap.dedent(first),
            "if __name__ == '__main__':",
            f"    models = {{{LEARNER!r}: parcel_trees}}",
            f"    search.tune({LEARNER!r}, models, revision='abc123', trials={trials}, {places}, **{more!r})",
        ]
    )


def test_interrupt_keeps_ended_and_running_trials(place: Place) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("2 of 8"):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tune(place, 8, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    with open_tracking_client(place.tracking_uri) as client:
        experiment = client.get_experiment_by_name(place.experiment).experiment_id
        (parent,) = client.search_runs([experiment], "tags.study LIKE 'trees%'")
    assert (parent.info.status, parent.data.tags["trials"]) == ("KILLED", "3"), "the third trial was running"
    result = tune(place, 5)
    assert result.run_id == parent.info.run_id
    assert place.run(result.run_id).info.status == "FINISHED"
    assert numbers(result) == [0, 1, 2, 3, 4]


def test_study_continues_after_kill(place: Place, tmp_path: Path) -> None:
    """Kill the process during a trial, while another is logged to MLflow."""
    cut_off = """
        logged = study_runs.log_child_run
        def cut_off(*args):
            run = logged(*args)
            if args[3] == "trial 2":
                os.kill(os.getpid(), 9)
            return run
        study_runs.log_child_run = cut_off
    """
    script = tuning_script(place, 6, cut_off)
    process = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    result = tune(place, 6)
    trial_runs = runs(place, result)

    assert len(result.trials) == 6
    assert not [trial for trial in result.trials if trial.error], "an interrupted trial is no failure"
    assert [int(run.data.tags["trial"]) for run in trial_runs] == numbers(result), "each trial is logged once"
    assert {run.info.status for run in trial_runs} == {"FINISHED"}


def test_interrupted_candidate_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the process twice during its first trial, one of the model's own candidates."""
    cut_off = """
        parcel_trees.CANDIDATES = ({"max_iter": 7}, {"max_iter": 5})
        search.run_trial = lambda *_: os.kill(os.getpid(), 9)
    """
    for _ in range(2):
        command = [sys.executable, "-c", tuning_script(place, 2, cut_off)]
        process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 7}, {"max_iter": 5}))
    result = tune(place, 2)
    assert sorted(trial.params["max_iter"] for trial in result.trials) == [5, 7]
    assert sorted(trial.params["max_iter"] for trial in tune(place, 4).trials if trial in result.trials) == [5, 7]
    assert len(runs(place, result)) == 4, "no ended trial is repeated"


def test_trial_interrupted_after_its_result_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(optuna.Study, "tell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(place, 1)
    result = tune(place, 1)
    assert (numbers(result), result.best.params) == ([0], parcel_trees.CANDIDATES[0] | {"max_depth": 3})


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_missed_trials_are_logged_later(place: Place, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"

    def cut_off(text: str) -> None:
        if text.startswith("1 of 4"):
            database.rename(tmp_path / "away.db")
            database.mkdir()
        if text.startswith("3 of 4"):
            database.rmdir()
            (tmp_path / "away.db").rename(database)

    result = tune(place, 4, progress=cut_off)
    assert [int(run.data.tags["trial"]) for run in runs(place, result)] == [0, 1, 2, 3]


def test_unusable_server_costs_no_trial(place: Place, tmp_path: Path) -> None:
    messages: list[str] = []
    (tmp_path / "mlflow.db").write_text(
        "not a database, but some text that is long enough to be read as a header " * 20
    )
    with pytest.raises(ModelError, match=r"mlflow.db cannot be used") as error:
        tune(place, 3, progress=messages.append)
    assert "Trials that ended are kept in the study" in error.value.__notes__[0]
    assert messages == []


def test_damaged_studies_are_named(place: Place) -> None:
    place.pending_folder.mkdir()
    (place.pending_folder / "studies.db").write_text(
        "not a database, but some text that is long enough to be read as a header " * 20
    )
    with pytest.raises(ModelError, match=r"The studies in .*studies.db cannot be used: .*not a database"):
        tune(place, 2)


def test_dask_workers_read_the_lake_themselves(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 5}, {"max_iter": 20}))
    result = tune(place, 4, backend="dask", jobs=2)
    assert numbers(result) == [0, 1, 2, 3]
    failed = next(trial for trial in result.trials if trial.number == 1)
    assert failed.error.startswith("ValueError: 20 rounds are too many")
    assert len(runs(place, result)) == 4
    assert capfd.readouterr() == ("", "")
    on_threads = tune(place, 5)
    assert on_threads.study == result.study
    assert numbers(on_threads) == [0, 1, 2, 3, 4], "the study continues on threads"


def test_interrupt_reaches_dask_workers(place: Place, tmp_path: Path) -> None:
    script, out = tmp_path / "tune.py", tmp_path / "out"
    script.write_text(tuning_script(place, 50, backend="dask", jobs=2))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SLOW_FIT": "2"}
    with out.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, script], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    studies, deadline = place.pending_folder / "studies.db", time.monotonic() + 120
    while count_ended(studies) < 2:
        assert process.poll() is None and time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)
    time.sleep(1)  # The next two trials are running.
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
    process.wait(60)
    assert "KeyboardInterrupt" in out.read_text()
    assert "died" not in out.read_text()
    psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in workers if worker.is_running()]
    count = count_ended(studies)
    assert count >= 4
    result = tune(place, count)
    assert len(result.trials) == count
    assert not [trial for trial in result.trials if trial.error]


def count_ended(studies: Path) -> int:
    """Return the number of ended trials in the file."""
    if not studies.exists():
        return 0
    with closing(sqlite3.connect(studies)) as connection, suppress(sqlite3.OperationalError):
        return int(connection.execute("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')").fetchone()[0])
    return 0


def test_dask_cluster_is_named_by_address(place: Place) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, host="tcp://127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        result = tune(place, 3, backend="dask", dask=cluster.scheduler_address)
        assert numbers(result) == [0, 1, 2]
    with pytest.raises(ModelError, match="The Dask scheduler tcp://127.0.0.1:1 does not answer"):
        tune(place, 4, backend="dask", dask="tcp://127.0.0.1:1")


def test_worker_with_other_table_fails_the_study(place: Place) -> None:
    from lakehouse.ml.tuning.trials import TrialSpec, run_trial

    table = DeltaTable(place.lake / "gold" / "parcels")
    work = TrialSpec(parcel_trees.__name__, place.lake, "another-id", table.version(), 0)
    with pytest.raises(ModelError, match="A worker reads another gold.parcels in .*. Give all workers the same lake"):
        run_trial(work, {"max_iter": 2})
