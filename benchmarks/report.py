"""The measurements as a page of tables, with the targets and whether they were met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any

Runs = list[dict[str, float]]

WHO = {"project": "project", "script": "hand-written PySpark", "polars": "polars and delta-rs"}
FLIGHTS_A_YEAR = 336_776
# Years, whom the project is compared with, what is compared, the most that the ratio of the medians may be.
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
    "land": "the year's files are landed", "build": "every table is built", "nothing": "a run with nothing to do",
}  # fmt: skip
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


def page(results: dict[str, Any]) -> str:
    """Return the measured part of the page, in Markdown."""
    parts = [INTRODUCTION, _machine(results), "## Targets\n\n" + _table(TARGET_HEAD, list(_targets(results)))]
    if builds := results.get("build", {}):
        parts.append("## Full build\n\n" + _table(BUILD_HEAD, list(_build_rows(builds))) + _when(results, "build"))
        parts += _agreement(results)
    for case, title in (("day", "One more day of flights"), ("nothing", "A run with nothing to do")):
        if found := results.get(case, {}):
            rows = [[_years(n), _spread(runs, "seconds"), _spread(runs, "peak_mib", _gib)] for n, runs in found.items()]
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
RUN_HEAD = ("lake", "seconds: median (range)", "peak memory, GiB")
SCORE_HEAD = ("flights scored", "", "seconds: median (range)", "flights a second", "peak memory, GiB")
SCORES = {"new": "new scores", "same": "unchanged scores"}
SCORE_INTRODUCTION = """\
## Scoring

Every flight by the champion (`lakehouse score`), into the table of predictions, and how each day's scores did.

"""
STORE_HEAD = ("", "folder, seconds: median (range)", "MinIO, seconds: median (range)", "MinIO / folder")
STORE_INTRODUCTION = """\
## On MinIO

The real year with the profiles `local` and `minio`, in turns; MinIO runs on the same cores.

"""
REQUESTS_INTRODUCTION = """\
The requests that MinIO served meanwhile, by its own audit. They are counted by step, and while every table is built by
table or folder. The landed files include one look at each before it is trusted, and Spark's own requests.

"""
TARGET_HEAD = ("", "target", "measured", "")


def _machine(results: dict[str, Any]) -> str:
    found = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"Measured on {found['cores']} cores of {found['cpu']}, {found['memory_gib']} GiB memory, {found['system']}; {versions}.\n"


def _when(results: dict[str, Any], case: str) -> str:
    one = results["measured"][case]
    return f"\nMeasured on {one['date']} at revision {one['revision'] or 'unknown'}.\n"


def _build_rows(builds: dict[str, dict[str, Runs]]) -> Iterator[list[str]]:
    for years, runs in builds.items():
        for who, name in WHO.items():
            if who in runs:
                against = [_ratio_text(runs, who, other, measure) for other, measure in
                           (("script", "seconds"), ("script", "peak_mib"), ("polars", "seconds"))]  # fmt: skip
                yield [
                    _years(years),
                    name,
                    _spread(runs[who], "seconds"),
                    _spread(runs[who], "peak_mib", _gib),
                    *against,
                ]


def _targets(results: dict[str, Any]) -> Iterator[list[str]]:
    for years, other, measure, most in BUILD_TARGETS:
        runs = results.get("build", {}).get(str(years), {})
        what = "time" if measure == "seconds" else "peak memory"
        name = f"Full build, {_years(str(years))}: {what} against {WHO[other]}"
        yield [name, *_verdict(_ratio(runs.get("project"), runs.get(other), measure), most)]
    days = results.get("day", {})
    one, many = (days.get(str(years)) for years in DAY_YEARS)
    store = results.get("store", {})
    there, here = (store.get(at, {}).get("build") for at in ("minio", "folder"))
    yield [
        "Full build, 1 year: time on MinIO against a folder",
        *_verdict(_ratio(there, here, "seconds"), STORE_TARGET),
    ]
    yield ["One more day: time on twenty years against one", *_verdict(_ratio(many, one, "seconds"), DAY_TARGET)]


def _verdict(ratio: float | None, most: float) -> list[str]:
    if ratio is None:
        return [f"≤ {most} ×", "not measured", ""]
    return [f"≤ {most} ×", f"{ratio:.2f} ×", "met" if ratio <= most else "**missed**"]


def _score(results: dict[str, Any]) -> Iterator[str]:
    """Every flight scored, and scored once more."""
    if found := results.get("score"):
        rows = []
        for of in found.values():
            for which, what in SCORES.items():
                pace = of["rows"] / median(one["seconds"] for one in of[which])
                shown = (_spread(of[which], "seconds"), f"{pace:,.0f}", _spread(of[which], "peak_mib", _gib))
                rows.append([f"{of['rows']:,}", what, *shown])
        yield SCORE_INTRODUCTION + _table(SCORE_HEAD, rows) + _when(results, "score")


def _store(results: dict[str, Any]) -> Iterator[str]:
    """The year in a folder and on MinIO, and the requests that MinIO was sent."""
    if found := results.get("store"):
        rows = []
        for step, what in STEPS.items():
            here, there = found["folder"][step], found["minio"][step]
            rows.append(
                [what, _spread(here, "seconds"), _spread(there, "seconds"), f"{_ratio(there, here, 'seconds'):.2f}"]
            )
        yield STORE_INTRODUCTION + _table(STORE_HEAD, rows) + _when(results, "store")
    if asked := results.get("requests"):
        kinds = sorted({kind for step in asked.values() for sent in step.values() for kind in sent})
        rows = [[f"**{STEPS[step]}**", *_sent(places.values(), kinds)] for step, places in asked.items()]
        rows += [
            [place, *_sent([sent], kinds)] for place, sent in asked["build"].items() if not place.startswith("_probe")
        ]
        yield REQUESTS_INTRODUCTION + _table(("", "requests", *kinds), rows)


def _sent(of: Iterable[dict[str, int]], kinds: Sequence[str]) -> list[str]:
    """How many requests there were: of all kinds, and of each."""
    counted = [sum(sent.get(kind, 0) for sent in of) for of in [list(of)] for kind in kinds]
    return [f"{count:,}" if count else "" for count in (sum(counted), *counted)]


def _agreement(results: dict[str, Any]) -> list[str]:
    if (found := results.get("agreement")) is None:
        return []
    said = "differ:\n\n" + "\n".join(f"- {one}" for one in found["differences"])
    said = said if found["differences"] else "hold the same rows in every table (floats within 1e-9)."
    return [f"The three lakes of {_years(str(found['years']))} {said}\n"]


def _ratio_text(runs: dict[str, Runs], who: str, other: str, measure: str) -> str:
    ratio = _ratio(runs.get(who), runs.get(other), measure)
    return "" if ratio is None or who == other else f"{ratio:.2f}"


def _ratio(ours: Runs | None, theirs: Runs | None, measure: str) -> float | None:
    if not ours or not theirs:
        return None
    return median(one[measure] for one in ours) / median(one[measure] for one in theirs)


def _years(years: str) -> str:
    many = f"{years} year{'s' if years != '1' else ''}"
    return f"{many} ({int(years) * FLIGHTS_A_YEAR:,} flights)"


def _gib(mib: float) -> str:
    return f"{mib / 1024:.2f}"


def _spread(runs: Runs, measure: str, shown: Callable[[float], str] = "{:.1f}".format) -> str:
    values = [one[measure] for one in runs]
    if len(values) == 1:
        return shown(values[0])
    return f"{shown(median(values))} ({shown(min(values))}-{shown(max(values))})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
