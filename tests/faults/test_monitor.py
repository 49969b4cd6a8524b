"""Retraining that fails, and a champion whose training data is gone."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from deltalake import DeltaTable

from tests.lakehouse.ml.test_monitoring import (
    CALM,
    Command,
    changed,
    score,
    watched,
)
from tests.parcels import Place, change_model, parcels


def test_what_the_model_was_trained_on_may_be_gone(trained: Place) -> None:
    score(trained)
    whole = watched(trained)
    trained.write(parcels(seed=1))
    trained.write(parcels())
    DeltaTable(trained.lake / "gold" / "parcels").vacuum(0, enforce_retention_duration=False, dry_run=False)
    seen = watched(trained)

    assert len(seen.notes) == 1
    assert seen.notes[0].startswith(
        "The rows that version 1 was trained on are unavailable; the same days of gold.parcels version 4"
    )
    assert seen.feature_drift == whole.feature_drift


def test_a_retraining_that_fails_takes_nothing_from_what_was_found(
    lakehouse: Command, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(changed("late", lambda _, late: None if late is None else not late, first=200))
    lakehouse("train")
    lakehouse("score")

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("no memory is left")

    broken = change_model(TASK=CALM, fit=fails)
    monkeypatch.setitem(sys.modules, "tests.parcel_trees", broken)
    told = lakehouse("monitor", "--from", "2024-01-31", "--to", "2024-02-09", "--retrain", exit_code=1)
    found, wrong, why = (told.index(text) for text in ("finding ", "LakehouseError: ", "no memory is left"))
    assert found < wrong < why
    assert "The log is " in told
    monkeypatch.setattr(broken, "fit", change_model().fit)

    # Until the training begins, what was found is told already.
    seen: list[str] = []

    def training(*splits: Any, **how: Any) -> Any:
        seen.append(lakehouse.capsys.readouterr().out)
        return change_model().fit(*splits, **how)

    monkeypatch.setattr(broken, "fit", training)
    assert "late_parcel version 2 is " in lakehouse(
        "monitor", "--from", "2024-01-31", "--to", "2024-02-09", "--retrain", exit_code=1
    )
    assert "finding " in seen[0]
