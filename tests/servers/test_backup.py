"""Commands of docs/howto/backup.md for a bucket."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.test_backup import BUCKET
from tests.s3 import make_client, minio


@pytest.mark.skipif(not shutil.which("aws"), reason="needs the program aws")
def test_a_bucket_is_copied_by_the_same_order(tmp_path: Path) -> None:
    names = [
        "lake/gold/t/_delta_log/00000000000000000000.json",
        "lake/gold/t/_delta_log/_last_checkpoint",
        "lake/gold/t/part-0.parquet",
        "lake/quarantine/silver.t/_delta_log/00000000000000000000.json",
        "manifests/bronze.t/00000001.json",
        "landing/t/1.csv",
        ".run.lock",
    ]
    with minio(tmp_path / "minio") as (endpoint, variables):
        store = make_client(endpoint, variables)
        for bucket in ("lake", "copy"):
            store.create_bucket(Bucket=bucket)
        for name in names:
            store.put_object(Bucket="lake", Key=f"root/{name}", Body=name.encode())
        places = {"FROM": "s3://lake/root", "TO": "s3://copy/root"}
        subprocess.run(["bash", "-c", BUCKET], env={**os.environ, **variables, **places}, check=True)
        copied = {entry["Key"].removeprefix("root/") for entry in store.list_objects_v2(Bucket="copy")["Contents"]}
    assert copied == {*names} - {".run.lock", "lake/gold/t/_delta_log/_last_checkpoint"}
