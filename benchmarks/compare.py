"""Whether two lakes hold the same rows: every table by its key, every declared column, floats within 1e-9 of each other.

python -m benchmarks.compare LAKE OTHER...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lakehouse.definitions import graph
from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Declaration

RELATIVE = 1e-9
# A batch's time differs between builds; the other landing columns do not.
LANDING = (MALFORMED, "_source_file", "_batch_id")
LAYERS = ("bronze", "silver", "gold")
SHOWN = 3


def differences(lake: Path, other: Path) -> list[str]:
    """How the second lake's tables differ from the first's, in sentences; tables made by training are left out."""
    found = []
    for declared in graph.load(LAYERS).declarations.values():
        path = Path(*declared.name.split("."))
        absent = [str(one) for one in (lake, other) if not (one / path / "_delta_log").is_dir()]
        if absent:
            found.append(f"{declared.name}: not in {' and '.join(absent)}")
            continue
        key, columns = _compared(declared)
        found += [f"{declared.name}: {one}" for one in _differences(_read(lake / path, key, columns),
                                                                    _read(other / path, key, columns), key)]  # fmt: skip
    return found


def _compared(declared: Declaration) -> tuple[list[str], list[str]]:
    """The key of a table, and all its columns that must agree."""
    if isinstance(declared, Source):
        return list(ORIGIN_COLUMNS), [*ORIGIN_COLUMNS, *declared.columns, *LANDING]
    columns = list(declared.columns)
    if declared.name.startswith("silver."):
        columns += ORIGIN_COLUMNS
    return list(declared.write.identity_columns(declared.key)), [
        *columns,
        *declared.write.added_columns(declared.columns),
    ]


def _read(path: Path, key: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    return pl.scan_delta(str(path)).select(columns).sort(key).collect()


def _differences(ours: pl.DataFrame, theirs: pl.DataFrame, key: Sequence[str]) -> list[str]:
    if ours.schema != theirs.schema:
        changed = [f"{c} is {t} and {theirs.schema[c]}" for c, t in ours.schema.items() if theirs.schema[c] != t]
        return [f"other types: {', '.join(changed)}"]
    doubled = [str(len(one) - one.n_unique(key)) for one in (ours, theirs)]
    if doubled != ["0", "0"]:
        return [f"{' and '.join(doubled)} rows share a key with another"]
    if len(ours) != len(theirs) or not ours.select(key).equals(theirs.select(key)):
        only = [one.join(rest, on=key, how="anti").select(key) for one, rest in ((ours, theirs), (theirs, ours))]
        return [f"{len(one)} rows only in the {which}: {one.head(SHOWN).rows()}"
                for one, which in zip(only, ("first", "second"), strict=True) if len(one)]  # fmt: skip
    found = []
    for name in ours.columns:
        unequal = ~_same(ours[name], theirs[name])
        if count := unequal.sum():
            shown = ours.select(*key, pl.col(name).alias("first")).with_columns(theirs[name].alias("second"))
            found.append(f"{name} differs in {count} rows: {shown.filter(unequal).head(SHOWN).rows()}")
    return found


def _same(left: pl.Series, right: pl.Series) -> pl.Series:
    """By row; null is only null's like, NaN only NaN's, and an infinity only its own."""
    equal = left.eq_missing(right)
    if not left.dtype.is_float():
        return equal
    close = (left - right).abs() <= RELATIVE * pl.select(pl.max_horizontal(left.abs(), right.abs())).to_series()
    return equal | (close & left.is_finite() & right.is_finite()).fill_null(False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether lakes hold the same rows.")
    parser.add_argument("lake", type=Path)
    parser.add_argument("others", type=Path, nargs="+", metavar="other")
    arguments = parser.parse_args()
    failed = False
    for other in arguments.others:
        found = differences(arguments.lake, other)
        failed |= bool(found)
        print(f"{arguments.lake} and {other}: " + ("the same" if not found else "\n  - ".join(["differ", *found])))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
