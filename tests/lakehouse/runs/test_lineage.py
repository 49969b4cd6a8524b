"""Lineage events have the inputs and versions of the ledger, and never stop a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from lakehouse.definitions.rules import Rule
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import DeclarationError
from lakehouse.plan.steps import RunRequest
from lakehouse.runs import lineage
from lakehouse.runs.scheduler import run_tables
from lakehouse.settings import Settings
from tests.lakehouse.runs.test_scheduler import copies
from tests.lakes import TestLake, items_csv, items_table, landed_items

Lakes = Callable[..., TestLake]


def create_settings(folder: Path, **more: Any) -> Settings:
    return Settings(root=folder, spark="local.conf", declarations=("tests.orders",), log_folder=folder / "logs", **more)


def run_with_lineage(lake: TestLake, settings: Settings, run_id: str = "one") -> None:
    run = Run(run_id, "")
    listener = lineage.add_lineage(settings, lake.lake, run)
    run_tables(lake.engine, lake.lake, lake.lake.graph.select(), RunRequest(), run, 1, listener)


def read_events(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (settings.logs / lineage.FILE).read_text().splitlines()]


def test_events_name_inputs_and_versions(make_lake: Lakes, tmp_path: Path) -> None:
    lake, settings = make_lake(landed_items, items_table(), copies), create_settings(tmp_path)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    run_with_lineage(lake, settings)
    lake.land("raw.items", "2.csv", items_csv("1,2,2", "2,1,1"))
    run_with_lineage(lake, settings, "two")
    events = read_events(settings)
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        (table, state)
        for _ in range(2)
        for table in ("raw.items", "clean.items", "mart.copies")
        for state in ("START", "COMPLETE")
    ]
    last = next(event for event in reversed(events) if event["job"]["name"] == "clean.items")
    (source,), (target,) = last["inputs"], last["outputs"]
    assert (source["namespace"], source["name"]) == ("file", str(lake.lake.get_path("raw.items")))
    assert source["facets"]["version"]["datasetVersion"] == "1"
    assert target["facets"]["version"]["datasetVersion"] == "1"
    assert [field["name"] for field in target["facets"]["schema"]["fields"]] == [
        "id",
        "at",
        "value",
        "_file_id",
        "_row",
    ]
    assert target["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in events[:6]} == {
        events[0]["run"]["facets"]["parent"]["run"]["runId"]
    }
    assert len({event["run"]["runId"] for event in events}) == 6, "a table's start and end are of one run"


def test_failed_and_skipped_tables_have_events(make_lake: Lakes, tmp_path: Path) -> None:
    lake = make_lake(landed_items, items_table(rules=(Rule("none", "false", "fail"),)), copies)
    settings = create_settings(tmp_path)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    run_with_lineage(lake, settings)
    ends = {event["job"]["name"]: event for event in read_events(settings)}
    assert {name: event["eventType"] for name, event in ends.items()} == {
        "raw.items": "COMPLETE",
        "clean.items": "FAIL",
        "mart.copies": "ABORT",
    }
    assert "rows violate rules that fail the run" in ends["clean.items"]["run"]["facets"]["errorMessage"]["message"]


def test_events_go_to_a_server(
    make_lake: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers["Authorization"], body))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    lake = make_lake(landed_items, items_table())
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "canary")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with caplog.at_level(logging.DEBUG):
            run_with_lineage(lake, create_settings(tmp_path, lineage=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert [(path, key, body["eventType"]) for path, key, body in requests] == [
        ("/api/v1/lineage", "Bearer canary", state) for _ in range(2) for state in ("START", "COMPLETE")
    ]
    assert "canary" not in caplog.text
    lake.land("raw.items", "2.csv", items_csv("2,1,1"))
    run_with_lineage(lake, create_settings(tmp_path, lineage="http://127.0.0.1:9"), "two")
    assert lake.rows("clean.items", "id") == [(1,), (2,)]
    assert caplog.text.count("no more lineage events are sent to http://127.0.0.1:9") == 1
    with pytest.raises(ValueError, match="lineage"):
        create_settings(tmp_path, lineage="http://me:canary@127.0.0.1:9")


def test_the_tree_ends_at_landed_files(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), copies)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.run("raw.items", "clean.items")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(lineage.build_tree(lake.lake, "clean.items"))
    text = console.export_text()
    for line in ("clean.items version 0, ", "raw.items version 0", "landing/items", "mart.copies not read yet"):
        assert line in text
    with pytest.raises(DeclarationError, match="'clean.itmes' is not declared. Choose one of raw.items"):
        lineage.build_tree(lake.lake, "clean.itmes")
