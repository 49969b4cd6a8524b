"""Measure bronze: landed files into a Delta table, by the project and by a loop of pyarrow and delta-rs, in turns.

    python -m benchmarks.bronze [--years 1 20] [--rounds 3] [--earlier CHECKOUT] [--sizes] [--scratch FOLDER]

Each measurement is a whole process, and the time within it from the list of files to the commit. `--earlier` also
measures another checkout of the project, by its own environment if it has one; both then also read 200 MB in each
format, and build silver.flights of a year.
`--sizes` measures 20,000 files of 40 bytes, and 2 GB in each format.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from deltalake import write_deltalake

from benchmarks import data
from benchmarks.measure import Measured, measure_command
from deploy.env import PROJECT
from lakehouse.settings import PREFIX

LARGE_BYTES = 2 * 10**9
COMPARED_BYTES = 2 * 10**8
TINY_FILES = 20_000
# A module of its own, so that an earlier checkout can declare the same sources.
DECLARATIONS = """
from lakehouse import source

COLUMNS = {"id": "bigint", "name": "string", "amount": "decimal(12,2)", "day": "date"}
tiny = source("bronze.tiny", landing="tiny", columns=("id", "value"))
csv = source("bronze.csv", landing="csv", columns=tuple(COLUMNS))
lines = source("bronze.lines", landing="lines", columns=COLUMNS, format="json")
array = source("bronze.array", landing="array", columns=COLUMNS, format="json")
parquet = source("bronze.parquet", landing="parquet", columns=COLUMNS, format="parquet")
"""
_INNER_SECONDS = re.compile(r" in ([\d.]+) s\.")


@dataclass(frozen=True)
class Run:
    """A measured process, and its seconds from the list of files to the commit."""

    process: Measured
    inner_seconds: float


def load_by_hand(landing: Path, table: Path) -> None:
    """Load flights as a script would: pyarrow reads each file, delta-rs writes them all. Nothing is checked."""

    def read() -> Iterator[pa.RecordBatch]:
        for number, file in enumerate(sorted((landing / "flights").iterdir()), start=1):
            names = file.open().readline().strip().split(",")
            texts = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
            rows = pa_csv.read_csv(file, convert_options=texts)
            columns = {
                "_file_id": pa.repeat(pa.scalar(number), len(rows)),
                "_row": pa.array(range(1, len(rows) + 1)),
                "_source_file": pa.repeat(pa.scalar(f"flights/{file.name}"), len(rows)),
            }
            for name, values in columns.items():
                rows = rows.append_column(name, values)
            yield from rows.combine_chunks().to_batches()

    began = time.perf_counter()
    batches = read()
    first = next(batches)

    def chain() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    write_deltalake(table, pa.RecordBatchReader.from_batches(first.schema, chain()))
    print(f"Loaded in {time.perf_counter() - began:.2f} s.")


class Bench:
    """The measurements in one scratch folder."""

    def __init__(self, scratch: Path, rounds: int) -> None:
        self.scratch, self.rounds = scratch, rounds
        self.checkouts: dict[str, Path] = {"project": PROJECT}
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "landed_sources.py").write_text(DECLARATIONS)

    def run_project(self, root: Path, checkout: Path = PROJECT, source: str | None = None) -> Run:
        for name in ("lake", "manifests", "staging"):
            shutil.rmtree(root / name, ignore_errors=True)
        more = {"LAKEHOUSE_DECLARATIONS": '["landed_sources"]', "PYTHONPATH": str(self.scratch)} if source else {}
        return self.run_tables(root, checkout, source or "bronze.flights", **more)

    def run_tables(self, root: Path, checkout: Path, selected: str, **env: str) -> Run:
        python = checkout / ".venv" / "bin" / "python"
        command = [str(python) if python.exists() else sys.executable, "-m", "lakehouse.cli.main", "run", "-s"]
        return self.measure([*command, selected], checkout, LAKEHOUSE_ROOT=str(root), **env)

    def run_silver(self, name: str) -> Run:
        """Build silver.flights of a year. Its inputs are not measured."""
        root = self.scratch / f"silver-{name}"
        data.make_landing(root / "landing", 1)
        self.run_project(root, self.checkouts[name])
        self.run_tables(root, self.checkouts[name], "+silver.airports")
        return self.run_tables(root, self.checkouts[name], "silver.flights")

    def run_loop(self, root: Path) -> Run:
        shutil.rmtree(root / "by_hand", ignore_errors=True)
        return self.measure(
            [sys.executable, "-m", "benchmarks.bronze", "--load", str(root / "landing"), str(root / "by_hand")], PROJECT
        )

    def measure(self, command: list[str], folder: Path, **env: str) -> Run:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        log = self.scratch / "logs" / "bronze.log"
        process = measure_command(command, {**plain, **env}, folder, log)
        return Run(process, float(_INNER_SECONDS.findall(log.read_text())[-1]))

    def compare(self, title: str, programs: Mapping[str, Callable[[], Run]]) -> None:
        """Run programs in turns, and print the ratios of their medians to the project's."""
        runs: dict[str, list[Run]] = {name: [] for name in programs}
        for _ in range(self.rounds):
            for name, run in programs.items():
                runs[name].append(run())
        whole = {name: statistics.median(run.process.seconds for run in measured) for name, measured in runs.items()}
        inner = {name: statistics.median(run.inner_seconds for run in measured) for name, measured in runs.items()}
        for name, measured in runs.items():
            peak = max(run.process.peak_mib for run in measured)
            print(
                f"{title}, {name}: {whole[name]:.2f} s ({whole[name] / whole['project']:.2f} of the project), from the "
                f"list to the commit {inner[name]:.2f} s ({inner[name] / inner['project']:.2f}), {peak:.0f} MiB",
                flush=True,
            )

    def compare_years(self, years: int) -> None:
        """Measure the flights of some years."""
        root = self.scratch / f"flights-{years}"
        data.make_landing(root / "landing", years)
        programs = {name: partial(self.run_project, root, checkout) for name, checkout in self.checkouts.items()}
        self.compare(f"{years} years", {**programs, "loop": partial(self.run_loop, root)})

    def compare_formats(self) -> None:
        """Measure 200 MB in each format, by each checkout."""
        root = self.scratch / "formats"
        for name, write in MAKERS.items():
            make_file(root / "landing" / name / f"compared.{name}", write, COMPARED_BYTES)
            self.compare(
                f"200 MB of {name}",
                {
                    checkout: partial(self.run_project, root, folder, f"bronze.{name}")
                    for checkout, folder in self.checkouts.items()
                },
            )

    def measure_sizes(self) -> None:
        """Measure many tiny files, and 2 GB in each format."""
        root = self.scratch / "sizes"
        make_tiny_files(root / "landing" / "tiny")
        for name in ("tiny", *MAKERS):
            if name in MAKERS:
                make_file(root / "landing" / name / f"large.{name}", MAKERS[name], LARGE_BYTES)
            run = self.run_project(root, source=f"bronze.{name}")
            print(f"{name}: {run.process.seconds:.1f} s, {run.process.peak_mib:.0f} MiB", flush=True)
            shutil.rmtree(root / "lake", ignore_errors=True)
            shutil.rmtree(root / "landing" / name)


def make_tiny_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(TINY_FILES):
        (folder / f"{number:05}.csv").write_text(f"id,value\n{number},{'x' * 22}\n")


def make_file(file: Path, write: Callable[[Path, int], None], size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write(file, size)


def _write_csv(file: Path, size: int) -> None:
    block = "".join(f'{n},"customer {n:040}",{n % 10**6}.25,2024-01-{n % 28 + 1:02}\n' for n in range(100_000))
    with file.open("w") as output:
        output.write("id,name,amount,day\n")
        for _ in range(size // len(block)):
            output.write(block)


def _make_records(count: int) -> list[str]:
    return [
        json.dumps(
            {"id": n, "name": f"customer {n:040}", "amount": n % 10**6 + 0.25, "day": f"2024-01-{n % 28 + 1:02}"}
        )
        for n in range(count)
    ]


def _write_lines(file: Path, size: int) -> None:
    block = "\n".join(_make_records(100_000)) + "\n"
    with file.open("w") as output:
        for _ in range(size // len(block)):
            output.write(block)


def _write_array(file: Path, size: int) -> None:
    block = ",\n".join(_make_records(100_000))
    with file.open("w") as output:
        output.write("[")
        output.write(",\n".join([block] * (size // len(block))))
        output.write("]\n")


def _write_parquet(file: Path, size: int) -> None:
    """Write random texts, which do not compress."""
    kinds = {"id": pa.int64(), "name": pa.string(), "amount": pa.decimal128(12, 2), "day": pa.date32()}
    rows = 500_000
    with pq.ParquetWriter(file, pa.schema(list(kinds.items())), compression="none", use_dictionary=False) as writer:
        while not file.exists() or file.stat().st_size < size:
            texts = os.urandom(rows * 24).hex()
            columns = [
                pa.array(range(rows), kinds["id"]),
                pa.array([texts[48 * n : 48 * n + 48] for n in range(rows)]),
                pa.array([n % 10**6 for n in range(rows)]).cast(pa.decimal128(19, 0)).cast(kinds["amount"]),
                pa.array([n % 20_000 for n in range(rows)], pa.int32()).cast(kinds["day"]),
            ]
            writer.write_table(pa.table(columns, schema=pa.schema(list(kinds.items()))), row_group_size=rows)


MAKERS = {"csv": _write_csv, "lines": _write_lines, "array": _write_array, "parquet": _write_parquet}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bronze", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, nargs="*", default=[1, 20], help="years of flights (default: 1 20)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--earlier", type=Path, help="another checkout of the project")
    parser.add_argument("--sizes", action="store_true", help="measure tiny and large files")
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "bench", help="folder for files and lakes")
    parser.add_argument("--load", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load_by_hand(*arguments.load)
        return
    bench = Bench(arguments.scratch.resolve(), arguments.rounds)
    if arguments.earlier:
        bench.checkouts["earlier"] = arguments.earlier.resolve()
    for years in arguments.years:
        bench.compare_years(years)
    if arguments.earlier:
        bench.compare_formats()
        bench.compare("silver.flights", {name: partial(bench.run_silver, name) for name in bench.checkouts})
    if arguments.sizes:
        bench.measure_sizes()


if __name__ == "__main__":
    main()
