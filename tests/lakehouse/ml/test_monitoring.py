"""Monitoring of a shop's model of late parcels: findings, written rows, retraining."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from lakehouse.cli import main as cli
from lakehouse.engine.spark import engine
from lakehouse.errors import ModelError
from lakehouse.ml import pipeline
from lakehouse.ml.limits import Limits
from lakehouse.ml.metrics import evaluate
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.monitoring import MonitoringReport, monitor_champion, shift_splits
from lakehouse.ml.training import TunedParams
from lakehouse.ml.training_record import TrainResult
from lakehouse.runs.context import get_revision
from lakehouse.settings import Settings, load
from tests.parcels import LEARNER, TASK, Place, change_model, parcels
from tests.paths import PROJECT

# Ninety rows in ten bins: observed shares are far from predicted ones by chance.
CALM = replace(TASK, limits=Limits(calibration_error=0.2, brier_skill_drop=0.5))
DAYS = {"since": date(2024, 1, 31), "until": date(2024, 2, 9)}
FIRST = 300  # the first row of these days


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Place:
    root = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_database, root / "mlflow.db")
    place = Place(root / "lake", f"sqlite:///{root / 'mlflow.db'}", (root / "mlartifacts").as_uri())
    place.write(parcels())
    place.train(change_model())
    return place


@pytest.fixture
def trained(tmp_path: Path, trained_once: Place) -> Place:
    """Return a lake with the parcels and a champion trained on version 0 of the table."""
    shutil.copytree(trained_once.lake, tmp_path / "lake")
    shutil.copy(trained_once.lake.parent / "mlflow.db", tmp_path)
    return replace(trained_once, lake=tmp_path / "lake", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


def changed(name: str, change: Callable[[int, Any], Any], first: int = FIRST) -> pa.Table:
    """Return the parcels with one column changed from a row on, by the row's number and value."""
    rows = parcels()
    values = [change(n, v) if n >= first else v for n, v in enumerate(rows[name].to_pylist())]
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, rows.schema.field(name).type))


def score(place: Place, **days: Any) -> None:
    """Append the champion's scores of some days to the table of predictions."""
    scores = place.scores(**(days or DAYS))
    path = place.lake / "gold" / "parcel_scores"
    write_deltalake(path, scores, mode="append")


def watched(place: Place, task: Any = CALM, **days: Any) -> MonitoringReport:
    models = {LEARNER: change_model(TASK=task)}
    return monitor_champion(task, models, lake=place.lake, tracking_uri=place.tracking_uri, **(days or DAYS))


def messages(report: MonitoringReport) -> dict[str, str]:
    return {finding.limit: finding.message for finding in report.findings}


def test_no_findings_without_changes(trained: Place) -> None:
    score(trained)
    report = watched(trained)

    assert messages(report) == {}
    assert report.notes == ()
    assert report.span == ("2024-01-31", "2024-02-09")
    assert (report.current_metrics["scored"], report.current_metrics["labelled"]) == (100, 90)
    labelled = parcels().slice(FIRST).filter(pc.is_valid(parcels()["late"].slice(FIRST)))
    scores = {row["parcel"]: row["probability"] for row in trained.scores(**DAYS).to_pylist()}
    probability = np.array([scores[n] for n in labelled["parcel"].to_pylist()])
    expected = evaluate(labelled["late"].to_numpy(), probability)
    rate = labelled["late"].to_numpy().mean()
    expected["brier_skill"] = 1 - expected["brier"] / (rate * (1 - rate))
    assert {name: report.current_metrics[name] for name in expected} == pytest.approx(expected)
    assert report.validation_metrics["roc_auc"] > 0.9
    assert [drift.feature for drift in report.feature_drift] == ["distance_km", "shop", "items"]


def test_a_shifted_feature_is_named(trained: Place) -> None:
    trained.write(changed("shop", lambda n, _: "south" if n % 5 else "north"))
    score(trained)
    findings = messages(watched(trained))

    assert findings.keys() == {"drift"}
    assert findings["drift"].startswith("1 of 3 features drifted: shop (PSI ")
    share = pc.mean(pc.cast(pc.equal(parcels()["shop"].slice(0, 200), "south"), "int8")).as_py()
    by_hand = (0.8 - share) * np.log(0.8 / share) + (0.2 - (1 - share)) * np.log(0.2 / (1 - share))
    assert f"shop (PSI {by_hand:.2f}, limit 0.25)" in findings["drift"]
    days = watched(trained).quality.to_pylist()
    assert {(row["psi_max_feature"], row["drifted_features"]) for row in days[-1:]} == {("shop", 0)}, (
        "most of the window's 28 days are unchanged"
    )


def test_missing_values_are_found_by_day_and_span(trained: Place) -> None:
    trained.write(changed("items", lambda n, v: None if n >= 340 else v))
    score(trained)
    report = watched(trained)

    assert messages(report).keys() == {"missing"}
    assert "1 of 3 features missing more often" in messages(report)["missing"]
    assert "items (" in messages(report)["missing"]
    shares = {row["day"]: row["missing_share"] for row in report.drift.to_pylist() if row["feature"] == "items"}
    assert [shares[date(2024, 1, 31) + timedelta(days=n)] == 1 for n in range(10)] == [False] * 4 + [True] * 6
    by_day = {row["day"]: row["missing_share"] for row in report.quality.to_pylist()}
    assert by_day[date(2024, 2, 9)] == pytest.approx(1 / 3), "one of three features"


def test_a_failing_model_is_found_by_each_metric(trained: Place) -> None:
    trained.write(changed("late", lambda _, late: None if late is None else not late))
    score(trained)
    findings = messages(watched(trained, TASK))

    assert findings.keys() == {"roc_auc", "brier_skill", "calibration_error"}
    report = watched(trained)
    assert f"ROC AUC is {report.current_metrics['roc_auc']:.4f}" in findings["roc_auc"]
    assert (
        f"below {report.validation_metrics['roc_auc']:.4f} of the validation split (limit 0.05)" in findings["roc_auc"]
    )


def test_later_labels_are_filled_in(trained: Place) -> None:
    trained.write(changed("late", lambda n, late: None if n >= 350 else late))
    score(trained)
    early, days = watched(trained), {"since": date(2024, 2, 5), "until": date(2024, 2, 9)}
    unknown = watched(trained, **days)
    trained.write(parcels())
    later = watched(trained)

    assert (early.current_metrics["labelled"], later.current_metrics["labelled"]) == (45, 90)
    assert unknown.notes == ("Only features are judged: all 50 rows that version 1 scored have no label yet.",)
    assert messages(unknown) == {}
    assert [row["labelled"] for row in early.quality.to_pylist()] == [9] * 5 + [0] * 5
    assert {row["brier"] for row in early.quality.to_pylist()[5:]} == {None}
    assert [row["labelled"] for row in later.quality.to_pylist()] == [9] * 10
    assert early.drift.drop_columns("feature_version") == later.drift.drop_columns("feature_version")


def test_days_of_one_label_have_no_findings(trained: Place) -> None:
    trained.write(changed("late", lambda _, late: None if late is None else False))
    score(trained)
    report = watched(trained)

    assert report.notes == ("Only features are judged: all 100 rows that version 1 scored have the same label.",)
    assert messages(report) == {}
    assert {row["label_rate"] for row in report.quality.to_pylist()} == {0}
    assert {row["calibration_error"] for row in report.quality.to_pylist()} == {None}


def test_the_last_scored_weeks_are_the_default(trained: Place) -> None:
    score(trained, since=date(2024, 1, 5), until=date(2024, 2, 6))
    report = watched(trained, since=None)

    assert report.span == ("2024-01-10", "2024-02-06")
    (note,) = report.notes
    assert "version 1 was trained and validated on days up to 2024-01-30" in note


@pytest.mark.parametrize(
    ("days", "text"),
    [
        ({"since": date(2024, 2, 9), "until": date(2024, 2, 1)}, "--from 2024-02-09 is after --to 2024-02-01"),
        ({"since": date(2030, 1, 1), "until": date(2030, 1, 2)}, "gold.parcels version 0 has no rows from 2030-01-01"),
    ],
)
def test_invalid_spans_are_reported(trained: Place, days: dict[str, date], text: str) -> None:
    score(trained)
    with pytest.raises(ModelError, match=text):
        watched(trained, **days)


def test_a_missing_champion_or_score_is_reported(tmp_path: Path, trained: Place) -> None:
    with pytest.raises(ModelError, match="late_parcel has no champion .*run `lakehouse train` first"):
        watched(replace(trained, tracking_uri=f"sqlite:///{tmp_path / 'none.db'}"))
    with pytest.raises(ModelError, match="gold.parcel_scores holds no scores of late_parcel: run `lakehouse score`"):
        watched(trained)


def test_a_champion_without_scores_is_judged_by_its_features(place: Place) -> None:
    place.train(change_model(FEATURES=("noise",)))
    score(place)
    place.train(change_model())
    report = watched(place)

    assert report.champion.version == 2
    assert (
        "version 2 has no scores of these days (`lakehouse score --from 2024-01-31 --to 2024-02-09`)" in report.notes[0]
    )
    assert {(row["model_version"], row["psi_max"]) for row in report.quality.to_pylist()} == {(1, None)}
    assert {row["model_version"] for row in report.drift.to_pylist()} == {2}


def test_splits_move_to_the_last_labelled_days(trained: Place) -> None:
    score(trained)
    later = shift_splits(watched(trained))
    assert later is not None
    assert (later.train, later.validation) == (("2024-01-01", "2024-01-30"), ("2024-01-31", "2024-02-09"))
    earlier = shift_splits(watched(trained, since=date(2024, 2, 1), until=date(2024, 2, 2)))
    assert earlier is not None
    assert (earlier.train[1], earlier.validation) == ("2024-01-23", ("2024-01-24", "2024-02-02"))
    assert shift_splits(watched(trained, since=date(2024, 1, 29), until=date(2024, 1, 30))) is None, "no new day"


def test_a_retraining_changes_only_days_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = change_model(CANDIDATES=({"max_iter": 3}, {"max_iter": 4}))
    best = TunedParams("a-study", {"max_iter": 7, "max_leaf_nodes": 5})
    place.train(tuned, tuned=best, seed=5, revision=get_revision(PROJECT))
    score(place)
    settings = settings_with(place, monkeypatch, tuned)
    result = pipeline.retrain(settings, watched(place))

    assert isinstance(result, TrainResult), result
    assert result.alias == "challenger"
    champion, challenger = (place.run(run_id).data.params for run_id in (place.champion().run_id, result.run_id))
    day_params = {"from", "until", "rows", "unlabelled", "sha256"}
    differ = {name for name in champion.keys() | challenger.keys() if champion.get(name) != challenger.get(name)}
    assert {name.rpartition("_")[2] for name in differ} <= day_params, differ
    assert (challenger["model_max_iter"], challenger["seed"], challenger["study"]) == ("7", "5", "a-study")
    assert (challenger["train_until"], challenger["validation_until"]) == ("2024-01-30", "2024-02-09")

    again = pipeline.retrain(settings, watched(place))
    assert isinstance(again, str)
    assert again.startswith(
        "version 2 has learned from 2024-01-01 to 2024-01-30 of gold.parcels version 0 with the same parameters, and "
        "became challenger: Brier score"
    )
    fewer = pipeline.retrain(settings, watched(place, since=date(2024, 2, 1), until=date(2024, 2, 8)))
    place.write(parcels())
    newer = pipeline.retrain(settings, watched(place))
    assert [isinstance(result, TrainResult) and result.model_version for result in (fewer, newer)] == [3, 4]


def settings_with(place: Place, monkeypatch: pytest.MonkeyPatch, module: Any) -> Settings:
    """Return the settings of a lake with this model."""
    monkeypatch.setenv("LAKEHOUSE_ROOT", str(place.lake.parent))
    monkeypatch.setenv("LAKEHOUSE_MODELS", json.dumps({LEARNER: "tests.parcel_trees"}))
    monkeypatch.setitem(sys.modules, "tests.parcel_trees", module)
    return load()


# --- the command ----------------------------------------------------------------------------------------------------


class Command:
    """The command `lakehouse` in this process, on a lake with parcels."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.capsys, self.monkeypatch, self.sessions = place, capsys, monkeypatch, 0
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("LAKEHOUSE_ROOT", str(place.lake.parent))
        monkeypatch.setenv("LAKEHOUSE_DECLARATIONS", '["tests.orders"]')
        monkeypatch.setenv("LAKEHOUSE_MODELS", json.dumps({LEARNER: "tests.parcel_trees"}))
        self.use_task(CALM)

    def use_task(self, task: Any) -> None:
        self.monkeypatch.setitem(sys.modules, "tests.parcel_trees", change_model(TASK=task))

    def __call__(self, *arguments: str, exit_code: int = 0) -> str:
        self.monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        output = self.capsys.readouterr()
        assert (exit_.value.code or 0) == exit_code, output.out + output.err
        return output.out + output.err

    def rows(self, table: str) -> list[dict[str, Any]]:
        return DeltaTable(self.place.lake / "gold" / table).to_pyarrow_table().to_pylist()


@pytest.fixture
def lakehouse(
    place: Place, spark: SparkSession, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    command = Command(place, capsys, monkeypatch)

    @contextmanager
    def shared(*_: object) -> Iterator[SparkSession]:
        command.sessions += 1
        yield spark

    monkeypatch.setattr(engine, "spark_session", shared)
    return command


def versions(place: Place) -> dict[str, int]:
    return {name: DeltaTable(place.lake / "gold" / name).version() for name in ("parcel_quality", "parcel_drift")}


def test_monitoring_twice_writes_nothing_new(lakehouse: Command, place: Place) -> None:
    lakehouse("train")
    lakehouse("score")
    assert "psi_max" not in lakehouse.rows("parcel_quality")[0]
    first = lakehouse("monitor")
    before = versions(place), lakehouse.sessions
    again = lakehouse("monitor")

    assert "Nothing is beyond its limit." in first
    assert "10 rows written to gold.parcel_quality, 84 to gold.parcel_drift" in first
    assert "0 rows written to gold.parcel_quality, 0 to gold.parcel_drift" in again
    assert (versions(place), lakehouse.sessions) == before
    quality = lakehouse.rows("parcel_quality")
    assert {row["day"].day for row in quality if row["psi_max"] is not None} == {31, *range(1, 10)}

    # Another scoring keeps the columns of monitoring and does not count them as a difference.
    assert "by day: 0 rows" in lakehouse("score")
    assert lakehouse.rows("parcel_quality") == quality
    place.write(changed("late", lambda n, late: late if n % 10 < 9 else False))
    assert "10 rows written to gold.parcel_quality, 0 to" in lakehouse("monitor"), (
        "the last parcel of each day got its label"
    )
    assert {row["labelled"] for row in lakehouse.rows("parcel_quality")} == {10}


def test_a_finding_trains_a_challenger_on_request(lakehouse: Command, place: Place) -> None:
    first = lakehouse("train")
    assert "late_parcel version 1 is champion" in first
    # Near parcels are late now, and far ones are not.
    place.write(changed("late", lambda _, late: None if late is None else not late))
    lakehouse("score")
    days = ("--from", "2024-02-05", "--to", "2024-02-09")
    output = lakehouse("monitor", *days, exit_code=1)
    assert "finding ROC AUC is" in output
    assert "`lakehouse monitor late_parcel --retrain` trains a challenger" in output
    with open_tracking_client(place.tracking_uri) as client:
        assert len(client.search_model_versions("name = 'late_parcel'")) == 1, "no challenger was requested"

    # On the first changed day no changed day is left to learn from, and few rows judge the model.
    early = ("--from", "2024-01-31", "--to", "2024-01-31")
    assert "late_parcel version 2 is challenger: Brier score" in lakehouse("monitor", *early, "--retrain", exit_code=1)
    before = ("--from", "2024-01-29", "--to", "2024-01-30")
    assert "finding" not in lakehouse("monitor", *before, "--retrain")
    lakehouse.use_task(replace(CALM, limits=Limits(missing_rise=-1)))
    assert "Not retrained: " in lakehouse("monitor", *before, "--retrain", exit_code=1)


def test_a_better_challenger_is_promoted_not_evaluated(lakehouse: Command, place: Place) -> None:
    # Near parcels are late from the first day after the train split, which only a later training can learn.
    place.write(changed("late", lambda _, late: None if late is None else not late, first=200))
    lakehouse("train")
    lakehouse("score")
    output = lakehouse("monitor", "--from", "2024-01-31", "--to", "2024-02-09", "--retrain", exit_code=1)
    assert "late_parcel version 2 is champion: Brier score" in output
    assert "on 90 rows of 2024-01-31 to 2024-02-09 is below" in output
    with open_tracking_client(place.tracking_uri) as client:
        entry = client.get_model_version_by_alias("late_parcel", "champion")
        run = client.get_run(entry.run_id)
    assert run.data.params["train_until"] == "2024-01-30"
    assert run.data.params["validation_until"] == "2024-02-09"

    # The model was selected on the test split, and trained on the declared validation split.
    with pytest.raises(
        ModelError, match="version 2 was selected on days up to 2024-02-09, so the test split .* cannot evaluate"
    ):
        place.report()
    assert "version 3 is challenger: champion version 2 has learned from days up to 2024-01-30" in lakehouse("train")
