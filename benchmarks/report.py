"""The measured part of docs/benchmarks.md: tables of the measurements, and the targets that were met or missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any

Runs = list[dict[str, float]]

PROGRAMS = {"project": "project", "script": "hand-written PySpark", "polars": "polars and delta-rs"}
FLIGHTS_A_YEAR = 336_776
# Years, the program to compare with, the measure, and the highest ratio of the medians that meets the target.
BUILD_TARGETS = (
    (1, "script", "seconds", 1.1),
    (20, "script", "seconds", 1.0),
    (1, "script", "peak_mib", 1.2),
    (20, "script", "peak_mib", 1.2),
    (1, "polars", "seconds", 8.0),
    (20, "polars", "seconds", 4.0),
)
DAY_YEARS, DAY_TARGET = (1, 20), 1.3
STORE_TARGET = 1.5
STEPS = {
    "land": "the year's files are landed",
    "build": "every table is built",
    "nothing": "a run with nothing to do",
}
INTRODUCTION = """\
# Benchmarks

`make bench` makes the tables up to "Where the time goes". Each measurement is a whole process with an empty lake, from
its start to its end, JVM included. The three programs take turns:

- The project is `lakehouse run`.
- The hand-written script (benchmarks/handwritten.py) builds the same tables with the same Spark properties
  and heap. It has no ledger, quarantine, audit or second run.
- polars with delta-rs (benchmarks/polars_reference.py) keeps everything in memory.

Years after 2013 are copies of it with shifted dates.
"""
# This section and those after it are written by hand.
FINDINGS_TITLE = "## Where the time goes"


def render_page(results: dict[str, Any]) -> str:
    """Return the measured part of the page, in Markdown."""
    parts = [INTRODUCTION, _machine(results), "## Targets\n\n" + _table(TARGET_HEAD, list(_targets(results)))]
    if builds := results.get("build", {}):
        parts.append("## Full build\n\n" + _table(BUILD_HEAD, list(_build_rows(builds))) + _when(results, "build"))
        parts += _agreement(results)
    for case, title in (("day", "One more day of flights"), ("nothing", "A run with nothing to do")):
        if lakes := results.get(case, {}):
            rows = [[_years(n), _spread(runs, "seconds"), _spread(runs, "peak_mib", _gib)] for n, runs in lakes.items()]
            parts.append(f"## {title}\n\n" + _table(RUN_HEAD, rows) + _when(results, case))
    parts += _score(results)
    parts += _store(results)
    return "\n".join(parts)


BUILD_HEAD = (
    "lake",
    "",
    "seconds: median (range)",
    "peak memory, GiB",
    "time / script",
    "memory / script",
    "time / polars",
)
# The last three columns of BUILD_HEAD: the program to compare with, and the measure.
COMPARISONS = (("script", "seconds"), ("script", "peak_mib"), ("polars", "seconds"))
RUN_HEAD = ("lake", "seconds: median (range)", "peak memory, GiB")
SCORE_HEAD = ("flights scored", "", "seconds: median (range)", "flights a second", "peak memory, GiB")
SCORES = {"new": "new scores", "same": "unchanged scores"}
SCORE_INTRODUCTION = """\
## Scoring

`lakehouse score` scores every flight by the champion, and writes the quality of each day's scores.

"""
STORE_HEAD = ("", "folder, seconds: median (range)", "MinIO, seconds: median (range)", "MinIO / folder")
STORE_INTRODUCTION = """\
## On MinIO

The real year with the profiles `local` and `minio`, in turns; MinIO runs on the same cores.

"""
REQUESTS_INTRODUCTION = """\
The requests that MinIO served meanwhile, by its own audit. They are counted by step, and while every table is built by
table or folder. The landed files include one check of each before it is read, and Spark's own requests.

"""
TARGET_HEAD = ("", "target", "measured", "")


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    hardware = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB memory, {machine['system']}"
    return f"Measured on {hardware}; {versions}.\n"


def _when(results: dict[str, Any], case: str) -> str:
    measured = results["measured"][case]
    return f"\nMeasured on {measured['date']} at revision {measured['revision'] or 'unknown'}.\n"


def _build_rows(builds: dict[str, dict[str, Runs]]) -> Iterator[list[str]]:
    for years, runs in builds.items():
        for program, name in PROGRAMS.items():
            if program in runs:
                ratios = [_ratio_text(runs, program, other, measure) for other, measure in COMPARISONS]
                spreads = [_spread(runs[program], "seconds"), _spread(runs[program], "peak_mib", _gib)]
                yield [_years(years), name, *spreads, *ratios]


def _targets(results: dict[str, Any]) -> Iterator[list[str]]:
    for years, other, measure, most in BUILD_TARGETS:
        runs = results.get("build", {}).get(str(years), {})
        title = "time" if measure == "seconds" else "peak memory"
        name = f"Full build, {_years(str(years))}: {title} against {PROGRAMS[other]}"
        yield [name, *_verdict(_ratio(runs.get("project"), runs.get(other), measure), most)]
    days = results.get("day", {})
    few, many = (days.get(str(years)) for years in DAY_YEARS)
    store = results.get("store", {})
    minio, folder = (store.get(place, {}).get("build") for place in ("minio", "folder"))
    yield [
        "Full build, 1 year: time on MinIO against a folder",
        *_verdict(_ratio(minio, folder, "seconds"), STORE_TARGET),
    ]
    yield ["One more day: time on twenty years against one", *_verdict(_ratio(many, few, "seconds"), DAY_TARGET)]


def _verdict(ratio: float | None, most: float) -> list[str]:
    if ratio is None:
        return [f"≤ {most} ×", "not measured", ""]
    return [f"≤ {most} ×", f"{ratio:.2f} ×", "met" if ratio <= most else "**missed**"]


def _score(results: dict[str, Any]) -> Iterator[str]:
    """Yield the section about scoring every flight, once as new scores and once as unchanged ones."""
    if lakes := results.get("score"):
        rows = []
        for lake in lakes.values():
            for kind, title in SCORES.items():
                pace = lake["rows"] / median(run["seconds"] for run in lake[kind])
                spreads = (_spread(lake[kind], "seconds"), f"{pace:,.0f}", _spread(lake[kind], "peak_mib", _gib))
                rows.append([f"{lake['rows']:,}", title, *spreads])
        yield SCORE_INTRODUCTION + _table(SCORE_HEAD, rows) + _when(results, "score")


def _store(results: dict[str, Any]) -> Iterator[str]:
    """Yield the year in a folder and on MinIO, and the requests that MinIO served."""
    if store := results.get("store"):
        rows = []
        for step, title in STEPS.items():
            folder, minio = store["folder"][step], store["minio"][step]
            spreads = [_spread(runs, "seconds") for runs in (folder, minio)]
            rows.append([title, *spreads, f"{_ratio(minio, folder, 'seconds'):.2f}"])
        yield STORE_INTRODUCTION + _table(STORE_HEAD, rows) + _when(results, "store")
    if steps := results.get("requests"):
        kinds = sorted({kind for places in steps.values() for counts in places.values() for kind in counts})
        rows = [[f"**{STEPS[step]}**", *_count_requests(places.values(), kinds)] for step, places in steps.items()]
        rows += [
            [place, *_count_requests([counts], kinds)]
            for place, counts in steps["build"].items()
            if not place.startswith("_probe")
        ]
        yield REQUESTS_INTRODUCTION + _table(("", "requests", *kinds), rows)


def _count_requests(places: Iterable[dict[str, int]], kinds: Sequence[str]) -> list[str]:
    """Return the number of requests of all kinds together, then of each kind; empty for none."""
    totals: Counter[str] = Counter()
    for counts in places:
        totals.update(counts)
    return [f"{count:,}" if count else "" for count in (totals.total(), *(totals[kind] for kind in kinds))]


def _agreement(results: dict[str, Any]) -> list[str]:
    if (agreement := results.get("agreement")) is None:
        return []
    outcome = "hold the same rows in every table (floats within 1e-9)."
    if agreement["differences"]:
        outcome = "differ:\n\n" + "\n".join(f"- {difference}" for difference in agreement["differences"])
    return [f"The three lakes of {_years(str(agreement['years']))} {outcome}\n"]


def _ratio_text(runs: dict[str, Runs], program: str, other: str, measure: str) -> str:
    ratio = _ratio(runs.get(program), runs.get(other), measure)
    return "" if ratio is None or program == other else f"{ratio:.2f}"


def _ratio(ours: Runs | None, theirs: Runs | None, measure: str) -> float | None:
    if not ours or not theirs:
        return None
    return median(run[measure] for run in ours) / median(run[measure] for run in theirs)


def _years(years: str) -> str:
    title = f"{years} year{'s' if years != '1' else ''}"
    return f"{title} ({int(years) * FLIGHTS_A_YEAR:,} flights)"


def _gib(mib: float) -> str:
    return f"{mib / 1024:.2f}"


def _spread(runs: Runs, measure: str, render: Callable[[float], str] = "{:.1f}".format) -> str:
    values = [run[measure] for run in runs]
    if len(values) == 1:
        return render(values[0])
    return f"{render(median(values))} ({render(min(values))}-{render(max(values))})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
