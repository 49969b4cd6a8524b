"""The demo from landed files to scored flights, on January, in separate processes; then readers of its lake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from nbclient import NotebookClient

from models.late_arrival import FEATURES
from tests.example.january import rows, run, run_demo, version
from tests.paths import PROJECT
from tests.stack import free_port

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("january")
    return root, run_demo(root)


@pytest.fixture(scope="module")
def sql(demo: tuple[Path, str]) -> Callable[[str], list[dict[str, object]]]:
    return lambda text: rows(demo[0], text)


def test_mlflow_alone_serves_the_champion(
    demo: tuple[Path, str], sql: Callable[[str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Use the code stored with the model, in another folder, without pickle."""
    columns = ", ".join(f"f.{name}" for name in FEATURES)
    predictions = sql(
        f"""
        select p.probability, {columns} from gold.delay_predictions p join gold.flight_features f
            using (carrier, flight, origin, dest, sched_dep_utc)
        where f.flight_date = '2013-01-31' order by sched_dep_utc, carrier, flight limit 50
        """
    )
    port = free_port()
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", "models:/late_arrival@champion"]
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{demo[0] / 'mlflow.db'}", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*mlflow, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
            cwd=tmp_path,
            env={**os.environ, **env},
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while True:
                assert server.poll() is None, log.read_text()
                try:
                    if client.get("/ping").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            rows = [{name: row[name] for name in FEATURES} for row in predictions]
            answer = client.post("/invocations", json={"dataframe_records": rows})
    finally:
        server.terminate()
        server.wait(60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == pytest.approx([row["probability"] for row in predictions], abs=1e-12)


def test_silver_and_gold_would_run_on_a_gpu(demo: tuple[Path, str]) -> None:
    report = json.loads(run(demo[0], "lakehouse.cli.main", "gpu-report", "-s", "silver", "-s", "gold", "--json"))
    covered = {table["table"]: table["coverage"] for table in report["tables"]}
    plans = {table["table"]: [plan["plan"] for plan in table["plans"]] for table in report["tables"]}

    assert len(covered) == 8
    assert not any(table["missing"] for table in report["tables"]), report
    assert min(covered.values()) >= 0.95, report
    for table, names in plans.items():
        assert set(names) == {"build", "write", *(() if table.startswith("gold.") else ("audit", "compare"))}, table
    writes = [plan for table in report["tables"] for plan in table["plans"] if plan["plan"] == "write"]
    assert all(plan["on_gpu"] == plan["operators"] > 0 for plan in writes), writes
    # Only reads of cached rows run on the CPU, and the shuffle that follows them.
    reasons = {entry["reason"] for table in report["tables"] for plan in table["plans"] for entry in plan["fallbacks"]}
    assert reasons == {
        "ParquetCachedBatchSerializer is not being used",
        "Columnar exchange without columnar children is inefficient",
    }


def test_second_run_changes_no_pipeline_table(demo: tuple[Path, str]) -> None:
    root, _ = demo
    tables = ("bronze.flights", "silver.flights", "silver.planes", "gold.airport_daily", "gold.flight_features")
    before = {table: version(root, table) for table in tables}
    run(root, "tests.example.january")
    assert {table: version(root, table) for table in tables} == before


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ("daily.py", "13 unchanged"),
        ("gold.py --from 2013-01-01 --to 2013-01-02", "3 written"),
        ("score.py --from 2013-01-30 --to 2013-01-31", "0 written to gold.delay_predictions"),
    ],
)
def test_the_jobs_run_by_spark_submit(demo: tuple[Path, str], job: str, says: str) -> None:
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--properties-file", "conf/spark/local.conf"]
    script, *arguments = job.split()
    done = subprocess.run(
        [*submit, f"jobs/{script}", *arguments],
        cwd=PROJECT,
        env={
            **os.environ,
            "LAKEHOUSE_ROOT": str(demo[0]),
            "PYSPARK_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert says in done.stdout
    assert " INFO " not in done.stderr


def test_the_notebook_runs_on_the_demos_lake(demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ROOT", str(demo[0]))
    notebook = nbformat.read(PROJECT / "notebooks" / "explore.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(PROJECT)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    plots = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(plots) == 4
