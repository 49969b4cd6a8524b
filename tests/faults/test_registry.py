"""Failures of the MLflow server: a training survives them, and is registered once."""

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
from lakehouse.ml.mlflow_client import LoadedModel, open_tracking_client
from lakehouse.ml.scoring import load_by_alias
from lakehouse.ml.task import Task
from tests.parcels import LEARNER, TASK, Place, change_model, parcels
from tests.s3 import Proxy, free_ports, proxy

pytestmark = pytest.mark.timeout(300)
UP = "pass"
AS_VERSION_IS_CREATED = "as the version is created"
REQUESTS = {
    "as the experiment is created": "/experiments/create",
    "as the run is created": "/runs/create",
    "from the start": "/",
    "as files are uploaded": "/mlflow-artifacts/",
    AS_VERSION_IS_CREATED: "/model-versions/create",
    "as the version gets its alias": "/registered-models/alias",
    "as the run ends": "/runs/update",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run an MLflow server behind a proxy."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    command = [
        *(str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(address):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        with proxy(address) as server_proxy:
            yield server_proxy
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{address}/health", timeout=5).status == 200)  # noqa: S310
    except OSError:
        return False


@pytest.fixture
def place(server: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return a place with its own lake, and with its own experiment and model on the shared server."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    server.rule = lambda method, path: UP
    place = Place(tmp_path / "lake", server.endpoint, "", experiment=tmp_path.name)
    place.write(parcels())
    return place


def make_task(place: Place) -> Task:
    return replace(TASK, name=place.experiment)


def load_champion(place: Place, module: Any) -> LoadedModel:
    return load_by_alias(module.TASK, {LEARNER: module}, tracking_uri=place.tracking_uri)


def belongs_to(run: Any, training: str) -> bool:
    """Return whether a run is the training's own or one of its candidates'."""
    return training in (run.info.run_id, run.data.tags.get("mlflow.parentRunId"))


def read_registry(place: Place, name: str) -> list[tuple[int, str, str]]:
    """Return the version, status and decision of each of the model's runs."""
    with open_tracking_client(place.tracking_uri) as client:
        versions = client.search_model_versions(f"name = '{name}'")
        runs = [client.get_run(version.run_id) for version in versions]
        return [
            (int(version.version), run.info.status, run.data.tags["decision"])
            for version, run in zip(versions, runs, strict=True)
        ]


@pytest.mark.parametrize(
    ("moment", "failure"),
    [
        *((moment, "down") for moment in REQUESTS if "experiment" not in moment),
        *((moment, "lose") for moment in (AS_VERSION_IS_CREATED, "as the version gets its alias")),
    ],
)
def test_a_training_survives_failures_and_registers_once(
    place: Place, server: Proxy, moment: str, failure: str
) -> None:
    late = change_model(TASK=make_task(place))
    server.rule = lambda method, path: failure if REQUESTS[moment] in path and method != "GET" else UP
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"MLflow server at .* \(MLFLOW_TRACKING_URI\) does not answer") as error:
        place.train(late)
    (pending,) = place.pending_folder.glob("*/*/training.json")
    assert str(pending.parent) in error.value.__notes__[0]
    assert time.monotonic() - began < 60
    server.rule = lambda method, path: "down"
    with pytest.raises(ModelError, match="does not answer"):
        place.train(late)  # Nothing is fitted while a training is pending.
    assert [pending] == list(place.pending_folder.glob("*/*/training.json"))
    server.rule = lambda method, path: UP
    messages: list[str] = []
    result = place.train(late, progress=messages.append)

    assert not any("fitting" in message for message in messages), "the pending training is the same"
    assert read_registry(place, late.TASK.name) == [(1, "FINISHED", "champion")]
    assert (result.model_version, result.alias, result.reason) == (1, "champion", "there was no champion")
    assert load_champion(place, late)[2:4] == (1, result.run_id)
    assert not list(place.pending_folder.glob("*/*/training.json"))
    with open_tracking_client(place.tracking_uri) as client:
        runs = client.search_runs([client.get_experiment_by_name(place.experiment).experiment_id])
    assert {run.info.status for run in runs if not belongs_to(run, result.run_id)} <= {"FAILED"}
    assert place.train(late).alias == "challenger"


@pytest.mark.parametrize("moment", ["as the experiment is created", "as the run is created", AS_VERSION_IS_CREATED])
def test_lost_answers_create_nothing_twice(place: Place, server: Proxy, moment: str) -> None:
    late = change_model(TASK=make_task(place))
    answers = iter(["lose"])
    server.rule = lambda method, path: next(answers, UP) if REQUESTS[moment] in path else UP
    result = place.train(late)
    sent = [(method, status) for method, path, status in server.requests if REQUESTS[moment] in path]
    assert sent[sent.index(("POST", 0)) + 1][0] == "POST", "the client repeats the request"
    assert read_registry(place, late.TASK.name) == [(1, "FINISHED", "champion")]
    with open_tracking_client(place.tracking_uri) as client:
        runs = client.search_runs([client.get_experiment_by_name(place.experiment).experiment_id])
    assert {run.info.status for run in runs if not belongs_to(run, result.run_id)} <= {"FAILED"}
    assert len([run for run in runs if belongs_to(run, result.run_id)]) == 1 + len(late.CANDIDATES)


def test_pending_trainings_keep_declaration_and_server(place: Place, server: Proxy, tmp_path: Path) -> None:
    late = change_model(TASK=make_task(place))
    server.rule = lambda method, path: "down"
    with pytest.raises(ModelError, match="does not answer"):
        place.train(late)
    (pending,) = place.pending_folder.glob("*/*/training.json")
    elsewhere = replace(place, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifact_root=tmp_path.as_uri())
    assert elsewhere.train(late).model_version == 1
    assert pending.exists(), "it is pending for another server"
    server.rule = lambda method, path: UP
    fewer = place.train(change_model(TASK=make_task(place), FEATURES=("distance_km", "items")))
    assert [folder.name for folder in place.pending_folder.glob("*/abandoned/*")] == [pending.parent.name]
    assert read_registry(place, late.TASK.name) == [(1, "FINISHED", "champion")]
    assert fewer.model_version == 1


def test_code_of_unknown_revision_is_trained_again(place: Place, server: Proxy) -> None:
    late = change_model(TASK=make_task(place))
    server.rule = lambda method, path: "down"
    with pytest.raises(ModelError, match="does not answer"):
        place.train(late, revision="")
    server.rule = lambda method, path: UP
    assert place.train(late, revision="").model_version == 2
    assert len(read_registry(place, late.TASK.name)) == 2


def test_an_unreadable_champion_is_not_replaced(place: Place, server: Proxy) -> None:
    best = change_model(TASK=make_task(place))
    place.train(best)
    weak = change_model(TASK=make_task(place), FEATURES=("noise",))
    server.rule = lambda method, path: "slow down" if method == "GET" and "/mlflow-artifacts/" in path else UP
    with pytest.raises(ModelError, match="MLflow server at"):
        place.train(weak)
    server.rule = lambda method, path: UP
    assert place.train(weak).alias == "challenger"
    assert load_champion(place, best).version == 1
