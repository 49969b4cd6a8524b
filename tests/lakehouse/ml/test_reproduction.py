"""Reproduction of a registered model, and every way in which it can differ."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from deltalake import DeltaTable

from lakehouse.cli import main as cli
from lakehouse.errors import ModelError
from lakehouse.ml import pipeline
from lakehouse.ml.environment import describe_environment
from lakehouse.ml.metrics import METRICS
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.reproduction import ReproductionResult, open_recipe, reproduce
from lakehouse.ml.training_record import RECIPE_FILE, TrainResult
from tests.parcels import LEARNER, TASK, Place, change_model, fit, parcels


def again(place: Place, trained: TrainResult, module: Any = None, **more: Any) -> ReproductionResult:
    options = {"revision": "abc123", **more}
    recipe = open_recipe(trained.run_id, place.tracking_uri)
    return reproduce(recipe, {LEARNER: module or change_model()}, lake=place.lake, **options)


def table(place: Place) -> Path:
    return place.lake / "gold" / "parcels"


def artifact(place: Place, name: str) -> Path:
    (file,) = Path(place.artifact_root.removeprefix("file://")).glob(f"**/{name}")
    return file


def test_the_recorded_version_reproduces_without_registry_changes(place: Place) -> None:
    trained = place.train(change_model())
    place.write(parcels(seed=1))  # the newest version has other rows
    with open_tracking_client(place.tracking_uri) as client:
        before = (
            [dict(entry) for entry in client.search_model_versions()],
            client.get_run(trained.run_id).to_dictionary(),
        )
    result = again(place, trained)

    assert (result.differences, result.notes) == ((), ())
    assert (result.rows, result.same_share, result.largest_difference) == (90, 1.0, 0.0)
    assert result.model_version == 1
    assert set(result.metrics) == {f"{split}_{name}" for split in ("train", "validation") for name in METRICS}
    assert result.metrics["validation_brier"] == (trained.metrics["brier"],) * 2
    with open_tracking_client(place.tracking_uri) as client:
        after = (
            [dict(entry) for entry in client.search_model_versions()],
            client.get_run(trained.run_id).to_dictionary(),
        )
        assert len(client.search_runs([client.get_experiment_by_name(place.experiment).experiment_id])) == 3
    assert before == after


def test_the_recorded_declaration_is_used(place: Place) -> None:
    trained = place.train(change_model(FEATURES=("distance_km", "items")))
    splits = replace(TASK.splits, train=("2024-01-05", "2024-01-20"))
    result = again(place, trained, change_model(FEATURES=("noise",), TASK=replace(TASK, splits=splits), CANDIDATES=()))
    assert result.differences == ()
    assert result.notes == ("the model's declaration has changed: FEATURES, splits; the recorded one was used",)


def test_changed_code_shows_in_metrics_and_predictions(place: Place) -> None:
    trained = place.train(change_model(), revision="abc123-dirty")

    def changed_fit(*splits: Any, **options: Any) -> Any:
        return fit(*splits, **{**options, "seed": 5, "params": {**options["params"], "max_iter": 29}})

    result = again(place, trained, change_model(fit=changed_fit), revision="def456")
    recorded, current = result.metrics["validation_brier"]
    assert recorded == trained.metrics["brier"] != current
    assert f"validation_brier was {recorded:.6f} and is {current:.6f}" in result.differences
    assert (
        result.differences[-1]
        == f"its predictions differ from the registered model's by up to {result.largest_difference:.6f}"
    )
    assert 0 <= result.same_share < 1
    assert result.notes == ("the code is another: it was revision abc123-dirty, and is def456",)
    result = again(place, trained, revision="abc123-dirty")
    assert result.differences == ()
    assert result.notes == ("the code may be another: revision abc123-dirty had changes that were not committed",)


def test_code_that_cannot_fit_is_reported(place: Place) -> None:
    trained = place.train(change_model())
    result = again(place, trained, change_model(fit=lambda *_, **options: options["params"]["depth"]))
    assert result.differences == ("today's code cannot fit it: KeyError: 'depth'",)


def test_other_package_versions_are_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = place.train(change_model())
    stored = artifact(place, "requirements.txt")
    stored.write_text(stored.read_text().replace("skops==", "skops==0.") + "\nnever_installed==1.0\n")
    result = again(place, trained)
    assert result.differences == ()
    assert result.notes[0].startswith("skops was 0.")
    assert result.notes[1] == "never_installed was 1.0 and is not installed"


def test_environment_differences_are_noted(
    place: Place,
) -> None:
    trained = place.train(change_model())
    recipe, device = artifact(place, RECIPE_FILE), describe_environment(())["device"]
    content = json.loads(recipe.read_text())
    packages, threads = content["fitted_on"]["packages"], os.environ.get("OMP_NUM_THREADS") or str(joblib.cpu_count())
    assert {name: packages[name] for name in ("numpy", "scikit-learn")} == {
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    assert content["fitted_on"] == {
        "python": platform.python_version(),
        "packages": packages,
        "device": device,
        "threads": threads,
    }
    older = {**packages, "scikit-learn": "1.0", "numpy": "2.0"}
    others = {"python": "3.10.1", "packages": older, "device": "another", "threads": "96"}
    recipe.write_text(json.dumps({**content, "fitted_on": others}))
    stored = artifact(place, "requirements.txt")
    stored.write_text("")  # without the packages of this environment
    result = again(place, trained)
    assert result.differences == ()
    assert set(result.notes) == {
        f"numpy was 2.0 and is {np.__version__}",
        f"scikit-learn was 1.0 and is {sklearn.__version__}",
        f"Python was 3.10.1 and is {platform.python_version()}",
        f"the number of threads was 96 and is {threads}",
        f"the device was another and is {device}",
        "numbers of 32 bits, as networks have, differ by more than 1e-09 from one device to another",
    }

    del content["fitted_on"]  # as in recipes of earlier releases
    recipe.write_text(json.dumps(content))
    older_recipe = again(place, trained)
    assert (older_recipe.differences, older_recipe.notes) == ((), ())


def test_runs_that_are_no_trainings_are_reported(place: Place, tmp_path: Path) -> None:
    trained = place.train(change_model())
    with open_tracking_client(place.tracking_uri) as client:
        (candidate, *_) = client.search_runs(
            [client.get_experiment_by_name(place.experiment).experiment_id], "tags.candidate_of LIKE '%'"
        )
    with pytest.raises(ModelError, match="has no recipe.json: `lakehouse train` did not make the run"):
        open_recipe(candidate.info.run_id, place.tracking_uri)
    for unknown in ("0" * 32, "nobody's", "'"):
        with pytest.raises(ModelError, match=f"No run .*{unknown}.* is known at sqlite"):
            open_recipe(unknown, place.tracking_uri)
    with pytest.raises(ModelError, match="No run 'x' is known"):
        open_recipe("x", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert not (tmp_path / "elsewhere.db").exists()
    with pytest.raises(ModelError, match="was made by 'trees', which `models` in conf/base.yml does not name"):
        reproduce(open_recipe(trained.run_id, place.tracking_uri), {}, lake=place.lake, revision="")


def test_commands_report_tuning_and_reproduction(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAKEHOUSE_ROOT", str(place.lake.parent))
    monkeypatch.setenv("LAKEHOUSE_MODELS", '{"trees": "tests.parcel_trees"}')

    monkeypatch.setattr(pipeline, "get_revision", lambda project: "abc123")

    def command(*arguments: str, exit_code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == exit_code, captured
        return " ".join((captured.out + captured.err).split())

    command("train", "trees", "--tuned", exit_code=2)
    output = command("tune", "trees", "--trials", "3")
    assert re.search(
        r"3 trials of trees-v0-\w+. The best is number \d: `lakehouse train trees --tuned` takes", output
    ), output
    assert "max_depth 3" in output
    assert "version 1 is champion" in command("train", "trees", "--tuned")
    with open_tracking_client(place.tracking_uri) as client:
        run_id = client.get_model_version("late_parcel", "1").run_id
    output = command("reproduce", run_id)
    assert "late_parcel version 1: trees on gold.parcels version 0, seed 0" in output
    assert output.endswith(
        "Predictions for 90 rows: 100.00% exactly the same, the largest difference is 0. The models are the same."
    )
    assert "No run 'nobody' is known" in command("reproduce", "nobody", exit_code=2)
    place.write(parcels(seed=1))
    DeltaTable(table(place)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    output = command("reproduce", run_id, exit_code=1)
    assert "difference 1 of the 1 files of gold.parcels version 0 are gone (VACUUM) The models differ." in output
    assert "gold.parcels: 0 files (0 B) removed." in command("vacuum", "gold.parcels")
    assert "greater than or equal to 7" in command("vacuum", "gold.parcels", "--keep-days", "6", exit_code=2)
