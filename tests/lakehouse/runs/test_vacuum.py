"""VACUUM: what it removes, and how it refuses what a registered model needs."""

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
from lakehouse.ml.mlflow_client import tracking_client
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


def aged(place: Place, days: int = 40) -> None:
    """As if all of the table had been written so long ago."""
    table, back = place.lake / "gold" / "parcels", days * DAY
    for log in (table / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] -= back * 1000
            if "remove" in action:
                action["remove"]["deletionTimestamp"] -= back * 1000
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    for file in table.rglob("*"):
        os.utime(file, (time.time() - back,) * 2)


def files(place: Place) -> set[str]:
    return {file.name for file in (place.lake / "gold" / "parcels").glob("*.parquet")}


def rows(place: Place, version: int) -> Any:
    return open_features(TASK, place.lake, (), version).read(None, ["items"])


def test_what_no_model_needs_is_removed_once_it_is_old(place: Place, settings: Settings) -> None:
    place.write(parcels(seed=1))
    assert clean(settings) == VacuumResult(TABLE, 0, 0, ()), "nothing is old"
    aged(place)
    old = files(place)
    (place.lake / "gold" / "parcels" / "half-written.parquet").write_bytes(b"1234")
    assert clean(settings, dry_run=True).files == 1, "of a write that failed just now nothing is known yet"
    aged(place)
    would = clean(settings, dry_run=True)
    assert (would.files, would.bytes > 1000, would.blocking_pins) == (2, True, ())
    assert len(files(place)) == 3, "a dry run removes nothing"
    done = clean(settings)
    assert done == would
    assert len(files(place) & old) == len(files(place)) == 1
    assert rows(place, 1).num_rows == 400
    assert [one["operation"] for one in DeltaTable(place.lake / "gold" / "parcels").history(2)] == [
        "VACUUM END",
        "VACUUM START",
    ]


def test_it_refuses_what_registered_models_need_and_names_them(place: Place, settings: Settings) -> None:
    place.train(change_model())
    place.train(change_model())
    place.write(parcels(seed=1))
    place.train(change_model())  # needs the newest, which stays
    aged(place)
    before = files(place)
    with pytest.raises(VacuumError) as error:
        clean(settings)
    assert str(error.value).splitlines() == [
        "Registered models need versions of gold.parcels to be reproduced, so nothing was removed. An option lets go of each:",
        "  - late_parcel version 1 was trained on version 0, 1 files of which would go: --forget late_parcel:1",
        "  - late_parcel version 2 was trained on version 0, 1 files of which would go: --forget late_parcel:2",
    ]
    would = clean(settings, dry_run=True)
    assert (would.files, [one.name for one in would.blocking_pins]) == (1, ["late_parcel:1", "late_parcel:2"])
    with pytest.raises(VacuumError, match=r"late_parcel version 2") as error:
        clean(settings, forget=("late_parcel:1",))
    assert "late_parcel version 1" not in str(error.value)
    assert files(place) == before
    assert clean(settings, forget=("late_parcel:1", "late_parcel:2")).files == 1
    assert len(files(place)) == 1
    assert clean(settings).files == 0, "what is gone stands in nobody's way"


def test_a_model_that_was_trained_on_another_table_or_is_deleted_stands_in_no_way(
    place: Place, settings: Settings
) -> None:
    place.train(change_model())
    (place.lake / "gold" / "parcels").rename(place.lake / "away")
    place.write(parcels())
    place.train(change_model())
    with tracking_client(place.tracking_uri) as client:
        client.delete_model_version("late_parcel", "2")
    place.write(parcels(seed=1))
    aged(place)
    assert clean(settings).files == 1


def test_what_is_to_be_forgotten_must_be_known(place: Place, settings: Settings) -> None:
    place.train(change_model())
    place.write(parcels(seed=1))
    aged(place)
    with pytest.raises(
        VacuumError, match=r"No registered model is called late_parcel:7, late; known are late_parcel:1\."
    ):
        clean(settings, forget=("late_parcel:1", "late_parcel:7", "late"))
    assert len(files(place)) == 2


@pytest.mark.parametrize("dry_run", [False, True])
def test_it_refuses_where_the_registry_cannot_be_asked(
    place: Place, settings: Settings, tmp_path: Path, dry_run: bool
) -> None:
    place.write(parcels(seed=1))
    aged(place)
    (tmp_path / "mlflow.db").write_text("not a database, but some text that is long enough to be read as one " * 20)
    with pytest.raises(
        VacuumError, match=r"nothing was removed, as the versions .* could not be found out. MLflow at "
    ):
        clean(settings, dry_run=dry_run)
    down = load(root=str(place.lake.parent), mlflow="http://127.0.0.1:9")
    with pytest.raises(VacuumError, match=r"could not be found out. The MLflow server at .* does not answer"):
        clean(down, dry_run=dry_run)
    assert len(files(place)) == 2
    (tmp_path / "mlflow.db").unlink()
    assert clean(settings).files == 1, "where nothing was ever registered, nothing is needed"


def test_where_the_run_of_a_model_is_gone_it_refuses_until_it_is_forgotten(place: Place, settings: Settings) -> None:
    trained = place.train(change_model())
    place.write(parcels(seed=1))
    aged(place)
    with tracking_client(place.tracking_uri) as client:
        client.delete_run(trained.run_id)
        client._tracking_client.store._hard_delete_run(trained.run_id)
    with pytest.raises(VacuumError, match="late_parcel version 1: its run is gone. Pass --forget late_parcel:1"):
        clean(settings)
    assert clean(settings, forget=("late_parcel:1",)).files == 1


def test_files_are_kept_as_long_as_the_table_says(place: Place, settings: Settings) -> None:
    place.write(parcels(seed=1))
    table = DeltaTable(place.lake / "gold" / "parcels")
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 30 days"})
    aged(place, days=20)
    assert clean(settings).files == 0
    with pytest.raises(VacuumError, match=r"gold.parcels: .*Invalid retention.*720 hours.* name more days"):
        clean(settings, keep_days=8)
    assert clean(settings, keep_days=31).files == 0
    aged(place, days=20)
    assert clean(settings, keep_days=31).files == 1


def test_it_needs_the_lake_and_a_table(place: Place, settings: Settings) -> None:
    with pytest.raises(DeclarationError, match="'gold.nothing' is not a table of the lake; it has gold.parcels"):
        vacuum(settings, "gold.nothing", Run("V", ""), keep_days=None, forget=(), dry_run=False)
    with lock_lake(settings.root, "another"):
        with pytest.raises(LockError, match="run another"):
            clean(settings)
        assert clean(settings, dry_run=True).files == 0
