"""Retraining that fails, and a champion without its training data."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from deltalake import DeltaTable

from tests.lakehouse.ml.test_monitoring import CALM, Command, changed, score, watched
from tests.parcels import Place, change_model, parcels


def test_vacuumed_training_rows_are_replaced(trained: Place) -> None:
    score(trained)
    complete = watched(trained)
    trained.write(parcels(seed=1))
    trained.write(parcels())
    DeltaTable(trained.lake / "gold" / "parcels").vacuum(0, enforce_retention_duration=False, dry_run=False)
    report = watched(trained)

    assert len(report.notes) == 1
    assert report.notes[0].startswith(
        "The rows that version 1 was trained on are unavailable; the same days of gold.parcels version 4"
    )
    assert report.feature_drift == complete.feature_drift


def test_a_failed_retraining_keeps_the_findings(
    lakehouse: Command, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(changed("late", lambda _, late: None if late is None else not late, first=200))
    lakehouse("train")
    lakehouse("score")

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no memory is left")

    broken = change_model(TASK=CALM, fit=fail)
    monkeypatch.setitem(sys.modules, "tests.parcel_trees", broken)
    days = ("--from", "2024-01-31", "--to", "2024-02-09")
    output = lakehouse("monitor", *days, "--retrain", exit_code=1)
    finding, error, reason = (output.index(text) for text in ("finding ", "LakehouseError: ", "no memory is left"))
    assert finding < error < reason
    assert "The log is " in output
    monkeypatch.setattr(broken, "fit", change_model().fit)

    # The findings are printed before the training begins.
    outputs: list[str] = []

    def fit(*splits: Any, **options: Any) -> Any:
        outputs.append(lakehouse.capsys.readouterr().out)
        return change_model().fit(*splits, **options)

    monkeypatch.setattr(broken, "fit", fit)
    assert "late_parcel version 2 is " in lakehouse("monitor", *days, "--retrain", exit_code=1)
    assert "finding " in outputs[0]
