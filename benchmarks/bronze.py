"""Measure bronze: landed files into a Delta table, by the project and by a loop of pyarrow and delta-rs, in turns.

    python -m benchmarks.bronze [--years 1 20] [--rounds 3] [--earlier CHECKOUT] [--sizes] [--scratch FOLDER]

`--earlier` also measures another checkout of the project, by its own environment. `--sizes` measures 20,000 files of 40
bytes, and 2 GB in each format.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from deltalake import write_deltalake

from benchmarks import data
from benchmarks.measure import Measured, measure_command
from deploy.env import PROJECT
from lakehouse import source
from lakehouse.settings import PREFIX

LARGE_BYTES = 2 * 10**9
TINY_FILES = 20_000
COLUMNS = {"id": "bigint", "name": "string", "amount": "decimal(12,2)", "day": "date"}
tiny = source("bronze.tiny", landing="tiny", columns=("id", "value"))
csv = source("bronze.csv", landing="csv", columns=tuple(COLUMNS))
lines = source("bronze.lines", landing="lines", columns=COLUMNS, format="json")
array = source("bronze.array", landing="array", columns=COLUMNS, format="json")
parquet = source("bronze.parquet", landing="parquet", columns=COLUMNS, format="parquet")


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

    batches = read()
    first = next(batches)

    def chain() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    write_deltalake(table, pa.RecordBatchReader.from_batches(first.schema, chain()))


class Bench:
    """The measurements in one scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.programs: dict[str, Callable[[Path], Measured]] = {"project": self.run_project, "loop": self.run_loop}

    def add_earlier(self, checkout: Path) -> None:
        self.programs["earlier"] = lambda root: self.run_project(root, checkout)

    def run_project(self, root: Path, checkout: Path = PROJECT, selected: str = "bronze.flights") -> Measured:
        for name in ("lake", "manifests", "staging"):
            shutil.rmtree(root / name, ignore_errors=True)
        python = checkout / ".venv" / "bin" / "python"
        command = [
            str(python) if python.exists() else sys.executable,
            "-m",
            "lakehouse.cli.main",
            "run",
            "-s",
            selected,
        ]
        declarations = {} if selected == "bronze.flights" else {"LAKEHOUSE_DECLARATIONS": '["benchmarks.bronze"]'}
        return self.measure(command, checkout, LAKEHOUSE_ROOT=str(root), **declarations)

    def run_loop(self, root: Path) -> Measured:
        shutil.rmtree(root / "by_hand", ignore_errors=True)
        return self.measure(
            [sys.executable, "-m", "benchmarks.bronze", "--load", str(root / "landing"), str(root / "by_hand")], PROJECT
        )

    def measure(self, command: list[str], folder: Path, **env: str) -> Measured:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return measure_command(command, {**plain, **env}, folder, self.scratch / "logs" / "bronze.log")

    def compare(self, years: int, rounds: int) -> None:
        """Measure the flights of some years, and print the ratios of the medians to the project's."""
        root = self.scratch / f"flights-{years}"
        data.make_landing(root / "landing", years)
        runs: dict[str, list[Measured]] = {name: [] for name in self.programs}
        for _ in range(rounds):
            for name, run in self.programs.items():
                runs[name].append(run(root))
        medians = {name: statistics.median(run.seconds for run in measured) for name, measured in runs.items()}
        for name, measured in runs.items():
            ratio = medians[name] / medians["project"]
            peak = max(run.peak_mib for run in measured)
            seconds = ", ".join(f"{run.seconds:.2f}" for run in measured)
            print(f"{years} years, {name}: {seconds} s ({ratio:.2f} of the project), {peak:.0f} MiB", flush=True)

    def measure_sizes(self) -> None:
        """Measure many tiny files, and 2 GB in each format."""
        root = self.scratch / "sizes"
        make_tiny_files(root / "landing" / "tiny")
        for name in ("tiny", *MAKERS):
            if name in MAKERS:
                make_large_file(root / "landing" / name / f"large.{name}", MAKERS[name])
            run = self.run_project(root, selected=f"bronze.{name}")
            print(f"{name}: {run.seconds:.1f} s, {run.peak_mib:.0f} MiB", flush=True)
            shutil.rmtree(root / "lake", ignore_errors=True)
            shutil.rmtree(root / "landing" / name)


def make_tiny_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(TINY_FILES):
        (folder / f"{number:05}.csv").write_text(f"id,value\n{number},{'x' * 22}\n")


def make_large_file(file: Path, write: Callable[[Path], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write(file)


def _write_csv(file: Path) -> None:
    block = "".join(f'{n},"customer {n:040}",{n % 10**6}.25,2024-01-{n % 28 + 1:02}\n' for n in range(100_000))
    with file.open("w") as output:
        output.write("id,name,amount,day\n")
        for _ in range(LARGE_BYTES // len(block)):
            output.write(block)


def _make_records(count: int) -> list[str]:
    return [
        json.dumps(
            {"id": n, "name": f"customer {n:040}", "amount": n % 10**6 + 0.25, "day": f"2024-01-{n % 28 + 1:02}"}
        )
        for n in range(count)
    ]


def _write_lines(file: Path) -> None:
    block = "\n".join(_make_records(100_000)) + "\n"
    with file.open("w") as output:
        for _ in range(LARGE_BYTES // len(block)):
            output.write(block)


def _write_array(file: Path) -> None:
    block = ",\n".join(_make_records(100_000))
    with file.open("w") as output:
        output.write("[")
        output.write(",\n".join([block] * (LARGE_BYTES // len(block))))
        output.write("]\n")


def _write_parquet(file: Path) -> None:
    """Write a file of 2 GB: the texts are random, so that they do not compress."""
    kinds = {"id": pa.int64(), "name": pa.string(), "amount": pa.decimal128(12, 2), "day": pa.date32()}
    rows = 500_000
    with pq.ParquetWriter(file, pa.schema(list(kinds.items())), compression="none", use_dictionary=False) as writer:
        while not file.exists() or file.stat().st_size < LARGE_BYTES:
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
    bench = Bench(arguments.scratch.resolve())
    if arguments.earlier:
        bench.add_earlier(arguments.earlier.resolve())
    for years in arguments.years:
        bench.compare(years, arguments.rounds)
    if arguments.sizes:
        bench.measure_sizes()


if __name__ == "__main__":
    main()
