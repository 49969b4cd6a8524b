"""The benchmark of CPU and GPU: each table's time from the events of the run, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import WHOLE, arguments, report, table_seconds
from benchmarks.submitted import read_operators

MACHINE = {"cpu": "a CPU", "cores": 16, "memory_gib": 128, "system": "Linux x86_64", "versions": {"pyspark": "4.1.1"}}
BY_CPU = [{WHOLE: 100.0, "silver.flights": 60.0, "gold.airport_daily": 20.0}]
OTHER = [
    {WHOLE: 30.0, "silver.flights": 10.0, "gold.airport_daily": 8.0},
    {WHOLE: 50.0, "silver.flights": 30.0, "gold.airport_daily": 10.0},
]


def results(mode: str, **more: Any) -> dict[str, Any]:
    plain = {
        "machine": MACHINE,
        "device": "H100",
        "no_device": "",
        "modes": ["", mode],
        "date": "2026-11-26",
        "revision": "abc",
    }
    outcome = {
        "failed": "",
        "operators": {"20": (90, 120)},
        "prices": {"cpu": 0.9, "gpu": 3.6},
        "differences": [],
        "seconds": {"20": {"": BY_CPU, mode: OTHER}},
    }
    return {**plain, **outcome, **more}


def test_table_seconds_span_start_to_end(tmp_path: Path) -> None:
    events = [
        ("START", "silver.flights", 0),
        ("START", "gold.x", 5),
        ("COMPLETE", "gold.x", 7),
        ("FAIL", "silver.flights", 9),
    ]
    lines = [
        {"eventType": kind, "eventTime": f"2026-11-26T10:00:{second:02}.500000+00:00", "job": {"name": table}}
        for kind, table, second in events
    ]
    (file := tmp_path / "lineage.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert table_seconds(file) == {"gold.x": 2.0, "silver.flights": 9.0}


def test_report_has_medians_ratios_and_costs() -> None:
    text = report(results("on"))
    assert "at revision abc on 16 cores of a CPU, 128 GiB memory, H100;" in text
    assert "## 20 years" in text
    assert "| table | CPU, s | GPU, s | CPU / GPU |" in text
    assert "| silver.flights | 60.0 | 20.0 | 3.00 × |" in text
    assert "| JVM, planning, ledger | 20.0 | 11.0 | 1.82 × |" in text
    assert "| the whole command | 100.0 | 40.0 | 2.50 × |" in text
    # 100 s at 0.9 an hour, and 40 s at 3.6.
    assert "$0.0250 by CPU, $0.0400 by GPU, 0.62 ×." in text
    assert "Both lakes hold the same rows." in text
    assert "Of 120 operators that ran in the second column's last round 90 were the GPU's." in text


def test_gpu_operators_are_counted_in_executed_plans(tmp_path: Path) -> None:
    def plan(name: str, *children: object) -> dict[str, object]:
        return {"nodeName": name, "children": children}

    scan, shuffled = (
        plan("Scan parquet"),
        plan("ShuffleQueryStage", plan("GpuColumnarExchange", plan("GpuFilter", plan("GpuScan parquet")))),
    )
    start, later = (
        f"org.apache.spark.sql.execution.ui.SparkListenerSQL{kind}"
        for kind in ("ExecutionStart", "AdaptiveExecutionUpdate")
    )
    events = [
        {"Event": start, "executionId": 0, "sparkPlanInfo": plan("AdaptiveSparkPlan", plan("Filter", scan))},
        {"Event": "SparkListenerTaskEnd", "Stage ID": 1},
        {
            "Event": start,
            "executionId": 1,
            "sparkPlanInfo": plan("WholeStageCodegen (1)", plan("Project", plan("InputAdapter", scan))),
        },
        {"Event": later, "executionId": 0, "sparkPlanInfo": plan("AdaptiveSparkPlan", shuffled)},
    ]
    (folder := tmp_path / "lake.events").mkdir()
    (folder / "local-2").write_text("\n".join(map(json.dumps, events)))
    (folder / "local-1").write_text("")
    assert read_operators(tmp_path / "lake") == [(0, 0), (3, 5)]


@pytest.mark.parametrize(
    "words", [["--years", "0"], ["--rounds", "-1"], ["--prices", "1", "0"], ["--prices", "nan", "1"]]
)
def test_impossible_numbers_are_refused_before_measuring(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", *words])
    with pytest.raises(SystemExit) as ended:
        arguments()
    assert ended.value.code == 2
    assert "is not more than 0" in capsys.readouterr().err


def test_report_without_device_claims_no_gpu() -> None:
    text = report(
        results("explain", device="", no_device="No NVIDIA driver is installed here.", differences=["x: differs"])
    )
    assert "**Nothing here was computed by a GPU.** No NVIDIA driver is installed here." in text
    assert "| table | CPU, s | CPU, explain-only, s |" in text
    assert "$" not in text
    assert "The two lakes differ:\n- x: differs" in text


def test_report_shows_failure_beside_results() -> None:
    text = report(
        results("on", failed="jobs/daily.py: ended with 1. Read the end of its output:\njava.lang.OutOfMemoryError")
    )
    assert "| the whole command | 100.0 | 40.0 | 2.50 × |" in text
    assert "**The benchmark stopped early:**" in text and "OutOfMemoryError" in text


def test_interrupted_benchmark_has_a_report() -> None:
    text = report(results("on", seconds={"20": {"": BY_CPU, "on": []}}, differences=None))
    assert "| silver.flights | 60.0 |  |  |" in text
    assert "| the whole command | 100.0 |  |  |" in text
    assert "$" not in text and "nan" not in text and "the same rows" not in text
    assert report(results("on", seconds={}, differences=None)).startswith("# The medallion by CPU and by GPU")


def test_report_shows_failure_of_first_build() -> None:
    text = report(results("on", seconds={"1": {"": [], "on": []}}, differences=None, failed="out of disk"))
    assert "out of disk" in text and "## 1 year" not in text
    text = report(results("on", seconds={"1": {"": [{WHOLE: 3.0, "gold.finance": 2.0}], "on": []}}))
    assert "| gold.finance | 2.0 |  |  |" in text
