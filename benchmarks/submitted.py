"""The daily job by spark-submit, with a GPU's settings or without, and the operators that a GPU computed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyspark

from benchmarks.measure import Measured, measure_command
from deploy.env import PROJECT
from lakehouse import api
from lakehouse.engine.spark.session import JVM_VARIABLES, read_properties
from lakehouse.settings import PREFIX

# Nodes that Spark puts around operators, and that compute nothing.
_AROUND = re.compile(
    r"(AdaptiveSparkPlan|WholeStageCodegen|InputAdapter|AQEShuffleRead|ReusedExchange|\w+QueryStage)\b"
)
_PLANS = ("SparkListenerSQLExecutionStart", "SparkListenerSQLAdaptiveExecutionUpdate")


class Operators(NamedTuple):
    """Counts of the operators in the executed plans of an application: those on the GPU, and all."""

    on_gpu: int
    all: int


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process with these settings, and no others.

    Variables that would change the JVM are left out. The path of the GPU plugin stays.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in JVM_VARIABLES and (not name.startswith(PREFIX) or name == f"{PREFIX}GPU_JAR")
    }
    return variables | settings


def run(root: Path, mode: str, properties: Mapping[str, str], **settings: str) -> Measured:
    """Bring every table of the lake at ``root`` up to date by spark-submit.

    Beside the lake, under its name, are then .conf, .log and .events (a folder with Spark's event log).

    Args:
        mode: value of LAKEHOUSE_GPU.
        properties: Spark properties that override the configured ones.
        settings: variables of the environment.

    Raises:
        RuntimeError: the job failed; the message ends with the last lines of its output.
    """
    (events := root.with_suffix(".events")).mkdir(exist_ok=True)
    event_log = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": events.as_uri(),
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.compress": "false",
    }
    properties = {
        **read_properties(api.write_spark_properties(api.load_settings(gpu=mode, spark="local.conf"))),
        **properties,
        **event_log,
    }
    (conf := root.with_suffix(".conf")).write_text("\n".join(map(" ".join, properties.items())), encoding="utf-8")
    env = environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=mode, PYSPARK_PYTHON=sys.executable, **settings)
    submit = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    command = [submit, "--properties-file", str(conf), "jobs/daily.py"]
    return measure_command(command, env, PROJECT, root.with_suffix(".log"))


def read_operators(root: Path) -> list[Operators]:
    """Count the operators of each `run` of the lake, in order; those by which Delta reads its log are included."""
    logs = sorted(root.with_suffix(".events").iterdir())
    return [_count_operators(log) for log in logs]


def _count_operators(log: Path) -> Operators:
    plans = dict[int, Any]()  # an adaptive plan changes while it runs: the last one was executed
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if any(kind in line[:200] for kind in _PLANS):
                event = json.loads(line)
                plans[event["executionId"]] = event["sparkPlanInfo"]
    names = [name for plan in plans.values() for name in _names(plan) if not _AROUND.match(name)]
    return Operators(sum(name.startswith("Gpu") for name in names), len(names))


def _names(plan: Mapping[str, Any]) -> Iterator[str]:
    yield plan["nodeName"]
    for child in plan["children"]:
        yield from _names(child)
