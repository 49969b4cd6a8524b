"""Measure the project, a hand-written PySpark script and polars side by side; the page is docs/benchmarks.md.

    python -m benchmarks [--years 1 20] [--rounds N] [--only build|day|nothing|score|store|report] [--scratch FOLDER]

Each result is written to results.json in the scratch folder at once. Cases can therefore be measured one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from benchmarks import data, report
from benchmarks.measure import Measured, describe_machine, measure_command
from benchmarks.store import Audit, minio
from deploy.env import PROJECT
from lakehouse.runs.context import get_revision
from lakehouse.settings import PREFIX

PAGE = PROJECT / "docs" / "benchmarks.md"
CASES = ("build", "day", "nothing", "score", "store")
# A build of this many years or more is measured once, of fewer three times.
LONG_YEARS = 10
ROUNDS = 3
EVERY_DAY = ("--from", "2013-01-01", "--to", "2099-12-31")
# Above this load, the measurements include the work of other processes.
QUIET_LOAD = 0.5


class Bench:
    """The measurements in one scratch folder; each case is a method of its name."""

    def __init__(self, scratch: Path, years: list[int], rounds: int | None) -> None:
        self.scratch, self.years, self.rounds = scratch, years, rounds
        self.file = scratch / "results.json"
        scratch.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    # --- cases ------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Measure a full build from landed files in an empty lake; the three programs take turns."""
        for years in self.years:
            rounds = self.rounds or (1 if years >= LONG_YEARS else ROUNDS)
            self.make_landing(years)
            measured: dict[str, list[Measured]] = {"project": [], "script": [], "polars": []}
            for turn in range(1, rounds + 1):
                for program, runs in measured.items():
                    runs.append(self.build_once(program, years))
                    self.print_run(f"build, {years} years, round {turn} of {rounds}: {program}", runs[-1])
                self.save("build", str(years), _as_dicts(measured))
            if years == min(self.years):
                self.compare_lakes(years)

    def build_once(self, program: str, years: int) -> Measured:
        if program == "project":
            shutil.rmtree(self.make_root(years), ignore_errors=True)
            return self.run(years)
        lake = self.lake_path(program, years)
        shutil.rmtree(lake, ignore_errors=True)
        module = {"script": "benchmarks.handwritten", "polars": "benchmarks.polars_reference"}[program]
        command = [sys.executable, "-m", module, str(self.make_landing(years)), str(lake)]
        return self.measure(command, f"{program}-{years}")

    def compare_lakes(self, years: int) -> None:
        """Compare the rows of the three lakes that were just built, and save the differences."""
        from benchmarks.compare import list_differences

        project = self.lake_path("project", years)
        others = [self.lake_path(program, years) for program in ("script", "polars")]
        differences = [f"{other.name}: {text}" for other in others for text in list_differences(project, other)]
        self.save("agreement", None, {"years": years, "differences": differences})
        if differences:
            print("\n  - ".join(["the three lakes differ:", *differences]))
        else:
            print("the three lakes hold the same rows")

    def day(self) -> None:
        """Measure one more day of flights on current lakes, in turns; each lake grows by a day each time."""
        measured: dict[int, list[Measured]] = {years: [] for years in self.years}
        for years in self.years:
            self.run(years)
        rounds = self.rounds or ROUNDS
        for turn in range(1, rounds + 1):
            for years, runs in measured.items():
                file = data.deliver_next_day(self.make_root(years) / "landing")
                runs.append(self.run(years))
                self.print_run(f"{file.stem} on {years} years, round {turn} of {rounds}", runs[-1])
                self.save("day", str(years), [asdict(run) for run in runs])

    def nothing(self) -> None:
        """Measure a run with nothing to do: the fixed cost of every run."""
        measured: dict[int, list[Measured]] = {years: [] for years in self.years}
        for years in self.years:
            self.run(years)
        for _ in range(self.rounds or ROUNDS):
            for years, runs in measured.items():
                runs.append(self.run(years))
                self.print_run(f"nothing to do on {years} years", runs[-1])
                self.save("nothing", str(years), [asdict(run) for run in runs])

    def score(self) -> None:
        """Measure the champion on every flight: into an empty table of predictions, then with unchanged scores."""
        for years in self.years:
            self.run(years)
            env = {"LAKEHOUSE_ROOT": str(self.make_root(years))}
            gold = self.lake_path("project", years) / "gold"
            if not (self.make_root(years) / "mlflow.db").exists():
                self.lakehouse(["train"], f"train-{years}", **env)
            measured: dict[str, list[Measured]] = {"new": [], "same": []}
            rounds = self.rounds or (1 if years >= LONG_YEARS else ROUNDS)
            for turn in range(1, rounds + 1):
                for table in ("delay_predictions", "model_quality"):
                    shutil.rmtree(gold / table, ignore_errors=True)
                for kind, runs in measured.items():
                    runs.append(self.lakehouse(["score", *EVERY_DAY], f"score-{years}", **env))
                    self.print_run(f"{kind} scores of {years} years, round {turn} of {rounds}", runs[-1])
                count = DeltaTable(gold / "delay_predictions").count()
                self.save("score", str(years), {"rows": count, **_as_dicts(measured)})

    def store(self) -> None:
        """Measure the real year in a folder and on MinIO, in turns; then count the requests that MinIO served."""
        steps = {"land": ["land"], "build": ["run"], "nothing": ["run"]}
        measured: dict[str, dict[str, list[Measured]]] = {
            place: {step: [] for step in steps} for place in ("folder", "minio")
        }
        rounds = self.rounds or ROUNDS
        for turn in range(1, rounds + 1):
            for place, runs in measured.items():
                with self.open_place(place) as env:
                    for step, command in steps.items():
                        runs[step].append(self.lakehouse(command, f"store-{place}", **env))
                        self.print_run(f"{step} at {place}, round {turn} of {rounds}", runs[step][-1])
            self.save("store", None, {place: _as_dicts(runs) for place, runs in measured.items()})
        self.save("requests", None, self.count_requests(steps))

    def count_requests(self, steps: Mapping[str, list[str]]) -> dict[str, dict[str, dict[str, int]]]:
        """Carry out the steps on MinIO, and return the requests of each: {step: {place: {kind: requests}}}."""
        audit, requests = Audit(), {}
        with self.open_place("minio", audit) as env:
            audit.drain()
            for step, command in steps.items():
                self.lakehouse(command, "store-requests", **env)
                requests[step] = audit.drain()
        return requests

    @contextmanager
    def open_place(self, place: str, audit: Audit | None = None) -> Iterator[dict[str, str]]:
        """Yield the environment variables that name an empty place for a lake."""
        folder = self.scratch / f"store-{place}"
        shutil.rmtree(folder, ignore_errors=True)
        if place == "folder":
            yield {"LAKEHOUSE_ROOT": str(folder)}
            return
        with minio(folder, audit) as env:
            # No model is trained. The steps therefore need no MLflow server.
            profile = {
                "LAKEHOUSE_PROFILE": "minio",
                "LAKEHOUSE_LOG_FOLDER": str(self.scratch / "logs"),
                "MLFLOW_TRACKING_URI": "none",
            }
            yield {**env, **profile}

    # --- the lakes --------------------------------------------------------------------------------------------------

    def make_landing(self, years: int) -> Path:
        folder = self.scratch / f"landing-{years}"
        data.make_landing(folder, years)
        return folder

    def make_root(self, years: int) -> Path:
        """Return the project's root for this number of years; its own landing zone, because days are added to it."""
        root = self.scratch / f"project-{years}"
        if not (root / "landing").exists():
            shutil.copytree(self.make_landing(years), root / "landing", copy_function=os.link)
        return root

    def lake_path(self, program: str, years: int) -> Path:
        return self.make_root(years) / "lake" if program == "project" else self.scratch / f"{program}-{years}"

    # --- processes --------------------------------------------------------------------------------------------------

    def run(self, years: int) -> Measured:
        """Bring the project's tables up to date with this number of years."""
        return self.lakehouse(["run"], f"project-{years}", LAKEHOUSE_ROOT=str(self.make_root(years)))

    def lakehouse(self, arguments: list[str], log: str, **env: str) -> Measured:
        return self.measure([sys.executable, "-m", "lakehouse.cli.main", *arguments], log, **env)

    def measure(self, command: list[str], log: str, **env: str) -> Measured:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return measure_command(command, {**plain, **env}, PROJECT, self.scratch / "logs" / f"{log}.log")

    # --- results ----------------------------------------------------------------------------------------------------

    def print_run(self, title: str, run: Measured) -> None:
        print(f"{title}: {run.seconds:.1f} s, {run.peak_mib / 1024:.2f} GiB", flush=True)

    def save(self, case: str, key: str | None, value: Any) -> None:
        if key is None:
            self.results[case] = value
        else:
            by_years = {**self.results.get(case, {}), key: value}
            self.results[case] = {years: by_years[years] for years in sorted(by_years, key=int)}
        measured = {"revision": get_revision(PROJECT), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        self.results["measured"] = {**self.results.get("measured", {}), case: measured}
        self.results["machine"] = describe_machine()
        self.file.write_text(json.dumps(self.results, indent=1), encoding="utf-8")

    def write_page(self) -> None:
        _, title, findings = PAGE.read_text(encoding="utf-8").partition(report.FINDINGS_TITLE)
        PAGE.write_text(f"{report.render_page(self.results)}\n{title}{findings}", encoding="utf-8")
        print(f"Written: {PAGE.relative_to(PROJECT)}")


def _as_dicts(runs: Mapping[str, list[Measured]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(run) for run in measured] for name, measured in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, nargs="+", default=[1, 20], help="years of flights (default: 1 20)")
    parser.add_argument("--rounds", type=int, help=f"rounds of each case (default: {ROUNDS}; 1 for a long build)")
    parser.add_argument("--only", choices=(*CASES, "report"), help="one case, or only the page from the saved results")
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "bench", help="folder for files and lakes")
    arguments = parser.parse_args()
    bench = Bench(arguments.scratch.resolve(), sorted(set(arguments.years)), arguments.rounds)
    if os.getloadavg()[0] > QUIET_LOAD:
        load = os.getloadavg()[0]
        print(f"Load of this machine: {load:.1f}, above {QUIET_LOAD}. Measure again when it is idle.", flush=True)
    for case in CASES:
        if arguments.only in (None, case):
            getattr(bench, case)()
    if not bench.results:
        parser.error(f"{bench.file}: holds no result. Measure a case first.")
    bench.write_page()


if __name__ == "__main__":
    main()
