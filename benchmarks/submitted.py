"""The daily job by spark-submit, with a GPU's settings or without, and how much of it a GPU computed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyspark

from benchmarks.measure import Measured, measure
from deploy.env import PROJECT
from lakehouse import api
from lakehouse.engine.spark.session import JVM_VARIABLES
from lakehouse.settings import PREFIX

# What Spark puts around operators, and computes nothing itself.
_AROUND = re.compile(
    r"(AdaptiveSparkPlan|WholeStageCodegen|InputAdapter|AQEShuffleRead|ReusedExchange|\w+QueryStage)\b"
)
_PLANS = ("SparkListenerSQLExecutionStart", "SparkListenerSQLAdaptiveExecutionUpdate")


class Operators(NamedTuple):
    """How many operators the plans of an application had that were carried out, and how many of them were a GPU's."""

    on_gpu: int
    all: int


def environment(**settings: str) -> dict[str, str]:
    """This process's, without what would change the JVM, and with no other settings than these and where the plugin is."""
    kept = {
        name: value for name, value in os.environ.items()
        if name not in JVM_VARIABLES and (not name.startswith(PREFIX) or name == f"{PREFIX}GPU_JAR")
    }  # fmt: skip
    return kept | settings


def run(root: Path, mode: str, sized: Mapping[str, str], **settings: str) -> Measured:
    """Bring every table of the lake at ``root`` up to date. Beside the lake, under its name: .conf, .log, and in .events what Spark tells.

    ``mode`` is LAKEHOUSE_GPU's; ``sized`` are properties that come on top, ``settings`` variables of the environment.

    Raises:
        RuntimeError: the job failed; the end of its output is told.
    """
    (events := root.with_suffix(".events")).mkdir(exist_ok=True)
    telling = {
        "spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri(),
        "spark.eventLog.rolling.enabled": "false", "spark.eventLog.compress": "false",
    }  # fmt: skip
    profile = api.spark_properties(api.load_settings(gpu=mode, spark="local.conf"))
    told = {**profile, **sized, **telling}
    (conf := root.with_suffix(".conf")).write_text("\n".join(map(" ".join, told.items())), encoding="utf-8")
    env = environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=mode, PYSPARK_PYTHON=sys.executable, **settings)
    submit = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    command = [submit, "--properties-file", str(conf), "jobs/daily.py"]
    return measure(command, env, PROJECT, root.with_suffix(".log"))


def carried_out(root: Path) -> list[Operators]:
    """The operators of each `run` of the lake, in their order; those by which Delta reads its own log, on the CPU, are among them."""
    logs = sorted(root.with_suffix(".events").iterdir())
    return [_operators(log) for log in logs]


def _operators(log: Path) -> Operators:
    plans = dict[int, Any]()  # an adaptive plan changes while it runs: the last one is what ran
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
