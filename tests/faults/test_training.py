"""Trainings while MLflow cannot be used, and errors while fitting."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import open_tracking_client
from tests.parcels import TASK, Place, change_model


@pytest.mark.parametrize("moved_first", [True, False])
def test_pending_training_is_registered_by_its_splits(place: Place, moved_first: bool) -> None:
    """A training on later days is pending when one on the declared days begins, and the other way round."""
    place.train(change_model(FEATURES=("noise",)))
    moved = replace(
        TASK, splits=replace(TASK.splits, train=("2024-01-01", "2024-01-25"), validation=("2024-01-26", "2024-02-04"))
    )
    tasks = (moved, TASK) if moved_first else (TASK, moved)
    database = place.lake.parent / "mlflow.db"
    away = database.rename(database.with_name("away.db"))
    database.mkdir()
    with pytest.raises(ModelError, match="cannot be used") as error:
        place.train(change_model(TASK=tasks[0]))
    assert "the next `lakehouse train` registers it" in error.value.__notes__[0]
    database.rmdir()
    away.rename(database)
    messages: list[str] = []
    second = place.train(change_model(TASK=tasks[1]), progress=messages.append)

    assert not list(place.pending_folder.glob("*/abandoned/*"))
    assert "registering the training that waits for MLflow" in messages
    assert "fitting candidate 1 of 2" in messages, "the pending training is another one"
    with open_tracking_client(place.tracking_uri) as client:
        versions = client.search_model_versions("name = 'late_parcel'", order_by=["version_number ASC"])
    pending, own = (place.run(version.run_id) for version in versions[1:])
    for run, task in ((pending, tasks[0]), (own, tasks[1])):
        spans = {
            name: (run.data.params[f"{name}_from"], run.data.params[f"{name}_until"])
            for name in ("train", "validation")
        }
        assert spans == {"train": task.splits.train, "validation": task.splits.validation}
    first, last = tasks[0].splits.validation
    assert f"on 90 rows of {first} to {last} is below" in pending.data.tags["decision_reason"]
    assert (own.info.run_id, pending.data.tags["decision"]) == (second.run_id, "champion")


def test_unusable_database_fails_without_showing_password(place: Place, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_text("not a database, but some text that is long enough to be read as a header " * 20)
    with pytest.raises(ModelError, match=r"MLflow at sqlite:///.*mlflow.db cannot be used: file is not a database"):
        place.train(change_model())
    with (
        pytest.raises(ModelError, match=r"The MLflow server at http://\*\*\*@localhost") as error,
        open_tracking_client("http://me:secret@localhost"),
    ):
        raise requests.ConnectionError("no route")
    assert "secret" not in str(error.value)


class FullDiskClassifier(DummyClassifier):
    """A classifier of a library with autologging, which finds the disk full."""

    def fit(self, *_: Any) -> FullDiskClassifier:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_fitting_error_is_not_an_mlflow_error(place: Place) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        place.train(
            change_model(
                fit=lambda train, validation, **_: make_pipeline(FullDiskClassifier()).fit(train.frame, train.label)
            )
        )
    with pytest.raises(FileNotFoundError, match="not of MLflow"), open_tracking_client(place.tracking_uri):
        raise FileNotFoundError("a file that is not of MLflow")
    with (
        pytest.raises(ModelError, match=r"MLflow at sqlite:.* cannot be used"),
        open_tracking_client(place.tracking_uri) as client,
    ):
        client.log_artifact(client.create_run("0").info.run_id, str(place.lake / "nothing"))
    (place.lake / "file").touch()
    with (
        pytest.raises(ModelError, match=r"MLflow at sqlite:.* cannot be used"),
        open_tracking_client(f"sqlite:///{place.lake}/file/db"),
    ):
        pass
