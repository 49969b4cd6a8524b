"""VACUUM removes old files, unless a registered model needs them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from lakehouse.api import vacuum
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import DeclarationError, LockError, VacuumError
from lakehouse.ml.dataset import open_features
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.runs.vacuum import VacuumResult
from lakehouse.settings import Settings, load
from lakehouse.storage.lock import lock_lake
from tests.parcels import TASK, Place, change_model, parcels

DAY = 86_400
TABLE = "gold.parcels"


@pytest.fixture
def settings(place: Place, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    return load(root=str(place.lake.parent))


def clean(
    settings: Settings, forget: tuple[str, ...] = (), dry_run: bool = False, keep_days: int | None = None
) -> VacuumResult:
    return vacuum(settings, TABLE, Run("V", ""), keep_days=keep_days, forget=forget, dry_run=dry_run)


def age(place: Place, days: int = 40) -> None:
    """Shift the times of the whole table into the past."""
    table, shift = place.lake / "gold" / "parcels", days * DAY
    for log in (table / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] -= shift * 1000
            if "remove" in action:
                action["remove"]["deletionTimestamp"] -= shift * 1000
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    for file in table.rglob("*"):
        os.utime(file, (time.time() - shift,) * 2)


def files(place: Place) -> set[str]:
    return {file.name for file in (place.lake / "gold" / "parcels").glob("*.parquet")}


def rows(place: Place, version: int) -> Any:
    return open_features(TASK, place.lake, (), version).read(None, ["items"])


def test_old_files_without_a_model_are_removed(place: Place, settings: Settings) -> None:
    place.write(parcels(seed=1))
    assert clean(settings) == VacuumResult(TABLE, 0, 0, ()), "nothing is old"
    age(place)
    old = files(place)
    (place.lake / "gold" / "parcels" / "half-written.parquet").write_bytes(b"1234")
    assert clean(settings, dry_run=True).files == 1, "a new file may belong to a write in progress"
    age(place)
    planned = clean(settings, dry_run=True)
    assert (planned.files, planned.bytes > 1000, planned.blocking_pins) == (2, True, ())
    assert len(files(place)) == 3, "a dry run removes nothing"
    assert clean(settings) == planned
    assert len(files(place) & old) == len(files(place)) == 1
    assert rows(place, 1).num_rows == 400
    assert [entry["operation"] for entry in DeltaTable(place.lake / "gold" / "parcels").history(2)] == [
        "VACUUM END",
        "VACUUM START",
    ]


def test_files_of_registered_models_are_not_removed(place: Place, settings: Settings) -> None:
    place.train(change_model())
    place.train(change_model())
    place.write(parcels(seed=1))
    place.train(change_model())  # This model needs the newest version, which stays.
    age(place)
    before = files(place)
    with pytest.raises(VacuumError) as error:
        clean(settings)
    assert str(error.value).splitlines() == [
        "gold.parcels: registered models need old versions to be reproducible, so nothing was removed. "
        "Release a version with its option:",
        "  - late_parcel version 1 was trained on version 0, which would lose 1 files: --forget late_parcel:1",
        "  - late_parcel version 2 was trained on version 0, which would lose 1 files: --forget late_parcel:2",
    ]
    planned = clean(settings, dry_run=True)
    assert (planned.files, [pin.name for pin in planned.blocking_pins]) == (1, ["late_parcel:1", "late_parcel:2"])
    with pytest.raises(VacuumError, match=r"late_parcel version 2") as error:
        clean(settings, forget=("late_parcel:1",))
    assert "late_parcel version 1" not in str(error.value)
    assert files(place) == before
    assert clean(settings, forget=("late_parcel:1", "late_parcel:2")).files == 1
    assert len(files(place)) == 1
    assert clean(settings).files == 0, "removed files block nothing"


def test_deleted_models_and_other_tables_block_nothing(place: Place, settings: Settings) -> None:
    place.train(change_model())
    (place.lake / "gold" / "parcels").rename(place.lake / "away")
    place.write(parcels())
    place.train(change_model())
    with open_tracking_client(place.tracking_uri) as client:
        client.delete_model_version("late_parcel", "2")
    place.write(parcels(seed=1))
    age(place)
    assert clean(settings).files == 1


def test_forget_rejects_unknown_models(place: Place, settings: Settings) -> None:
    place.train(change_model())
    place.write(parcels(seed=1))
    age(place)
    with pytest.raises(
        VacuumError, match=r"No registered model is called late_parcel:7, late; known are late_parcel:1\."
    ):
        clean(settings, forget=("late_parcel:1", "late_parcel:7", "late"))
    assert len(files(place)) == 2


@pytest.mark.parametrize("dry_run", [False, True])
def test_nothing_is_removed_without_the_registry(
    place: Place, settings: Settings, tmp_path: Path, dry_run: bool
) -> None:
    place.write(parcels(seed=1))
    age(place)
    (tmp_path / "mlflow.db").write_text("not a database, but some text that is long enough to be read as one " * 20)
    with pytest.raises(
        VacuumError, match=r"nothing was removed, because the versions that its models need are unknown\. MLflow at "
    ):
        clean(settings, dry_run=dry_run)
    down = load(root=str(place.lake.parent), mlflow="http://127.0.0.1:9")
    with pytest.raises(
        VacuumError, match=r"the versions that its models need are unknown\. The MLflow server at .* does not answer"
    ):
        clean(down, dry_run=dry_run)
    assert len(files(place)) == 2
    (tmp_path / "mlflow.db").unlink()
    assert clean(settings).files == 1, "an empty registry blocks nothing"


def test_a_model_without_its_run_must_be_forgotten(place: Place, settings: Settings) -> None:
    trained = place.train(change_model())
    place.write(parcels(seed=1))
    age(place)
    with open_tracking_client(place.tracking_uri) as client:
        client.delete_run(trained.run_id)
        client._tracking_client.store._hard_delete_run(trained.run_id)
    with pytest.raises(VacuumError, match="late_parcel version 1: its run is gone. Pass --forget late_parcel:1"):
        clean(settings)
    assert clean(settings, forget=("late_parcel:1",)).files == 1


def test_the_retention_of_the_table_is_respected(place: Place, settings: Settings) -> None:
    place.write(parcels(seed=1))
    table = DeltaTable(place.lake / "gold" / "parcels")
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 30 days"})
    age(place, days=20)
    assert clean(settings).files == 0
    with pytest.raises(VacuumError, match=r"gold.parcels: .*Invalid retention.*720 hours.* pass more days"):
        clean(settings, keep_days=8)
    assert clean(settings, keep_days=31).files == 0
    age(place, days=20)
    assert clean(settings, keep_days=31).files == 1


def test_vacuum_needs_the_lock_and_a_table(place: Place, settings: Settings) -> None:
    with pytest.raises(DeclarationError, match="'gold.nothing' is not a table of the lake. Choose one of gold.parcels"):
        vacuum(settings, "gold.nothing", Run("V", ""), keep_days=None, forget=(), dry_run=False)
    with lock_lake(settings.root, "another"):
        with pytest.raises(LockError, match="run another"):
            clean(settings)
        assert clean(settings, dry_run=True).files == 0
