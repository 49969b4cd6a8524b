"""The API against its own OpenAPI document: whatever schemathesis makes of that is answered as it says."""

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
    with open_client(make_service(copy_place(trained_parcels, tmp_path_factory.mktemp("schema")))) as one:
        yield one


def test_it_is_as_its_document_says(client: httpx.Client, tmp_path: Path) -> None:
    """A run of its own, because its plugin for pytest lags behind pytest."""
    done = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "run", f"{client.base_url}/openapi.json",
         "--header", f"Authorization: {HEADERS['Authorization']}", "--checks", "all", "--max-examples", "50",
         "--no-color", "--request-timeout", "30"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "POST /predict" not in done.stdout.partition("FAILURES")[2]


def test_the_document_has_the_columns_of_the_table_but_the_label(client: httpx.Client) -> None:
    said = client.get("/openapi.json").json()
    row = said["components"]["schemas"]["Features"]
    assert {*row["properties"]} == {"parcel", "day", "distance_km", "items", "shop", "noise"}
    assert {*row["required"]} == {"distance_km", "shop", "items"}
    assert said["components"]["schemas"]["Key"]["required"] == ["parcel"]
    assert said["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (said["security"], said["paths"]["/health"]["get"]["security"]) == ([{"key": []}], [])
