"""VACUUM in a bucket removes the files that no registered model needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from deltalake import write_deltalake

from lakehouse.api import vacuum
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import VacuumError
from lakehouse.ml.registry import Registry
from lakehouse.ml.training import train
from lakehouse.runs.vacuum import VacuumResult
from lakehouse.settings import Settings, load
from lakehouse.storage.location import build_delta_options
from lakehouse.storage.s3 import S3Path, get_client
from tests.parcels import LEARNER, Place, change_model, parcels
from tests.s3 import minio


def run_vacuum(settings: Settings, *forget: str) -> VacuumResult:
    return vacuum(settings, "gold.parcels", Run("V", ""), keep_days=None, forget=forget, dry_run=False)


def test_vacuum_keeps_files_that_a_model_needs(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = S3Path("lake")
    path = bucket.joinpath("lake", "gold", "parcels")
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    with minio(tmp_path / "data") as (_, env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        get_client().create_bucket(Bucket="lake")
        no_retention = {"delta.deletedFileRetentionDuration": "interval 0 days"}
        for seed, configuration in ((0, no_retention), (1, None)):
            write_deltalake(
                str(path),
                parcels(seed),
                mode="overwrite",
                configuration=configuration,
                storage_options=build_delta_options(path),
            )
        training = {"revision": "abc123", "pending_folder": place.pending_folder, "version": 0}
        registry = Registry(place.tracking_uri, place.artifact_root, place.experiment)
        train(LEARNER, {LEARNER: change_model()}, lake=bucket / "lake", registry=registry, **training)
        settings = load(root="s3://lake", log_folder=tmp_path / "logs", mlflow=place.tracking_uri)
        with pytest.raises(
            VacuumError, match="late_parcel version 1 was trained on version 0, which would lose 1 files"
        ):
            run_vacuum(settings)
        assert len(list_parquet_files(path)) == 2
        result = run_vacuum(settings, "late_parcel:1")
        assert (result.files, result.bytes > 1000, len(list_parquet_files(path))) == (1, True, 1)
        assert run_vacuum(settings).files == 0


def list_parquet_files(path: S3Path) -> list[str]:
    return [entry["Key"] for entry in path.list_objects() if entry["Key"].endswith(".parquet")]
