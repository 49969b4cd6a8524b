"""Training, scoring and evaluation on a shop's parcels."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.errors import ModelError
from lakehouse.ml.dataset import open_features
from lakehouse.ml.metrics import METRICS, evaluate
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.scoring import measure_quality
from lakehouse.ml.training import _measure_importance
from tests.parcels import FEATURES, TASK, Place, change_model, parcels


def test_a_first_training_is_champion_and_logs_everything(
    place: Place, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    messages: list[str] = []
    result = place.train(change_model(), progress=messages.append)

    assert (result.model_version, result.alias, result.reason) == (1, "champion", "there was no champion")
    assert result.params == {"max_iter": 30}
    assert result.rows == {"train": 180, "validation": 90}
    assert result.metrics["brier"] < 0.12
    assert result.baseline["brier"] > 0.2
    run = place.run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["delta_version"] == "0"
    assert run.data.tags["decision"] == "champion"
    assert run.data.params["delta_version"] == "0"
    assert run.data.params["revision"] == "abc123"
    assert run.data.params["train_rows"] == "180"
    assert run.data.params["train_unlabelled"] == "20"
    assert run.data.params["model_max_iter"] == "30"
    assert run.data.metrics["validation_brier"] == result.metrics["brier"]
    assert run.data.metrics["validation_baseline_brier"] == result.baseline["brier"]
    assert not [name for name in run.data.metrics if name.startswith("test_")]
    tags = [{tag.key: tag.value for tag in dataset.tags} for dataset in run.inputs.dataset_inputs]
    assert {(tag["mlflow.data.context"], tag["delta_version"], tag["rows"]) for tag in tags} == {
        ("train", "0", "180"),
        ("validation", "0", "90"),
    }
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"gold.parcels"}
    sources = [json.loads(entry.dataset.source) for entry in run.inputs.dataset_inputs]
    assert [(source["path"], source["delta_table_version"]) for source in sources] == [
        (str(place.lake / "gold" / "parcels"), 0)
    ] * 2
    with open_tracking_client(place.tracking_uri) as client:
        files = {file.path for file in client.list_artifacts(result.run_id)}
        keys = pq.read_table(client.download_artifacts(result.run_id, "train_keys.parquet", str(tmp_path)))
        is_child = f"tags.`mlflow.parentRunId` = '{result.run_id}'"
        nested = client.search_runs([run.info.experiment_id], is_child, order_by=["tags.`mlflow.runName`"])
        curve = client.get_metric_history(nested[1].info.run_id, "validation_brier")
    assert files >= {"candidates.json", "validation_calibration.png", "validation_importance.png", "learning_curve.png"}
    labelled = parcels().slice(0, 200).filter(pc.field("late").is_valid())
    assert keys["parcel"].to_pylist() == labelled["parcel"].to_pylist()
    assert [child.data.params["max_iter"] for child in nested] == ["2", "30"]
    assert [child.data.params["histgradientboostingclassifier__max_iter"] for child in nested] == ["2", "30"], (
        "autologged"
    )
    assert [(point.step, point.value) for point in curve] == [(1, 1), (2, 0.5)]
    assert nested[0].data.metrics["training_log_loss"] > nested[1].data.metrics["training_log_loss"] > 0
    typical = place.champion().typical
    assert typical["shop"] in ("north", "south")
    assert 20 < typical["distance_km"] < 80
    assert typical["distance_km"] in parcels()["distance_km"].to_pylist(), "a value that occurs, not the mean of two"
    assert messages[0] == "reading gold.parcels version 0"
    assert "fitting candidate 2 of 2" in messages
    assert capfd.readouterr() == ("", "")


def test_importance_names_the_deciding_column(place: Place) -> None:
    module, features = change_model(), open_features(TASK, place.lake, FEATURES)
    train, choose = (features.split(name, FEATURES) for name in ("train", "validation"))
    params = {"max_iter": 30}
    fitted = module.fit(train, choose, features=FEATURES, params=params, seed=0, curve=lambda *_: None)
    frame, label = choose.sample(60, 0)
    before = frame.copy()
    first, again = (_measure_importance(module, fitted, frame, label, 0) for _ in range(2))

    assert first.shape == (len(FEATURES), 3)
    assert first[0].min() > 0.1 > np.abs(first[1:]).max(), "the distance decides"
    assert np.array_equal(first, again)
    assert frame.equals(before)


def test_creating_the_database_prints_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    code = (
        "from lakehouse.ml.mlflow_client import open_tracking_client\n"
        f"with open_tracking_client({uri!r}) as client: client.search_experiments()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "new" / "mlflow.db").exists()


def test_repeated_clients_add_no_handlers(place: Place) -> None:
    def handlers() -> list[logging.Handler]:
        with open_tracking_client(place.tracking_uri):
            return [*logging.getLogger("mlflow").handlers, *logging.getLogger("alembic").handlers]

    assert handlers() == handlers()


def test_only_a_better_model_becomes_champion(place: Place) -> None:
    weak = change_model(FEATURES=("noise",))
    first = place.train(weak)
    better = place.train(change_model())
    again = place.train(change_model())
    worse = place.train(weak)

    assert [result.alias for result in (first, better, again, worse)] == [
        "champion",
        "champion",
        "challenger",
        "challenger",
    ]
    assert (
        f"is below {first.metrics['brier']:.6f} of champion version 1: the difference is between -0." in better.reason
    )
    assert again.metrics == better.metrics
    assert f"{worse.metrics['brier']:.6f} on 90 rows of 2024-01-21 to 2024-01-30 is not surely below" in worse.reason
    assert place.run(worse.run_id).data.tags["decision_reason"] == worse.reason
    assert place.run(worse.run_id).data.metrics["validation_champion_brier"] == better.metrics["brier"]
    with open_tracking_client(place.tracking_uri) as client:
        aliases = client.get_registered_model("late_parcel").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": 2, "challenger": 4}
    assert place.champion()[2:4] == (2, better.run_id)


def test_the_champion_is_measured_on_the_new_rows(place: Place) -> None:
    first = place.train(change_model())
    rows = parcels()
    flipped = rows.set_column(rows.column_names.index("late"), "late", pc.invert(rows["late"]))
    place.write(flipped)
    second = place.train(change_model(FEATURES=("noise",)))

    assert second.metrics["brier"] > first.metrics["brier"]
    assert second.alias == "champion"


def test_training_reads_its_pinned_version(place: Place) -> None:
    def write_meanwhile(_: str) -> None:
        if DeltaTable(place.lake / "gold" / "parcels").version() == 0:
            place.write(parcels(seed=1).slice(50))

    interrupted = place.train(change_model(), progress=write_meanwhile)
    latest = place.train(change_model())
    repeated = place.train(change_model(), version=0)

    assert [result.delta_version for result in (interrupted, latest, repeated)] == [0, 1, 0]
    assert interrupted.rows == repeated.rows != latest.rows
    assert interrupted.metrics == repeated.metrics != latest.metrics
    keys = [place.run(result.run_id).data.params["train_keys_sha256"] for result in (interrupted, latest, repeated)]
    assert keys[0] == keys[2] != keys[1]


def test_the_order_of_rows_in_the_files_does_not_matter(place: Place) -> None:
    first = place.train(change_model())
    rows = parcels()
    place.write(rows.take(np.random.default_rng(3).permutation(rows.num_rows)))
    second = place.train(change_model())

    assert (first.metrics, second.delta_version) == (second.metrics, 1)


@pytest.mark.parametrize(("read_rows", "reads"), [(400_000, 1), (150, 3), (70, 5), (1, 6)])
def test_batches_are_weeks_for_any_read_size(
    place: Place, monkeypatch: pytest.MonkeyPatch, read_rows: int, reads: int
) -> None:
    features, span, rows = open_features(TASK, place.lake, ()), ("2024-01-06", "2024-02-11"), parcels()
    spans, read = [], features.read
    object.__setattr__(features, "read", lambda span, columns: spans.append(span) or read(span, columns))
    monkeypatch.setattr("lakehouse.ml.dataset.READ_ROWS", read_rows)
    batches = list(features.read_batches(span, ["shop"]))

    starts = [date(2024, 1, 6) + timedelta(weeks=n) for n in range(6)]
    for batch, start in zip(batches, starts, strict=True):
        within = [start <= day < start + timedelta(weeks=1) for day in rows["day"].to_pylist()]
        assert batch.to_pylist() == rows.filter(within).select(["parcel", "shop"]).to_pylist()
    assert len(spans) == reads


def test_types_do_not_depend_on_missing_values(place: Place) -> None:
    features = open_features(TASK, place.lake, ())
    rows = features.read(("2024-01-01", "2024-01-20"), ["parcel", "items", "shop", "late"])
    with_missing = features.read_frame(rows)
    without = features.read_frame(rows.filter(pc.is_valid(rows["items"])))

    assert with_missing.dtypes.equals(without.dtypes)
    assert list(with_missing) == ["parcel", "items", "shop"]
    assert with_missing["items"].dtype == "float64"
    assert with_missing["items"].isna().any()


def test_untrusted_types_are_neither_stored_nor_loaded(place: Place) -> None:
    with pytest.raises(ModelError, match="TRUSTED_TYPES does not name: sklearn.*TreePredictor"):
        place.train(change_model(trusted=()))
    place.train(change_model())  # the stored list of trusted types names the trees
    with pytest.raises(ModelError, match="late_parcel version 1 cannot be loaded .*Untrusted.*TreePredictor"):
        place.champion(change_model(trusted=()))


def test_an_evaluation_is_logged_once(place: Place) -> None:
    trained = place.train(change_model())
    first = place.report()
    second = place.report()

    assert (first.rows, first.unlabelled, first.model_version, first.delta_version) == (90, 10, 1, 0)
    assert first.metrics["brier"] < first.baseline["brier"]
    assert (first.is_logged, second.is_logged) == (True, False)
    assert first.metrics == second.metrics
    run = place.run(trained.run_id)
    assert run.data.metrics["test_brier"] == first.metrics["brier"]
    assert run.data.metrics["test_baseline_brier"] == first.baseline["brier"]
    with open_tracking_client(place.tracking_uri) as client:
        assert len(client.get_metric_history(trained.run_id, "test_brier")) == 1
        assert "test_calibration.png" in {file.path for file in client.list_artifacts(trained.run_id)}

    place.write(parcels(seed=1))
    third = place.report()
    assert third.is_logged
    assert third.metrics != first.metrics
    assert place.run(trained.run_id).data.tags["test_delta_version"] == "1"


def test_an_older_champion_reads_its_own_columns(place: Place) -> None:
    first = place.train(change_model(FEATURES=("distance_km",)))
    second = place.train(change_model(FEATURES=("items",)))

    assert (first.alias, second.alias) == ("champion", "challenger")
    place.write(parcels().drop_columns("distance_km"))
    with pytest.raises(
        ModelError, match=r"version 1 was trained on columns that gold.parcels version 1 .*: distance_km"
    ):
        place.report()


def test_the_test_split_is_not_needed_to_train(place: Place) -> None:
    rows = parcels()
    place.write(rows.filter(pc.less(rows["day"], pa.scalar(date(2024, 1, 31)))))
    place.train(change_model())
    with pytest.raises(ModelError, match="no labelled rows in the test split, 2024-01-31 to 2024-02-09.*2024-01-30"):
        place.report()


def test_a_missing_champion_names_the_command(place: Place, tmp_path: Path) -> None:
    for uri in (place.tracking_uri, f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"):
        with pytest.raises(ModelError, match="late_parcel has no champion .*run `lakehouse train` first"):
            replace(place, tracking_uri=uri).champion()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("changed", "more", "text"),
    [
        ({"TASK": replace(TASK, feature_table="gold.nothing")}, {}, "gold.nothing is not there .*`lakehouse run`"),
        (
            {"FEATURES": ("distance_km", "weight", "size")},
            {},
            "has parcel, .* lacks columns that late_parcel reads: weight, size",
        ),
        ({}, {"version": 7}, "gold.parcels has no version 7; its latest is 0"),
        (
            {"TASK": replace(TASK, splits=replace(TASK.splits, train=("2020-01-01", "2020-12-31")))},
            {},
            "no labelled rows in the train split.*has 400 rows, 360 of them labelled, with day from 2024-01-01 to "
            "2024-02-09",
        ),
    ],
)
def test_missing_tables_columns_and_rows_are_named(
    place: Place, changed: dict[str, Any], more: dict[str, Any], text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        place.train(change_model(**changed), **more)


def test_empty_tables_and_single_labels_are_named(place: Place) -> None:
    place.write(parcels().slice(0, 0))
    with pytest.raises(ModelError, match="no labelled rows in the validation split.*The table is empty"):
        place.train(change_model())
    rows = parcels()
    place.write(rows.filter(pc.field("late") | pc.field("late").is_null()))
    with pytest.raises(ModelError, match="only rows with late True in the validation split"):
        place.train(change_model())


def test_quality_has_rows_by_day_and_version(place: Place) -> None:
    rows = parcels()
    late = rows["late"].to_pylist()
    # Of the last three days, the second has a single label and the third has none yet.
    late[380:390], late[390:400] = [False] * 9 + [None], [None] * 10
    place.write(rows.set_column(rows.column_names.index("late"), "late", pa.array(late)))
    place.train(change_model())
    days = {"since": "2024-02-07", "until": "2024-02-09"}
    assert measure_quality(TASK, lake=place.lake, **days).num_rows == 0, "nothing is scored yet"
    scores = place.scores("2024-02-07", "2024-02-09")
    older = pc.subtract(pa.scalar(1.0), scores["probability"]).slice(0, 10)
    before = scores.slice(0, 10).set_column(3, "model_version", pa.array([0] * 10, pa.int32()))
    before = before.set_column(4, "probability", older)
    write_deltalake(place.lake / "gold" / "parcel_scores", pa.concat_tables([scores, before]))
    quality = measure_quality(TASK, lake=place.lake, **days).to_pylist()

    columns = ("model_name", "model_version", "scored", "labelled")
    assert [(row["day"].day, *(row[name] for name in columns)) for row in quality] == [
        (7, "late_parcel", 0, 10, 9),
        (7, "late_parcel", 1, 10, 9),
        (8, "late_parcel", 1, 10, 9),
        (9, "late_parcel", 1, 10, 0),
    ]
    older_version, mixed, single, unknown = quality
    label, probability = np.array(late[370:379]), scores["probability"].to_numpy()[:9]
    assert {name: mixed[name] for name in METRICS} == pytest.approx(evaluate(label, probability))
    assert {name: older_version[name] for name in METRICS} == pytest.approx(evaluate(label, 1 - probability))
    assert (mixed["label_rate"], mixed["mean_probability"]) == pytest.approx((label.mean(), probability.mean()))
    assert (single["label_rate"], *[single[name] for name in METRICS]) == (0, None, None, None)
    assert (unknown["label_rate"], unknown["mean_probability"], unknown["brier"]) == (None, None, None)
