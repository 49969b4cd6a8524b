"""Bad days of the MLflow server: a training survives them, and is registered once."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import LoadedModel, tracking_client
from lakehouse.ml.scoring import load_by_alias
from lakehouse.ml.task import Task
from tests.parcels import LEARNER, TASK, Place, change_model, parcels
from tests.s3 import Proxy, free_ports, proxy

pytestmark = pytest.mark.timeout(300)
UP = "pass"
MADE = "as the version is made"
REQUESTS = {
    "as the experiment is made": "/experiments/create",
    "as the run is made": "/runs/create",
    "from the start": "/",
    "as files are uploaded": "/mlflow-artifacts/",
    MADE: "/model-versions/create",
    "as the version gets its alias": "/registered-models/alias",
    "as the run ends": "/runs/update",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """An MLflow server, behind a proxy."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    command = [
        *(str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while not _answers(address):
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        with proxy(address) as standing:
            yield standing
    finally:
        running.terminate()
        running.wait()


def _answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{address}/health", timeout=5).status == 200)  # noqa: S310
    except OSError:
        return False


@pytest.fixture
def place(server: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A lake of its own and, on the one server, an experiment and a model of its own."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    server.rule = lambda method, path: UP
    place = Place(tmp_path / "lake", server.endpoint, "", experiment=tmp_path.name)
    place.write(parcels())
    return place


def task_of(place: Place) -> Task:
    return replace(TASK, name=place.experiment)


def champion(place: Place, module: Any) -> LoadedModel:
    return load_by_alias(module.TASK, {LEARNER: module}, tracking_uri=place.tracking_uri)


def of(run: Any, training: str) -> bool:
    """Whether a run is the training's own, or that of one of its candidates."""
    return training in (run.info.run_id, run.data.tags.get("mlflow.parentRunId"))


def registered(place: Place, name: str) -> list[tuple[int, str, str]]:
    """Version, status and decision of the model's runs, as the registry has them."""
    with tracking_client(place.tracking_uri) as client:
        versions = client.search_model_versions(f"name = '{name}'")
        runs = [client.get_run(one.run_id) for one in versions]
        return [
            (int(one.version), run.info.status, run.data.tags["decision"])
            for one, run in zip(versions, runs, strict=True)
        ]


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        *((moment, "down") for moment in REQUESTS if "experiment" not in moment),
        *((moment, "lose") for moment in (MADE, "as the version gets its alias")),
    ],
)
def test_a_training_is_kept_while_mlflow_is_down_and_registered_once(
    place: Place, server: Proxy, moment: str, how: str
) -> None:
    late = change_model(TASK=task_of(place))
    server.rule = lambda method, path: how if REQUESTS[moment] in path and method != "GET" else UP
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"MLflow server at .* \(MLFLOW_TRACKING_URI\) does not answer") as error:
        place.train(late)
    (kept,) = place.pending_folder.glob("*/*/training.json")
    assert str(kept.parent) in error.value.__notes__[0]
    assert time.monotonic() - began < 60
    server.rule = lambda method, path: "down"
    with pytest.raises(ModelError, match="does not answer"):
        place.train(late)  # which fits nothing as long as one waits
    assert [kept] == list(place.pending_folder.glob("*/*/training.json"))
    server.rule = lambda method, path: UP
    told: list[str] = []
    result = place.train(late, progress=told.append)

    assert not any("fitting" in one for one in told), "what was kept is what would be trained"
    assert registered(place, late.TASK.name) == [(1, "FINISHED", "champion")]
    assert (result.model_version, result.alias, result.reason) == (1, "champion", "there was no champion")
    assert champion(place, late)[2:4] == (1, result.run_id)
    assert not list(place.pending_folder.glob("*/*/training.json"))
    with tracking_client(place.tracking_uri) as client:
        runs = client.search_runs([client.get_experiment_by_name(place.experiment).experiment_id])
    assert {run.info.status for run in runs if not of(run, result.run_id)} <= {"FAILED"}
    assert place.train(late).alias == "challenger"


@pytest.mark.parametrize("moment", ["as the experiment is made", "as the run is made", MADE])
def test_what_is_made_is_made_once_though_an_answer_is_lost(place: Place, server: Proxy, moment: str) -> None:
    late = change_model(TASK=task_of(place))
    answers = iter(["lose"])
    server.rule = lambda method, path: next(answers, UP) if REQUESTS[moment] in path else UP
    made = place.train(late)
    sent = [(method, status) for method, path, status in server.requests if REQUESTS[moment] in path]
    assert sent[sent.index(("POST", 0)) + 1][0] == "POST", "it is sent again"
    assert registered(place, late.TASK.name) == [(1, "FINISHED", "champion")]
    with tracking_client(place.tracking_uri) as client:
        runs = client.search_runs([client.get_experiment_by_name(place.experiment).experiment_id])
    assert {run.info.status for run in runs if not of(run, made.run_id)} <= {"FAILED"}
    assert len([run for run in runs if of(run, made.run_id)]) == 1 + len(late.CANDIDATES)


def test_what_waits_is_registered_as_it_was_declared_and_where_it_belongs(
    place: Place, server: Proxy, tmp_path: Path
) -> None:
    late = change_model(TASK=task_of(place))
    server.rule = lambda method, path: "down"
    with pytest.raises(ModelError, match="does not answer"):
        place.train(late)
    (kept,) = place.pending_folder.glob("*/*/training.json")
    elsewhere = replace(place, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifact_root=tmp_path.as_uri())
    assert elsewhere.train(late).model_version == 1
    assert kept.exists(), "it waits for another server"
    server.rule = lambda method, path: UP
    fewer = place.train(change_model(TASK=task_of(place), FEATURES=("distance_km", "items")))
    assert [one.name for one in place.pending_folder.glob("*/abandoned/*")] == [kept.parent.name]
    assert registered(place, late.TASK.name) == [(1, "FINISHED", "champion")]
    assert fewer.model_version == 1


def test_code_that_is_not_known_to_be_the_same_is_trained_anew(place: Place, server: Proxy) -> None:
    late = change_model(TASK=task_of(place))
    server.rule = lambda method, path: "down"
    with pytest.raises(ModelError, match="does not answer"):
        place.train(late, revision="")
    server.rule = lambda method, path: UP
    assert place.train(late, revision="").model_version == 2
    assert len(registered(place, late.TASK.name)) == 2


def test_a_champion_that_cannot_be_read_now_is_not_replaced(place: Place, server: Proxy) -> None:
    best = change_model(TASK=task_of(place))
    place.train(best)
    weak = change_model(TASK=task_of(place), FEATURES=("noise",))
    server.rule = lambda method, path: "slow down" if method == "GET" and "/mlflow-artifacts/" in path else UP
    with pytest.raises(ModelError, match="MLflow server at"):
        place.train(weak)
    server.rule = lambda method, path: UP
    assert place.train(weak).alias == "challenger"
    assert champion(place, best).version == 1
