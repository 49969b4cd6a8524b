"""Making a registered model again: what is the same, and every way in which it can differ."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sklearn
from deltalake import DeltaTable, write_deltalake
from threadpoolctl import threadpool_limits

from lakehouse import cli, modeling
from lakehouse.environment import environment
from lakehouse.errors import ModelError
from lakehouse.features import METRICS
from lakehouse.registering import RECIPE, TrainResult
from lakehouse.reproducing import Reproduced, open_recipe, reproduce
from lakehouse.tracking import tracking
from tests.parcels import FILE, LEARNER, TASK, Place, fit, model, parcels


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def again(place: Place, trained: TrainResult, module: Any = None, **more: Any) -> Reproduced:
    told = {"revision": "abc123", **more}
    recipe = open_recipe(trained.run_id, place.tracking_uri)
    return reproduce(recipe, {LEARNER: module or model()}, lake=place.lake, **told)


def table(place: Place) -> Path:
    return place.lake / "gold" / "parcels"


def artifact(place: Place, name: str) -> Path:
    (found,) = Path(place.artifact_root.removeprefix("file://")).glob(f"**/{name}")
    return found


def test_it_is_the_same_at_its_version_and_the_registry_stays_as_it_is(place: Place) -> None:
    trained = place.train(model())
    place.write(parcels(seed=1))  # the newest version has other rows
    with tracking(place.tracking_uri) as client:
        before = [dict(one) for one in client.search_model_versions()], client.get_run(trained.run_id).to_dictionary()
    found = again(place, trained)

    assert (found.differs, found.notes) == ((), ())
    assert (found.rows, found.same, found.largest) == (90, 1.0, 0.0)
    assert found.model_version == 1
    assert set(found.metrics) == {f"{split}_{name}" for split in ("train", "choose") for name in METRICS}
    assert found.metrics["choose_brier"] == (trained.metrics["brier"],) * 2
    with tracking(place.tracking_uri) as client:
        after = [dict(one) for one in client.search_model_versions()], client.get_run(trained.run_id).to_dictionary()
        assert len(client.search_runs([client.get_experiment_by_name(place.experiment).experiment_id])) == 3
    assert before == after


def test_it_is_made_as_it_was_declared_then(place: Place) -> None:
    trained = place.train(model(FEATURES=("distance_km", "items")))
    splits = replace(TASK.splits, train=("2024-01-05", "2024-01-20"))
    found = again(place, trained, model(FEATURES=("noise",), TASK=replace(TASK, splits=splits), CANDIDATES=()))
    assert found.differs == ()
    assert found.notes == ("the model declares otherwise by now: FEATURES, splits; what it declared then was used",)


def test_code_that_fits_in_another_way_is_seen_by_what_it_makes(place: Place) -> None:
    trained = place.train(model(), revision="abc123-dirty")

    def otherwise(*splits: Any, **how: Any) -> Any:
        return fit(*splits, **{**how, "seed": 5, "params": {**how["params"], "max_iter": 29}})

    found = again(place, trained, model(fit=otherwise), revision="def456")
    was, now = found.metrics["choose_brier"]
    assert was == trained.metrics["brier"] != now
    assert f"choose_brier was {was:.6f} and is {now:.6f}" in found.differs
    assert found.differs[-1] == f"its predictions differ from the registered model's by up to {found.largest:.6f}"
    assert 0 <= found.same < 1
    assert found.notes == ("the code is another: it was revision abc123-dirty, and is def456",)
    found = again(place, trained, revision="abc123-dirty")
    assert found.differs == ()
    assert found.notes == ("the code may be another: revision abc123-dirty had changes that were not committed",)


def test_code_that_cannot_fit_it_is_told(place: Place) -> None:
    trained = place.train(model())
    found = again(place, trained, model(fit=lambda *_, **how: how["params"]["depth"]))
    assert found.differs == ("today's code cannot fit it: KeyError: 'depth'",)


def test_tampered_parameters_and_a_tampered_model_are_seen(place: Place) -> None:
    trained = place.train(model())
    recipe = artifact(place, RECIPE)
    said = json.loads(recipe.read_text())
    assert said["params"] == {"max_iter": 30}
    recipe.write_text(json.dumps({**said, "params": {"max_iter": 3}}))
    found = again(place, trained)
    assert [text.split()[0] for text in found.differs[:-1]] == list(found.metrics)
    assert found.differs[-1].startswith("its predictions differ")

    recipe.write_text(json.dumps(said))
    stored = artifact(place, f"artifacts/model/{FILE}")
    stored.write_bytes(b"not a model")
    found = again(place, trained)
    assert "late_parcel version 1 is refused: its files" in found.differs[0]
    assert (len(found.differs), found.same) == (1, None)


def test_packages_of_other_versions_are_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = place.train(model())
    stored = artifact(place, "requirements.txt")
    stored.write_text(stored.read_text().replace("skops==", "skops==0.") + "\nnever_installed==1.0\n")
    found = again(place, trained)
    assert found.differs == ()
    assert found.notes[0].startswith("skops was 0.")
    assert found.notes[1] == "never_installed was 1.0 and is not installed"


def test_what_it_was_fitted_on_is_recorded_and_each_difference_noted(
    place: Place,
) -> None:
    trained = place.train(model())
    recipe, device = artifact(place, RECIPE), environment(())["device"]
    said = json.loads(recipe.read_text())
    packages, threads = said["fitted_on"]["packages"], os.environ.get("OMP_NUM_THREADS") or str(joblib.cpu_count())
    assert {name: packages[name] for name in ("numpy", "scikit-learn")} == {
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    assert said["fitted_on"] == {
        "python": platform.python_version(), "packages": packages, "device": device, "threads": threads,
    }  # fmt: skip
    older = {**packages, "scikit-learn": "1.0", "numpy": "2.0"}
    others = {"python": "3.10.1", "packages": older, "device": "another", "threads": "96"}
    recipe.write_text(json.dumps({**said, "fitted_on": others}))
    stored = artifact(place, "requirements.txt")
    stored.write_text("")  # which names what loading takes, in this environment
    found = again(place, trained)
    assert found.differs == ()
    assert set(found.notes) == {
        f"numpy was 2.0 and is {np.__version__}",
        f"scikit-learn was 1.0 and is {sklearn.__version__}",
        f"Python was 3.10.1 and is {platform.python_version()}",
        f"the number of threads was 96 and is {threads}",
        f"the device was another and is {device}",
        "numbers of 32 bits, as networks have, differ by more than 1e-09 from one device to another",
    }

    del said["fitted_on"]  # as in recipes of before it was recorded
    recipe.write_text(json.dumps(said))
    older_recipe = again(place, trained)
    assert (older_recipe.differs, older_recipe.notes) == ((), ())


def test_another_table_in_its_place_is_told_and_compared(place: Place) -> None:
    trained = place.train(model())
    shutil.rmtree(table(place))
    place.write(parcels().slice(20))
    found = again(place, trained)
    assert found.differs[0].startswith("gold.parcels is another table than the one that it was trained on: its id was ")
    assert found.differs[1] == ("other rows in the train split: it had 180 and has 162; 18 keys are missing, 0 are new")
    assert not [text for text in found.differs if "choose split" in text]

    shutil.rmtree(table(place))
    place.write(parcels())
    (only,) = again(place, trained).differs
    assert only.startswith("gold.parcels is another table")


def test_other_rows_at_the_same_version_of_the_same_table_are_told(place: Place) -> None:
    rows = parcels()
    trained = place.train(model())

    def put(changed: pa.Table) -> None:
        """As if somebody had written the table's file anew."""
        log = table(place) / "_delta_log" / f"{0:020}.json"
        kept = table_id(place)
        shutil.rmtree(table(place))
        write_deltalake(table(place), changed)
        log.write_text(log.read_text().replace(table_id(place), kept))

    def table_id(place: Place) -> str:
        return str(DeltaTable(table(place)).metadata().id)

    later = pc.if_else(pc.less(rows["parcel"], 3), pc.add(rows["parcel"], 1000), rows["parcel"])
    put(rows.set_column(0, "parcel", later))
    assert again(place, trained).differs == (
        "other rows in the train split: it had 180 and has 180; 3 keys are missing, 3 are new",
    )
    items = pc.if_else(pc.equal(rows["parcel"], 210), pa.scalar(77), rows["items"])
    put(rows.set_column(rows.column_names.index("items"), "items", items))
    assert again(place, trained).differs[0] == "the rows of the choose split have the same keys and other values"
    put(rows)
    assert again(place, trained).differs == ()


def test_a_version_that_was_vacuumed_is_told_and_not_replaced(place: Place) -> None:
    trained = place.train(model())
    place.write(parcels())
    DeltaTable(table(place)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    found = again(place, trained)
    assert found.differs == ("1 of the 1 files of gold.parcels version 0 are gone (VACUUM)",)
    assert (found.metrics, found.same) == ({}, None)


def test_a_version_whose_log_is_gone_a_table_that_is_gone_and_one_that_lacks_the_version_are_told(place: Place) -> None:
    place.write(parcels())
    trained = place.train(model())
    kept = table(place).with_name("kept")
    shutil.copytree(table(place), kept)
    DeltaTable(table(place)).create_checkpoint()
    place.write(parcels())
    for version in (0, 1):
        (table(place) / "_delta_log" / f"{version:020}.json").unlink()
    (table(place) / "_delta_log" / f"{1:020}.checkpoint.parquet").unlink()
    (only,) = again(place, trained).differs
    assert "the Delta log cannot be read" in only
    shutil.rmtree(table(place))
    (only,) = again(place, trained).differs
    assert "its feature table gold.parcels is not there" in only
    place.write(parcels())
    other, lacks = again(place, trained).differs
    assert "another table" in other
    assert lacks == "gold.parcels has no version 1; its latest is 0."


def test_what_is_no_training_is_told(place: Place, tmp_path: Path) -> None:
    trained = place.train(model())
    with tracking(place.tracking_uri) as client:
        (candidate, *_) = client.search_runs(
            [client.get_experiment_by_name(place.experiment).experiment_id], "tags.candidate_of LIKE '%'"
        )
    with pytest.raises(ModelError, match="holds no recipe.json: it is not one of `lakehouse train`"):
        open_recipe(candidate.info.run_id, place.tracking_uri)
    for unknown in ("0" * 32, "nobody's", "'"):
        with pytest.raises(ModelError, match=f"No run .*{unknown}.* is known at sqlite"):
            open_recipe(unknown, place.tracking_uri)
    with pytest.raises(ModelError, match="No run 'x' is known"):
        open_recipe("x", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert not (tmp_path / "elsewhere.db").exists()
    with pytest.raises(ModelError, match="It was made by 'trees', which `models` in conf/base.yml does not name"):
        reproduce(open_recipe(trained.run_id, place.tracking_uri), {}, lake=place.lake, revision="")


def test_without_its_version_in_the_registry_metrics_are_compared_all_the_same(place: Place) -> None:
    trained = place.train(model())
    with tracking(place.tracking_uri) as client:
        client.delete_model_version("late_parcel", "1")
    found = again(place, trained)
    assert found.differs == ("its model is no longer in the registry, so that predictions cannot be compared",)
    assert found.metrics["choose_brier"] == (trained.metrics["brier"],) * 2
    assert np.isfinite([value for pair in found.metrics.values() for value in pair]).all()


def test_the_commands_say_what_was_tuned_made_again_and_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAKEHOUSE_ROOT", str(place.lake.parent))
    monkeypatch.setenv("LAKEHOUSE_MODELS", '{"trees": "tests.parcel_trees"}')

    monkeypatch.setattr(modeling, "revision", lambda: "abc123")

    def command(*arguments: str, exit_code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        assert (left.value.code or 0) == exit_code, said
        return " ".join((said.out + said.err).split())

    command("train", "trees", "--tuned", exit_code=2)
    said = command("tune", "trees", "--trials", "3")
    assert re.search(r"3 trials of trees-v0-\w+. The best is number \d: `lakehouse train trees --tuned` takes", said), (
        said
    )
    assert "max_depth 3" in said
    assert "version 1 is champion" in command("train", "trees", "--tuned")
    with tracking(place.tracking_uri) as client:
        run_id = client.get_model_version("late_parcel", "1").run_id
    said = command("reproduce", run_id)
    assert "late_parcel version 1: trees on gold.parcels version 0, seed 0" in said
    assert said.endswith(
        "Predictions for 90 rows: 100.00% exactly the same, the largest difference is 0. It is the same model."
    )
    assert "No run 'nobody' is known" in command("reproduce", "nobody", exit_code=2)
    place.write(parcels(seed=1))
    DeltaTable(table(place)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    said = command("reproduce", run_id, exit_code=1)
    assert "differs 1 of the 1 files of gold.parcels version 0 are gone (VACUUM) It is not the same." in said
    assert "gold.parcels: 0 files (0 B) removed." in command("vacuum", "gold.parcels")
    assert "greater than or equal to 7" in command("vacuum", "gold.parcels", "--keep-days", "6", exit_code=2)
