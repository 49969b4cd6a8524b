"""Models to reproduce after their recipe, files, table or log changed or disappeared."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.training_record import RECIPE_FILE
from tests.lakehouse.ml.test_reproduction import again, artifact, table
from tests.parcels import FILE, Place, change_model, parcels


def test_tampered_parameters_and_model_are_noticed(place: Place) -> None:
    trained = place.train(change_model())
    recipe = artifact(place, RECIPE_FILE)
    recorded = json.loads(recipe.read_text())
    assert recorded["params"] == {"max_iter": 30}
    recipe.write_text(json.dumps({**recorded, "params": {"max_iter": 3}}))
    report = again(place, trained)
    assert [text.split()[0] for text in report.differences[:-1]] == list(report.metrics)
    assert report.differences[-1].startswith("its predictions differ")

    recipe.write_text(json.dumps(recorded))
    stored = artifact(place, f"artifacts/model/{FILE}")
    stored.write_bytes(b"not a model")
    report = again(place, trained)
    assert "late_parcel version 1 is refused: its files" in report.differences[0]
    assert (len(report.differences), report.same_share) == (1, None)


def test_replaced_table_is_named_and_compared(place: Place) -> None:
    trained = place.train(change_model())
    shutil.rmtree(table(place))
    place.write(parcels().slice(20))
    report = again(place, trained)
    assert report.differences[0].startswith(
        "gold.parcels is another table than the one that it was trained on: its id was "
    )
    assert report.differences[1] == (
        "other rows in the train split: it had 180 and has 162; 18 keys are missing, 0 are new"
    )
    assert not [text for text in report.differences if "validation split" in text]

    shutil.rmtree(table(place))
    place.write(parcels())
    (only,) = again(place, trained).differences
    assert only.startswith("gold.parcels is another table")


def test_other_rows_at_same_version_are_named(place: Place) -> None:
    rows = parcels()
    trained = place.train(change_model())

    def replace_file(changed: pa.Table) -> None:
        """Replace the table's file, as another writer without a new version would."""
        log = table(place) / "_delta_log" / f"{0:020}.json"
        original_id = table_id(place)
        shutil.rmtree(table(place))
        write_deltalake(table(place), changed)
        log.write_text(log.read_text().replace(table_id(place), original_id))

    def table_id(place: Place) -> str:
        return str(DeltaTable(table(place)).metadata().id)

    later = pc.if_else(pc.less(rows["parcel"], 3), pc.add(rows["parcel"], 1000), rows["parcel"])
    replace_file(rows.set_column(0, "parcel", later))
    assert again(place, trained).differences == (
        "other rows in the train split: it had 180 and has 180; 3 keys are missing, 3 are new",
    )
    items = pc.if_else(pc.equal(rows["parcel"], 210), pa.scalar(77), rows["items"])
    replace_file(rows.set_column(rows.column_names.index("items"), "items", items))
    assert (
        again(place, trained).differences[0] == "the rows of the validation split have the same keys and other values"
    )
    replace_file(rows)
    assert again(place, trained).differences == ()


def test_vacuumed_version_is_named_and_not_replaced(place: Place) -> None:
    trained = place.train(change_model())
    place.write(parcels())
    DeltaTable(table(place)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    report = again(place, trained)
    assert report.differences == ("1 of the 1 files of gold.parcels version 0 are gone (VACUUM)",)
    assert (report.metrics, report.same_share) == ({}, None)


def test_missing_logs_tables_and_versions_are_named(place: Place) -> None:
    place.write(parcels())
    trained = place.train(change_model())
    DeltaTable(table(place)).create_checkpoint()
    place.write(parcels())
    for version in (0, 1):
        (table(place) / "_delta_log" / f"{version:020}.json").unlink()
    (table(place) / "_delta_log" / f"{1:020}.checkpoint.parquet").unlink()
    (only,) = again(place, trained).differences
    assert "the Delta log cannot be read" in only
    shutil.rmtree(table(place))
    (only,) = again(place, trained).differences
    assert "its feature table gold.parcels is not there" in only
    place.write(parcels())
    other, lacks = again(place, trained).differences
    assert "another table" in other
    assert lacks == "gold.parcels has no version 1; its latest is 0."


def test_metrics_are_compared_without_registered_version(place: Place) -> None:
    trained = place.train(change_model())
    with open_tracking_client(place.tracking_uri) as client:
        client.delete_model_version("late_parcel", "1")
    report = again(place, trained)
    assert report.differences == ("its model is no longer in the registry, so that predictions cannot be compared",)
    assert report.metrics["validation_brier"] == (trained.metrics["brier"],) * 2
    assert np.isfinite([value for pair in report.metrics.values() for value in pair]).all()
