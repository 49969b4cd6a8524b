"""Lineage: every event has the inputs and versions that the ledger has, and none can stop a run."""

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
from lakehouse.plan.steps import Request
from lakehouse.runs import lineage
from lakehouse.runs.scheduler import run_tables
from lakehouse.settings import Settings
from tests.lakehouse.runs.test_scheduler import copies
from tests.lakes import TestLake, items_csv, items_table, landed_items

Lakes = Callable[..., TestLake]


def settings(folder: Path, **more: Any) -> Settings:
    return Settings(root=folder, spark="local.conf", declarations=("tests.orders",), log_folder=folder / "logs", **more)


def traced(lake: TestLake, made: Settings, run: str = "one") -> None:
    identity = Run(run, "")
    watcher = lineage.add_lineage(made, lake.lake, identity)
    run_tables(lake.engine, lake.lake, lake.lake.graph.select(), Request(), identity, 1, watcher)


def events(made: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.logs / lineage.FILE).read_text().splitlines()]


def test_a_merge_keeps_its_inputs_and_each_event_its_versions(make_lake: Lakes, tmp_path: Path) -> None:
    lake, made = make_lake(landed_items, items_table(), copies), settings(tmp_path)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    traced(lake, made)
    lake.land("raw.items", "2.csv", items_csv("1,2,2", "2,1,1"))
    traced(lake, made, "two")
    found = events(made)
    assert [(one["job"]["name"], one["eventType"]) for one in found] == [
        (table, state) for _ in range(2) for table in ("raw.items", "clean.items", "mart.copies") for state in ("START", "COMPLETE")
    ]  # fmt: skip
    last = next(one for one in reversed(found) if one["job"]["name"] == "clean.items")
    (came_from,), (made_of,) = last["inputs"], last["outputs"]
    assert (came_from["namespace"], came_from["name"]) == ("file", str(lake.lake.path("raw.items")))
    assert came_from["facets"]["version"]["datasetVersion"] == "1"
    assert made_of["facets"]["version"]["datasetVersion"] == "1"
    assert [one["name"] for one in made_of["facets"]["schema"]["fields"]] == ["id", "at", "value", "_file_id", "_row"]
    assert made_of["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert {one["run"]["facets"]["parent"]["run"]["runId"] for one in found[:6]} == {
        found[0]["run"]["facets"]["parent"]["run"]["runId"]
    }
    assert len({one["run"]["runId"] for one in found}) == 6, "a table's start and end are of one run"


def test_a_failure_and_what_it_stops_are_told(make_lake: Lakes, tmp_path: Path) -> None:
    lake, made = (
        make_lake(landed_items, items_table(rules=(Rule("none", "false", "fail"),)), copies),
        settings(tmp_path),
    )
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    traced(lake, made)
    ends = {one["job"]["name"]: one for one in events(made)}
    assert {name: one["eventType"] for name, one in ends.items()} == {
        "raw.items": "COMPLETE",
        "clean.items": "FAIL",
        "mart.copies": "ABORT",
    }
    assert "rows violate rules that fail the run" in ends["clean.items"]["run"]["facets"]["errorMessage"]["message"]


def test_events_go_to_a_server_with_its_key_and_none_that_is_down_stops_a_run(
    make_lake: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[tuple[str, str, dict[str, Any]]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.path, self.headers["Authorization"], body))
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
            traced(lake, settings(tmp_path, lineage=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert [(path, key, body["eventType"]) for path, key, body in got] == [
        ("/api/v1/lineage", "Bearer canary", state) for _ in range(2) for state in ("START", "COMPLETE")
    ]
    assert "canary" not in caplog.text
    lake.land("raw.items", "2.csv", items_csv("2,1,1"))
    traced(lake, settings(tmp_path, lineage="http://127.0.0.1:9"), "two")
    assert lake.rows("clean.items", "id") == [(1,), (2,)]
    assert caplog.text.count("no more lineage of this run goes to http://127.0.0.1:9") == 1
    with pytest.raises(ValueError, match="lineage"):
        settings(tmp_path, lineage="http://me:canary@127.0.0.1:9")


def test_a_table_is_drawn_down_to_its_files(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), copies)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.run("raw.items", "clean.items")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(lineage.build_tree(lake.lake, "clean.items"))
    said = console.export_text()
    for line in ("clean.items version 0, ", "raw.items version 0", "landing/items", "mart.copies not read yet"):
        assert line in said
    with pytest.raises(DeclarationError, match="'clean.itmes' is not declared; known are raw.items"):
        lineage.build_tree(lake.lake, "clean.itmes")
