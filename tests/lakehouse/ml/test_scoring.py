"""Scoring on Spark, by days, into the table of predictions."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from lakehouse import settings
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.errors import ModelError
from lakehouse.ml import pipeline, scoring, spark_scoring
from lakehouse.ml.dataset import open_features
from lakehouse.ml.pipeline import ScoreResult
from lakehouse.runs import context
from lakehouse.runs.context import create_run
from lakehouse.settings import Settings
from tests import counted
from tests.parcels import FILE, LEARNER, TASK, Place, change_model, parcels
from tests.paths import PROJECT

SCHEMA = pa.schema(
    {
        "parcel": pa.int64(),
        "day": pa.date32(),
        "model_name": pa.string(),
        "model_version": pa.int32(),
        "probability": pa.float64(),
        "feature_version": pa.int64(),
        "alias": pa.string(),
    }
)
LAST_DAYS = (date(2024, 2, 6), date(2024, 2, 9))


def settings_of(place: Place, module: str = "tests.parcels") -> Settings:
    return settings.load(root=str(place.lake.parent), models={LEARNER: module}, declarations=("tests.orders",))


def score(spark: SparkSession, place: Place, since: date, until: date, **more: Any) -> ScoreResult:
    module = more.pop("module", "tests.parcels")
    return pipeline.score_on(
        SparkEngine.wrap_session(spark), settings_of(place, module), TASK, since, until, create_run(PROJECT), **more
    )


def scores(place: Place) -> pa.Table:
    table = DeltaTable(place.lake / "gold" / "parcel_scores").to_pyarrow_table()
    return table.sort_by([("model_version", "ascending"), ("parcel", "ascending")])


def version(place: Place) -> int:
    return int(DeltaTable(place.lake / "gold" / "parcel_scores").version())


def test_every_row_gets_a_score_labelled_or_not(spark: SparkSession, place: Place) -> None:
    place.train(change_model())
    done = score(spark, place, date(2024, 2, 8), date(2024, 2, 9))
    table = scores(place)

    assert (done.rows, done.written, done.version, done.alias) == (20, 20, 1, "champion")
    assert table.schema == SCHEMA
    assert table["parcel"].to_pylist() == list(range(380, 400))
    assert set(table["day"].to_pylist()) == {date(2024, 2, 8), date(2024, 2, 9)}
    origins = {
        tuple(row.values())
        for row in table.select(["model_name", "model_version", "feature_version", "alias"]).to_pylist()
    }
    assert origins == {("late_parcel", 1, 0, "champion")}
    champion, rows = place.champion(), open_features(TASK, place.lake, ())
    probability = champion.predict(
        rows.read_frame(rows.read(("2024-02-08", "2024-02-09"), champion.get_input_columns()))
    )
    assert table["probability"].to_pylist() == list(probability)
    far = pc.greater(parcels()["distance_km"].slice(380), 70).to_numpy()
    assert probability[far].min() > 0.6 > probability.min()


def test_repeated_scoring_writes_nothing_and_backfills_gaps(spark: SparkSession, place: Place) -> None:
    place.train(change_model())
    first = score(spark, place, date(2024, 2, 6), date(2024, 2, 7))
    again = score(spark, place, date(2024, 2, 6), date(2024, 2, 7))
    assert (first.written, again.rows, again.written, again.quality_written, version(place)) == (20, 20, 0, 0, 0)

    score(spark, place, date(2024, 2, 9), date(2024, 2, 9))
    before = scores(place)
    gap = score(spark, place, *LAST_DAYS)
    after = scores(place)
    assert (gap.rows, gap.written) == (40, 10)
    assert after["parcel"].to_pylist() == list(range(360, 400))
    assert after.filter(pc.field("day") != date(2024, 2, 8)).equals(before)


def test_changed_scores_replace_existing_ones(spark: SparkSession, place: Place) -> None:
    place.train(change_model())
    score(spark, place, *LAST_DAYS)
    before = scores(place)
    rows = parcels()
    far = pc.if_else(pc.equal(rows["parcel"], 399), pc.subtract(100.0, rows["distance_km"]), rows["distance_km"])
    place.write(rows.set_column(rows.column_names.index("distance_km"), "distance_km", far))
    done = score(spark, place, *LAST_DAYS)
    after = scores(place)

    assert (done.rows, done.written) == (40, 1)
    assert after.slice(0, 39).equals(before.slice(0, 39))
    assert after["feature_version"].to_pylist() == [0] * 39 + [1]
    assert after["probability"][39] != before["probability"][39]


def test_another_version_adds_scores_with_its_alias(spark: SparkSession, place: Place) -> None:
    place.train(change_model())
    place.train(change_model(FEATURES=("noise",), BASELINE_FEATURES=("noise",)))
    whole = (date(2024, 1, 31), date(2024, 2, 9))
    first = score(spark, place, *whole)
    second = score(spark, place, *whole, alias="challenger")
    again = score(spark, place, *whole, alias="challenger")

    assert [(result.version, result.written, result.evaluation is None) for result in (first, second, again)] == [
        (1, 100, False),
        (2, 100, True),
        (2, 0, True),
    ]
    table = scores(place)
    assert table["alias"].to_pylist() == ["champion"] * 100 + ["challenger"] * 100
    assert table["parcel"].to_pylist() == list(range(300, 400)) * 2
    quality = DeltaTable(place.lake / "gold" / "parcel_quality").to_pyarrow_table()
    assert sorted(quality["model_version"].to_pylist()) == [1] * 10 + [2] * 10
    with pytest.raises(ModelError, match="late_parcel has no runner_up .*run `lakehouse train` first"):
        score(spark, place, *whole, alias="runner_up")


def test_an_older_table_gets_the_alias_column(
    spark: SparkSession, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.train(change_model())
    with monkeypatch.context() as changed:
        changed.setattr(pipeline, "score_features", lambda *args: spark_scoring.score_features(*args).drop("alias"))
        score(spark, place, date(2024, 2, 6), date(2024, 2, 7))
    assert scores(place).schema == SCHEMA.remove(6)
    done = score(spark, place, *LAST_DAYS)
    assert (done.rows, done.written) == (40, 20)
    assert scores(place)["alias"].to_pylist() == [None] * 20 + ["champion"] * 20


def test_days_without_rows_make_no_table(spark: SparkSession, place: Place) -> None:
    place.train(change_model())
    with pytest.raises(ModelError, match=r"gold.parcels has no rows from 2030-01-01 to 2030-12-31: nothing to score"):
        score(spark, place, date(2030, 1, 1), date(2030, 12, 31))
    assert not (place.lake / "gold" / "parcel_scores").exists()


def test_a_model_needs_only_its_own_columns(spark: SparkSession, place: Place) -> None:
    place.train(change_model(FEATURES=("distance_km",)))
    place.write(parcels().drop_columns("items"))
    assert score(spark, place, *LAST_DAYS).written == 40
    place.write(parcels().drop_columns("distance_km"))
    with pytest.raises(ModelError, match=r"was trained on columns that gold.parcels version 2 .*: distance_km"):
        score(spark, place, *LAST_DAYS)


def test_a_worker_loads_once_and_predicts_each_row_once(
    spark: SparkSession, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "notes", tmp_path / "notes.txt")
    place.train(change_model(__name__="tests.counted", save=counted.save, load=counted.load))
    rows, path = parcels(), place.lake / "gold" / "parcels"
    write_deltalake(path, rows.slice(0, 50), mode="overwrite")
    for start in range(50, 400, 50):
        write_deltalake(path, rows.slice(start, 50), mode="append")
    for first, last in ((1, 10), (11, 20), (21, 30)):
        assert score(spark, place, date(2024, 1, first), date(2024, 1, last), module="tests.counted").written == 100

    loads, predictions = counted.read_notes("loaded"), counted.read_notes("predicted")
    assert sum(count for _, count in predictions) == 300
    assert len(predictions) > len(loads)
    assert sorted(process for process, _ in loads) == sorted({process for process, _ in predictions})


def test_partitions_and_batches_make_no_difference(spark: SparkSession, place: Place) -> None:
    place.train(change_model())
    champion, features = place.champion(), open_features(TASK, place.lake, ())
    bundle = scoring.broadcast_model(TASK, {LEARNER: change_model()}, tracking_uri=place.tracking_uri)
    span = ("2024-01-01", "2024-02-09")
    rows = spark_scoring.read_features(SparkTables(spark), features, span, ["day", *bundle.input_columns])
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "7")
    try:
        scored = spark_scoring.apply_model(rows.repartition(5), bundle, ["parcel", "day"]).toArrow().sort_by("parcel")
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    expected = features.read(span, ["day", *champion.get_input_columns()])
    assert scored.select(["parcel", "day"]).equals(expected.select(["parcel", "day"]))
    assert scored["probability"].to_pylist() == list(champion.predict(features.read_frame(expected)))


def test_changed_files_are_refused_before_spark_starts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.train(change_model())
    (stored,) = Path(place.artifact_root.removeprefix("file://")).glob(f"**/artifacts/model/{FILE}")
    stored.write_bytes(stored.read_bytes() + b" ")
    monkeypatch.setattr(context, "open_locked_engine", lambda *_: pytest.fail("Spark was started"))
    with pytest.raises(
        ModelError, match="late_parcel version 1 is refused: its files .* are not those that were registered"
    ):
        pipeline.score(settings_of(place), None, *LAST_DAYS, create_run(PROJECT), None)


def test_workers_without_the_models_code_are_reported(
    spark: SparkSession, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.train(change_model())
    broadcast_model = scoring.broadcast_model
    monkeypatch.setattr(
        pipeline, "broadcast_model", lambda *a, **k: replace(broadcast_model(*a, **k), module="models_of_mine")
    )
    with pytest.raises(
        ModelError, match="version 1 cannot score on Spark's workers: ModuleNotFoundError: No module"
    ) as error:
        score(spark, place, *LAST_DAYS)
    assert "models_of_mine" in str(error.value)
    assert "Traceback" not in str(error.value)
    assert not (place.lake / "gold" / "parcel_scores").exists()
