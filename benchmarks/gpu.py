"""The medallion by CPU and by GPU on one machine, in turns, one table at a time: seconds and costs by table.

    python -m benchmarks.gpu [--years 1 20 100] [--rounds N] [--prices CPU GPU] [--scratch FOLDER]

Prices are dollars an hour for the machine without its GPU and with it. The report is report.md in the scratch folder.
Without a device the plugin runs in explain-only mode: the harness is tested, but no GPU is measured.
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
from benchmarks.compare import list_differences
from benchmarks.measure import describe_machine
from deploy.env import PROJECT
from lakehouse.errors import LakehouseError, SessionError
from lakehouse.gpu.device import require_device
from lakehouse.gpu.plugin import PLUGIN
from lakehouse.runs import lineage
from lakehouse.runs.context import get_revision

YEARS = (1, 20, 100)
ROUNDS, LONG_YEARS = 3, 10
# The share of memory for the heap; the rest is for the operating system, Python and pinned memory.
HEAP_SHARE = 0.6
WHOLE, OUTSIDE = "the whole command", "JVM, planning, ledger"
MODES = {"": "CPU", "on": "GPU", "explain": "CPU, explain-only"}

Seconds = dict[str, float]  # by table, and for WHOLE


def measure_build(scratch: Path, years: int, mode: str) -> Seconds:
    """Build every table from landed files in an empty lake, and return the seconds.

    Raises:
        RuntimeError: the run failed; the message ends with the last lines of its output.
    """
    landing, root = scratch / f"landing-{years}", scratch / f"{mode or 'off'}-{years}"
    data.make_landing(landing, years)
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(landing, root / "landing", copy_function=os.link)
    for file in landing.rglob("*.csv"):  # otherwise only the first build would read from the disk
        file.read_bytes()
    shutil.rmtree(root.with_suffix(".events"), ignore_errors=True)
    cores = len(os.sched_getaffinity(0))
    properties = {  # for a whole machine: both modes get the same heap, and a shuffle partition for each core
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": f"{int(_available_bytes() / (1 << 30) * HEAP_SHARE)}g",
        "spark.sql.shuffle.partitions": str(cores),
        "spark.local.dir": str(scratch / "spark"),
    }
    measured = submitted.run(root, mode, properties, LAKEHOUSE_PARALLEL_TABLES="1")
    return {WHOLE: measured.seconds, **table_seconds(root / "logs" / lineage.FILE)}


def _available_bytes() -> int:
    """Return the bytes of memory that this process may use: those of the machine or of its container."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else ""
    total: int = psutil.virtual_memory().total
    return min(total, int(text)) if text.isdigit() else total


def table_seconds(events: Path) -> Seconds:
    """Return the seconds of each table, from the lineage events of its run."""
    starts, seconds = dict[str, datetime](), dict[str, float]()
    for line in events.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        table, time = event["job"]["name"], datetime.fromisoformat(event["eventTime"])
        if event["eventType"] == "START":
            starts[table] = time
        else:
            seconds[table] = (time - starts[table]).total_seconds()
    return seconds


def report(results: dict[str, Any]) -> str:
    """Return the page, in Markdown."""
    parts = ["# The medallion by CPU and by GPU", _circumstances(results)]
    if results["no_device"]:
        parts.append(
            f"**Nothing here was computed by a GPU.** {results['no_device']} "
            "The second column is the plugin in explain-only mode: "
            "the CPU does the work, and the plugin checks each plan."
        )
    for years, runs in results["seconds"].items():
        if any(runs.values()):  # else the first build of these years failed
            parts += _section(results, years, runs)
    if results["differences"]:
        parts.append("\n- ".join(["The two lakes differ:", *results["differences"]]))
    elif results["differences"] is not None:
        parts.append("Both lakes hold the same rows.")
    if results["failed"]:
        parts.append(f"**The benchmark stopped early:**\n\n```\n{results['failed']}\n```")
    return "\n\n".join(parts) + "\n"


def _circumstances(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    revision = f" at revision {results['revision']}" if results["revision"] else ""
    return (
        f"Measured on {results['date']}{revision} on {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_gib']} GiB memory, {results['device'] or 'no GPU'}; {versions}, {PLUGIN}. "
        "One table at a time; heap and shuffle partitions fit the machine. Of several rounds, the median is shown."
    )


def _section(results: dict[str, Any], years: str, runs: dict[str, list[Seconds]]) -> Iterator[str]:
    """Yield the parts about this number of years: a title, a table, the operators and the costs."""
    yield f"## {years} years" if years != "1" else "## 1 year"
    yield "\n".join(_table(runs, *results["modes"]))
    if operators := results["operators"].get(years):
        on_gpu, total = operators
        yield (
            f"Of {total} operators that ran in the second column's last round {on_gpu} were the GPU's. "
            "The operators by which Delta reads its log are included."
        )
    if results["prices"] and not results["no_device"] and all(runs.values()):
        yield _costs(runs, results["prices"])


def _table(runs: dict[str, list[Seconds]], first: str, second: str) -> Iterator[str]:
    yield f"| table | {MODES[first]}, s | {MODES[second]}, s | {MODES[first]} / {MODES[second]} |"
    yield "|---|---|---|---|"
    names = [name for name in (runs[first] or runs[second])[0] if name != WHOLE]
    for name in [*names, OUTSIDE, WHOLE]:
        left, right = (_median(runs[mode], name) if runs[mode] else None for mode in (first, second))
        ratio = "" if left is None or right is None else f"{left / max(right, 1e-3):.2f} ×"
        cells = ["" if seconds is None else f"{seconds:.1f}" for seconds in (left, right)]
        yield f"| {name} | {' | '.join([*cells, ratio])} |"


def _median(rounds: list[Seconds], name: str) -> float:
    def outside(seconds: Seconds) -> float:
        return seconds[WHOLE] - sum(duration for table, duration in seconds.items() if table != WHOLE)

    return median(outside(seconds) if name == OUTSIDE else seconds[name] for seconds in rounds)


def _costs(runs: dict[str, list[Seconds]], prices: dict[str, float]) -> str:
    cpu, by_gpu = (_median(runs[mode], WHOLE) / 3600 * prices[name] for mode, name in (("", "cpu"), ("on", "gpu")))
    return (
        f"At ${prices['cpu']:.2f} an hour without the GPU and ${prices['gpu']:.2f} with it: "
        f"${cpu:.4f} by CPU, ${by_gpu:.4f} by GPU, {cpu / by_gpu:.2f} ×."
    )


def describe_device() -> tuple[str, str]:
    """Return the names of the GPUs, and the reason if there is none; one of the two is empty."""
    try:
        require_device()
    except SessionError as error:
        return "", str(error)
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return " and ".join(names), ""


def arguments() -> argparse.Namespace:
    """Parse the command line; an invalid one ends the process with code 2."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    count, dollars = _positive(int), _positive(float)
    parser.add_argument("--years", type=count, nargs="+", help=f"years of flights (default: {YEARS}; 1 without a GPU)")
    parser.add_argument("--rounds", type=count, help=f"rounds (default: {ROUNDS}; 1 from {LONG_YEARS} years on)")
    parser.add_argument(
        "--prices", type=dollars, nargs=2, metavar=("CPU", "GPU"), help="dollars an hour, without the GPU and with it"
    )
    parser.add_argument(
        "--scratch", type=Path, default=PROJECT / "data" / "bench-gpu", help="folder for files and lakes"
    )
    return parser.parse_args()


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not (value := kind(text)) > 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    parse.__name__ = kind.__name__  # argparse names the expected type by it
    return parse


def main() -> None:
    options = arguments()
    (scratch := options.scratch.resolve()).mkdir(parents=True, exist_ok=True)
    for name in os.environ.keys() - submitted.environment().keys():
        del os.environ[name]
    device, missing = describe_device()
    modes = ["", "explain" if missing else "on"]
    results: dict[str, Any] = {
        "machine": describe_machine() | {"memory_gib": round(_available_bytes() / (1 << 30))},
        "device": device,
        "no_device": missing,
        "modes": modes,
        "seconds": {},
        "operators": {},
        "differences": None,
        "failed": "",
        "prices": dict(zip(("cpu", "gpu"), options.prices, strict=True)) if options.prices else None,
        "revision": get_revision(PROJECT),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    try:
        for years in sorted(options.years or (YEARS[:1] if missing else YEARS)):
            _measure(results, scratch, years, options.rounds or (1 if years >= LONG_YEARS else ROUNDS))
    except (RuntimeError, LakehouseError, OSError, PolarsError) as error:
        results["failed"] = str(error)
    _save(results, scratch)
    print(f"Written: {scratch / 'report.md'}")
    sys.exit(1 if results["failed"] or results["differences"] else 0)


def _measure(results: dict[str, Any], scratch: Path, years: int, rounds: int) -> None:
    results["seconds"][str(years)] = runs = {mode: list[Seconds]() for mode in results["modes"]}
    for turn in range(1, rounds + 1):
        for mode in list(runs)[:: 1 if turn % 2 else -1]:
            runs[mode].append(measure_build(scratch, years, mode))
            _save(results, scratch)  # a benchmark that is stopped leaves a report of the finished rounds
            title = f"{years} year{'s' * (years > 1)}, round {turn} of {rounds}, {MODES[mode]}"
            print(f"{title}: {runs[mode][-1][WHOLE]:.1f} s", flush=True)
    lakes = [scratch / f"{mode or 'off'}-{years}" for mode in runs]
    results["operators"][str(years)] = submitted.read_operators(lakes[1])[-1]
    if results["differences"] is None:  # for the fewest years only: the comparison loads both lakes into memory
        results["differences"] = list_differences(*(lake / "lake" for lake in lakes))
    for lake in lakes:
        shutil.rmtree(lake)


def _save(results: dict[str, Any], scratch: Path) -> None:
    (scratch / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (scratch / "report.md").write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    main()
