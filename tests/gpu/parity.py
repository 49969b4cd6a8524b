"""The same data through two lakes, one with a GPU's settings, and what differs between their tables.

Exact for keys, texts, counts, decimals, dates and times. Floating-point numbers may differ by RELATIVE: the order of a sum is no more
fixed on a GPU than on several CPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from lakehouse import graph
from lakehouse.declare import Declared, Source
from lakehouse.settings import PREFIX, PROJECT, load

RELATIVE = 1e-9
# When a run took place, which is never the same twice.
OF_THE_RUN = ("_ingested_at",)
SHOWN = 3


def environment(**settings: str) -> dict[str, str]:
    """This process's, but with no other settings than these and where the plugin is."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name == f"{PREFIX}GPU_JAR"
    }
    return kept | settings


def command(root: Path, *words: str, gpu: str = "") -> str:
    """Carry out a command on the lake at ``root``; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", *words], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=gpu),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} on {root} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def through(root: Path, spans: Iterable[tuple[str, str]], gpu: str = "") -> None:
    """Deliver the flights of each span of days and run: the first builds the tables, the others update them."""
    for since, until in spans:
        command(root, "land", "--from", since, "--to", until)
        command(root, "run", gpu=gpu)


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the tables of two lakes, a line each; none where they are the same."""
    tables = graph.load(load().declarations).declared
    return [line for name, declared in tables.items() for line in _differences(name, declared, one, other)]


def _differences(name: str, declared: Declared, *roots: Path) -> Iterator[str]:
    left, right = (_rows(declared, root.joinpath("lake", *name.split("."))) for root in roots)
    if left.schema != right.schema:
        yield f"{name}: the columns are {left.schema} and {right.schema}"
    elif left.num_rows != right.num_rows:
        yield f"{name}: {left.num_rows} and {right.num_rows} rows"
    else:
        for column in left.column_names:
            yield from compared(f"{name}.{column}", left[column], right[column])


def _rows(declared: Declared, path: Path) -> pa.Table:
    """All rows, in the order of what tells them apart."""
    rows = DeltaTable(path).to_pyarrow_table()
    rows = rows.drop_columns([column for column in OF_THE_RUN if column in rows.column_names])
    named = ("_file_id", "_row") if isinstance(declared, Source) else declared.key or tuple(declared.columns)
    order = [*named, *(column for column in ("valid_from",) if column in rows.column_names)]
    return rows.sort_by([(column, "ascending") for column in order]).combine_chunks()


def compared(name: str, left: pa.ChunkedArray, right: pa.ChunkedArray) -> Iterator[str]:
    """What differs between two columns, row by row."""
    if pa.types.is_floating(left.type):
        ours, theirs = (column.to_numpy() for column in (left, right))
        same = np.isclose(ours, theirs, rtol=RELATIVE, atol=0, equal_nan=True)
        same &= (pc.is_null(left).to_numpy() == pc.is_null(right).to_numpy())  # fmt: skip
    elif pa.types.is_nested(left.type):
        same = np.array([a == b for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True)], dtype=bool)
    else:
        both_null = pc.and_(pc.is_null(left), pc.is_null(right))
        same = pc.or_(both_null, pc.fill_null(pc.equal(left, right), False)).to_numpy().astype(bool)
    rows = np.flatnonzero(~same)
    if len(rows):
        shown = "; ".join(f"row {row}: {left[row].as_py()!r}, {right[row].as_py()!r}" for row in rows[:SHOWN].tolist())
        yield f"{name}: {len(rows)} rows differ: {shown}"
