"""Measure the project, a hand-written PySpark script and polars side by side; the page is docs/benchmarks.md.

    python -m benchmarks [--years 1 20] [--rounds N] [--only build|day|nothing|score|store|report] [--scratch FOLDER]

Every result is kept in results.json in the scratch folder at once, so that cases can be measured one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from benchmarks import data, report
from benchmarks.measure import Measured, machine, measure
from benchmarks.store import Audit, minio
from deploy.env import PROJECT
from lakehouse.runs.scheduler import get_revision
from lakehouse.settings import PREFIX

PAGE = PROJECT / "docs" / "benchmarks.md"
CASES = ("build", "day", "nothing", "score", "store")
# A build of this many years or more is measured once, of fewer three times.
LONG_YEARS = 10
ROUNDS = 3
EVERY_DAY = ("--from", "2013-01-01", "--to", "2099-12-31")
# Above this, other processes take a share of the cores that would be measured as well.
QUIET_LOAD = 0.5


class Bench:
    """The measurements in one scratch folder."""

    def __init__(self, scratch: Path, years: list[int], rounds: int | None) -> None:
        self.scratch, self.years, self.rounds = scratch, years, rounds
        self.file = scratch / "results.json"
        scratch.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    # --- cases ------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Every table from landed files, with an empty lake before; the three in turns."""
        for years in self.years:
            rounds = self.rounds or (1 if years >= LONG_YEARS else ROUNDS)
            self.landing(years)
            found: dict[str, list[Measured]] = {"project": [], "script": [], "polars": []}
            for turn in range(1, rounds + 1):
                for who, runs in found.items():
                    runs.append(self.one_build(who, years))
                    self.say(f"build, {years} years, round {turn} of {rounds}: {who}", runs[-1])
                self.keep("build", str(years), {who: [asdict(one) for one in runs] for who, runs in found.items()})
            if years == min(self.years):
                self.agree(years)

    def one_build(self, who: str, years: int) -> Measured:
        if who == "project":
            shutil.rmtree(self.root(years), ignore_errors=True)
            return self.run(years)
        lake = self.lake(who, years)
        shutil.rmtree(lake, ignore_errors=True)
        module = {"script": "benchmarks.handwritten", "polars": "benchmarks.polars_reference"}[who]
        return self.measured([sys.executable, "-m", module, str(self.landing(years)), str(lake)], f"{who}-{years}")

    def agree(self, years: int) -> None:
        """Whether the three lakes just built hold the same rows."""
        from benchmarks.compare import differences

        ours, others = self.lake("project", years), [self.lake(who, years) for who in ("script", "polars")]
        found = [f"{other.name}: {one}" for other in others for one in differences(ours, other)]
        self.keep("agreement", None, {"years": years, "differences": found})
        print("\n  - ".join(["the three lakes differ:", *found]) if found else "the three lakes hold the same rows")

    def day(self) -> None:
        """One more day of flights on lakes that are up to date, in turns; the lakes grow by a day each time."""
        found: dict[int, list[Measured]] = {years: [] for years in self.years}
        for years in self.years:
            self.run(years)
        rounds = self.rounds or ROUNDS
        for turn in range(1, rounds + 1):
            for years, runs in found.items():
                file = data.one_day(self.root(years) / "landing")
                runs.append(self.run(years))
                self.say(f"{file.stem} on {years} years, round {turn} of {rounds}", runs[-1])
                self.keep("day", str(years), [asdict(one) for one in runs])

    def nothing(self) -> None:
        """A run that finds nothing to do: what every run costs before it does anything."""
        found: dict[int, list[Measured]] = {years: [] for years in self.years}
        for years in self.years:
            self.run(years)
        for _ in range(self.rounds or ROUNDS):
            for years, runs in found.items():
                runs.append(self.run(years))
                self.say(f"nothing to do on {years} years", runs[-1])
                self.keep("nothing", str(years), [asdict(one) for one in runs])

    def score(self) -> None:
        """Every flight scored by the champion, into an empty table of predictions; then once more, where nothing differs."""
        for years in self.years:
            self.run(years)
            env, gold = {"LAKEHOUSE_ROOT": str(self.root(years))}, self.lake("project", years) / "gold"
            if not (self.root(years) / "mlflow.db").exists():
                self.lakehouse(["train"], f"train-{years}", **env)
            found: dict[str, list[Measured]] = {"new": [], "same": []}
            rounds = self.rounds or (1 if years >= LONG_YEARS else ROUNDS)
            for turn in range(1, rounds + 1):
                for table in ("delay_predictions", "model_quality"):
                    shutil.rmtree(gold / table, ignore_errors=True)
                for which, runs in found.items():
                    runs.append(self.lakehouse(["score", *EVERY_DAY], f"score-{years}", **env))
                    self.say(f"{which} scores of {years} years, round {turn} of {rounds}", runs[-1])
                told = {which: [asdict(one) for one in runs] for which, runs in found.items()}
                self.keep("score", str(years), {"rows": DeltaTable(gold / "delay_predictions").count(), **told})

    def store(self) -> None:
        """The real year in a folder and on MinIO, in turns: landed, built, run once more; then what MinIO was asked for."""
        steps = {"land": ["land"], "build": ["run"], "nothing": ["run"]}
        found: dict[str, dict[str, list[Measured]]] = {at: {step: [] for step in steps} for at in ("folder", "minio")}
        rounds = self.rounds or ROUNDS
        for turn in range(1, rounds + 1):
            for at, runs in found.items():
                with self.place(at) as env:
                    for step, command in steps.items():
                        runs[step].append(self.lakehouse(command, f"store-{at}", **env))
                        self.say(f"{step} at {at}, round {turn} of {rounds}", runs[step][-1])
            self.keep(
                "store",
                None,
                {at: {k: [asdict(one) for one in v] for k, v in runs.items()} for at, runs in found.items()},
            )
        audit, requests = Audit(), {}
        with self.place("minio", audit) as env:
            audit.taken()
            for step, command in steps.items():
                self.lakehouse(command, "store-requests", **env)
                requests[step] = audit.taken()
        self.keep("requests", None, requests)

    @contextmanager
    def place(self, at: str, audit: Audit | None = None) -> Iterator[dict[str, str]]:
        """An empty place for a lake, as the environment names it."""
        folder = self.scratch / f"store-{at}"
        shutil.rmtree(folder, ignore_errors=True)
        if at == "folder":
            yield {"LAKEHOUSE_ROOT": str(folder)}
            return
        with minio(folder, audit) as env:
            # No model is trained, so that no MLflow server is asked.
            told = {
                "LAKEHOUSE_PROFILE": "minio",
                "LAKEHOUSE_LOG_FOLDER": str(self.scratch / "logs"),
                "MLFLOW_TRACKING_URI": "none",
            }
            yield {**env, **told}

    # --- the lakes --------------------------------------------------------------------------------------------------

    def landing(self, years: int) -> Path:
        folder = self.scratch / f"landing-{years}"
        data.make(folder, years)
        return folder

    def root(self, years: int) -> Path:
        """The project's root for so many years: its landing zone is its own, because days are added to it."""
        root = self.scratch / f"project-{years}"
        if not (root / "landing").exists():
            shutil.copytree(self.landing(years), root / "landing", copy_function=os.link)
        return root

    def lake(self, who: str, years: int) -> Path:
        return self.root(years) / "lake" if who == "project" else self.scratch / f"{who}-{years}"

    # --- processes --------------------------------------------------------------------------------------------------

    def run(self, years: int) -> Measured:
        """The project, until its tables of so many years are up to date."""
        return self.lakehouse(["run"], f"project-{years}", LAKEHOUSE_ROOT=str(self.root(years)))

    def lakehouse(self, arguments: list[str], log: str, **env: str) -> Measured:
        return self.measured([sys.executable, "-m", "lakehouse.cli.main", *arguments], log, **env)

    def measured(self, command: list[str], log: str, **env: str) -> Measured:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return measure(command, {**plain, **env}, PROJECT, self.scratch / "logs" / f"{log}.log")

    # --- results ----------------------------------------------------------------------------------------------------

    def say(self, what: str, one: Measured) -> None:
        print(f"{what}: {one.seconds:.1f} s, {one.peak_mib / 1024:.2f} GiB", flush=True)

    def keep(self, case: str, key: str | None, value: Any) -> None:
        if key is None:
            self.results[case] = value
        else:
            kept = {**self.results.get(case, {}), key: value}
            self.results[case] = {name: kept[name] for name in sorted(kept, key=int)}
        measured = {"revision": get_revision(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        self.results["measured"] = {**self.results.get("measured", {}), case: measured}
        self.results["machine"] = machine()
        self.file.write_text(json.dumps(self.results, indent=1), encoding="utf-8")

    def write_page(self) -> None:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(report.page(self.results), encoding="utf-8")
        print(f"Written: {PAGE.relative_to(PROJECT)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, nargs="+", default=[1, 20], help="years of flights (default: 1 20)")
    parser.add_argument("--rounds", type=int, help=f"rounds of each case (default: {ROUNDS}; 1 for a long build)")
    parser.add_argument("--only", choices=(*CASES, "report"), help="one case, or only the page from what is kept")
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "bench", help="where files and lakes go")
    arguments = parser.parse_args()
    bench = Bench(arguments.scratch.resolve(), sorted(set(arguments.years)), arguments.rounds)
    if os.getloadavg()[0] > QUIET_LOAD:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}): what is measured now says little.", flush=True)
    for case in CASES:
        if arguments.only in (None, case):
            getattr(bench, case)()
    if not bench.results:
        parser.error("nothing is measured yet")
    bench.write_page()


if __name__ == "__main__":
    main()
