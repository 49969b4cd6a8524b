"""The medallion by CPU and by GPU on one machine, in turns, one table at a time: seconds by table, and what they cost.

    python -m benchmarks.gpu [--years 1 20 100] [--rounds N] [--prices CPU GPU] [--scratch FOLDER]

Prices are dollars an hour for the machine without its GPU and with it. The report is report.md in the scratch folder. Without a device
the plugin is there in explain-only mode, so that the harness is tried where there is none: what is measured then is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from polars.exceptions import PolarsError

from benchmarks import data, submitted
from benchmarks.compare import differences
from benchmarks.measure import machine
from deploy.env import PROJECT
from lakehouse.errors import LakehouseError, SessionError
from lakehouse.gpu.device import require_device
from lakehouse.gpu.plugin import PLUGIN
from lakehouse.runs import lineage
from lakehouse.runs.scheduler import get_revision

YEARS = (1, 20, 100)
ROUNDS, LONG_YEARS = 3, 10
# What the operating system, Python and pinned memory are left.
HEAP_SHARE = 0.6
WHOLE, OUTSIDE = "the whole command", "JVM, planning, ledger"
MODES = {"": "CPU", "on": "GPU", "explain": "CPU, explain-only"}

Seconds = dict[str, float]  # by table, and WHOLE


def build(scratch: Path, years: int, mode: str) -> Seconds:
    """Every table of so many years from landed files, with an empty lake before.

    Raises:
        RuntimeError: the run failed; the end of its output is told.
    """
    landing, root = scratch / f"landing-{years}", scratch / f"{mode or 'off'}-{years}"
    data.make(landing, years)
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(landing, root / "landing", copy_function=os.link)
    for file in landing.rglob("*.csv"):  # whichever comes first would wait for the disk alone
        file.read_bytes()
    shutil.rmtree(root.with_suffix(".events"), ignore_errors=True)
    cores = len(os.sched_getaffinity(0))
    sized = {  # for a whole machine: the same heap and as many shuffle partitions as cores for both
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": f"{int(_memory() / (1 << 30) * HEAP_SHARE)}g",
        "spark.sql.shuffle.partitions": str(cores),
        "spark.local.dir": str(scratch / "spark"),
    }
    done = submitted.run(root, mode, sized, LAKEHOUSE_PARALLEL_TABLES="1")
    return {WHOLE: done.seconds, **table_seconds(root / "logs" / lineage.FILE)}


def _memory() -> int:
    """The bytes that this process may use: the machine's, or its container's."""
    limit = Path("/sys/fs/cgroup/memory.max")
    said = limit.read_text().strip() if limit.exists() else ""
    total: int = psutil.virtual_memory().total
    return min(total, int(said)) if said.isdigit() else total


def table_seconds(events: Path) -> Seconds:
    """How long each table took, from the lineage events of its run."""
    began, took = dict[str, datetime](), dict[str, float]()
    for line in events.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        table, at = told["job"]["name"], datetime.fromisoformat(told["eventTime"])
        if told["eventType"] == "START":
            began[table] = at
        else:
            took[table] = (at - began[table]).total_seconds()
    return took


def report(results: dict[str, Any]) -> str:
    """The page, in Markdown."""
    found, (one, other) = results["machine"], results["modes"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    at = f" at revision {results['revision']}" if results["revision"] else ""
    parts = [
        "# The medallion by CPU and by GPU",
        f"Measured on {results['date']}{at} on {found['cores']} cores of {found['cpu']}, "
        f"{found['memory_gib']} GiB memory, {results['device'] or 'no GPU'}; {versions}, {PLUGIN}. One table at a time, heap and "
        "shuffle partitions by the size of the machine; of several rounds the median.",
    ]
    if results["no_device"]:
        parts.append(
            f"**Nothing here was computed by a GPU.** {results['no_device']} The second column is the plugin in explain-only mode: "
            "the CPU does the work, and the plugin looks at each plan."
        )
    for years, runs in results["seconds"].items():
        if not any(runs.values()):  # the first build of these failed
            continue
        parts += [f"## {years} years" if years != "1" else "## 1 year", "\n".join(_table(runs, one, other))]
        if by_gpu := results["operators"].get(years):
            on_gpu, whole = by_gpu
            parts.append(
                f"Of {whole} operators that ran in the second column's last round {on_gpu} were the GPU's; how Delta reads its log is among them."
            )
        if results["prices"] and not results["no_device"] and all(runs.values()):
            parts.append(_cost(runs, results["prices"]))
    if results["differences"] is not None:
        parts.append("\n- ".join(["The two lakes differ:", *results["differences"]])
                     if results["differences"] else "Both lakes hold the same rows.")  # fmt: skip
    if results["failed"]:
        parts.append(f"**It ended before its end:**\n\n```\n{results['failed']}\n```")
    return "\n\n".join(parts) + "\n"


def _table(runs: dict[str, list[Seconds]], one: str, other: str) -> Iterator[str]:
    yield f"| table | {MODES[one]}, s | {MODES[other]}, s | {MODES[one]} / {MODES[other]} |"
    yield "|---|---|---|---|"
    names = [name for name in (runs[one] or runs[other])[0] if name != WHOLE]
    for name in [*names, OUTSIDE, WHOLE]:
        left, right = (_median(runs[mode], name) if runs[mode] else None for mode in (one, other))
        both = "" if left is None or right is None else f"{left / max(right, 1e-3):.2f} ×"
        cells = ["" if seconds is None else f"{seconds:.1f}" for seconds in (left, right)]
        yield f"| {name} | {' | '.join([*cells, both])} |"


def _median(rounds: list[Seconds], name: str) -> float:
    def outside(seconds: Seconds) -> float:
        return seconds[WHOLE] - sum(took for table, took in seconds.items() if table != WHOLE)

    return median(outside(seconds) if name == OUTSIDE else seconds[name] for seconds in rounds)


def _cost(runs: dict[str, list[Seconds]], prices: dict[str, float]) -> str:
    cpu, by_gpu = (_median(runs[mode], WHOLE) / 3600 * prices[of] for mode, of in (("", "cpu"), ("on", "gpu")))
    return (
        f"At ${prices['cpu']:.2f} an hour without the GPU and ${prices['gpu']:.2f} with it: ${cpu:.4f} by CPU, ${by_gpu:.4f} by GPU, "
        f"{cpu / by_gpu:.2f} ×."
    )


def device() -> tuple[str, str]:
    """The GPUs' names; or why there is none."""
    try:
        require_device()
    except SessionError as error:
        return "", str(error)
    named = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    found = subprocess.run(named, capture_output=True, text=True, check=True).stdout.splitlines()
    return " and ".join(found), ""


def arguments() -> argparse.Namespace:
    """Those of the command line; what it does not know ends the process with 2."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    count, dollars = _more_than_none(int), _more_than_none(float)
    parser.add_argument("--years", type=count, nargs="+", help=f"years of flights (default: {YEARS}; 1 without a GPU)")
    parser.add_argument("--rounds", type=count, help=f"rounds (default: {ROUNDS}; 1 from {LONG_YEARS} years on)")
    parser.add_argument(
        "--prices", type=dollars, nargs=2, metavar=("CPU", "GPU"), help="dollars an hour, without the GPU and with it"
    )
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "bench-gpu", help="where files and lakes go")
    return parser.parse_args()


def _more_than_none(kind: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not (value := kind(text)) > 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    read.__name__ = kind.__name__  # by which argparse tells what it wanted
    return read


def main() -> None:
    asked = arguments()
    (scratch := asked.scratch.resolve()).mkdir(parents=True, exist_ok=True)
    for name in os.environ.keys() - submitted.environment().keys():
        del os.environ[name]
    found, missing = device()
    modes = ["", "explain" if missing else "on"]
    results: dict[str, Any] = {
        "machine": machine() | {"memory_gib": round(_memory() / (1 << 30))},
        "device": found, "no_device": missing, "modes": modes, "seconds": {}, "operators": {}, "differences": None, "failed": "",
        "prices": dict(zip(("cpu", "gpu"), asked.prices, strict=True)) if asked.prices else None,
        "revision": get_revision(), "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }  # fmt: skip
    try:
        for years in sorted(asked.years or (YEARS[:1] if missing else YEARS)):
            _measure(results, scratch, years, asked.rounds or (1 if years >= LONG_YEARS else ROUNDS))
    except (RuntimeError, LakehouseError, OSError, PolarsError) as error:
        results["failed"] = str(error)
    _keep(results, scratch)
    print(f"Written: {scratch / 'report.md'}")
    sys.exit(1 if results["failed"] or results["differences"] else 0)


def _measure(results: dict[str, Any], scratch: Path, years: int, rounds: int) -> None:
    results["seconds"][str(years)] = runs = {mode: list[Seconds]() for mode in results["modes"]}
    for turn in range(1, rounds + 1):
        for mode in list(runs)[:: 1 if turn % 2 else -1]:
            runs[mode].append(build(scratch, years, mode))
            _keep(results, scratch)  # so that a run that is cut off leaves what there is
            print(
                f"{years} year{'s' * (years > 1)}, round {turn} of {rounds}, {MODES[mode]}: {runs[mode][-1][WHOLE]:.1f} s",
                flush=True,
            )
    lakes = [scratch / f"{mode or 'off'}-{years}" for mode in runs]
    results["operators"][str(years)] = submitted.carried_out(lakes[1])[-1]
    if results["differences"] is None:  # of the fewest years: what compares them holds both in memory
        results["differences"] = differences(*(lake / "lake" for lake in lakes))
    for lake in lakes:
        shutil.rmtree(lake)


def _keep(results: dict[str, Any], scratch: Path) -> None:
    (scratch / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (scratch / "report.md").write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    main()
