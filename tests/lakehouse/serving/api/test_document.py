"""Tests of the API against its OpenAPI document, with schemathesis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.parcels import Place
from tests.served import HEADERS, copy_place, make_service, open_client


@pytest.fixture(scope="module")
def client(trained_parcels: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with open_client(make_service(copy_place(trained_parcels, tmp_path_factory.mktemp("schema")))) as client:
        yield client


def test_the_api_conforms_to_its_document(client: httpx.Client, tmp_path: Path) -> None:
    """Run schemathesis as a process, because its plugin does not support this version of pytest."""
    options = ["--checks", "all", "--max-examples", "50", "--no-color", "--request-timeout", "30"]
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{client.base_url}/openapi.json"]
    command += ["--header", f"Authorization: {HEADERS['Authorization']}", *options]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "POST /predict" not in process.stdout.partition("FAILURES")[2]


def test_the_document_has_all_columns_except_label(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    row = document["components"]["schemas"]["Features"]
    assert {*row["properties"]} == {"parcel", "day", "distance_km", "items", "shop", "noise"}
    assert {*row["required"]} == {"distance_km", "shop", "items"}
    assert document["components"]["schemas"]["Key"]["required"] == ["parcel"]
    assert document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (document["security"], document["paths"]["/health"]["get"]["security"]) == ([{"key": []}], [])
