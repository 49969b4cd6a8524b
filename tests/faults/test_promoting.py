"""Champions that cannot be loaded or were changed, and champions that another machine sets meanwhile."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lakehouse.errors import ModelError
from lakehouse.ml import promotion
from lakehouse.ml.mlflow_client import CHAMPION
from lakehouse.ml.registry import Registry
from lakehouse.ml.training import train
from lakehouse.ml.training_record import TrainResult
from tests.lakehouse.ml.test_promotion import MIDDLING
from tests.parcels import FILE, LEARNER, Place, change_model
from tests.served import GOOD, WEAK, give_alias

STAYS = "champion version 1 stays, as it cannot be evaluated here: ModelError: "


def train_another(place: Place, models: dict[str, Any]) -> TrainResult:
    """Train another learner than the champion's, beside those of ``models``."""
    registry = Registry(place.tracking_uri, place.artifact_root, place.experiment)
    options = {"lake": place.lake, "registry": registry, "revision": "abc123", "pending_folder": place.pending_folder}
    return train("other", {**models, "other": change_model(**MIDDLING)}, **options)


def test_a_champion_with_damaged_files_stays(place: Place) -> None:
    place.train(change_model(FEATURES=("noise",)))
    (stored,) = Path(place.artifact_root.removeprefix("file://")).glob(f"**/artifacts/model/{FILE}")
    stored.write_bytes(stored.read_bytes() + b"!")
    second = train_another(place, {LEARNER: change_model()})

    assert second.alias == "challenger", "although it is better"
    assert second.reason.startswith(STAYS)
    assert "its files (models:/late_parcel/1/artifacts/model) are not those that were registered" in second.reason
    shutil.rmtree(stored.parent)
    third = train_another(place, {LEARNER: change_model()})
    assert third.alias == "challenger"
    assert third.reason.startswith(f"{STAYS}late_parcel version 1 is gone from the store of artifacts")
    (command,) = re.findall(r"promote this version by (python -c \".*\")$", third.reason)
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    assert "of champion version 3" in train_another(place, {}).reason, "the gate works again"


def needs_torch(_: Path) -> Any:
    raise ModelError("This model needs torch: pip install 'lakehouse-medallion[torch]'")


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ({LEARNER: change_model(load=needs_torch)}, "cannot be loaded here .*needs torch: pip install"),
        ({}, "was made by 'trees', which `models` in conf/base.yml does not name"),
    ],
)
def test_a_champion_that_cannot_be_loaded_stays(two: Place, models: dict[str, Any], text: str) -> None:
    result = train_another(two, models)
    assert result.alias == "challenger"
    assert re.match(f"{STAYS}.*{text}", result.reason)
    assert two.champion().version == GOOD


def test_a_champion_set_meanwhile_is_compared(two: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    give_alias(two, CHAMPION, WEAK)
    compare, verdicts = promotion.compare, []

    def compare_slowly(*args: Any) -> promotion.Verdict:
        verdicts.append(compare(*args))
        give_alias(two, CHAMPION, GOOD)
        return verdicts[-1]

    monkeypatch.setattr(promotion, "compare", compare_slowly)
    third = two.train(change_model(**MIDDLING))
    assert [verdict.is_better for verdict in verdicts] == [True, False]
    assert third.alias == "challenger"
    assert "of champion version 1" in third.reason
    assert two.run(third.run_id).data.tags["decision"] == "challenger"
    assert two.champion().version == GOOD
