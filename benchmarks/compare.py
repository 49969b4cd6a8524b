"""Compare the rows of lakes: every table by its key, every declared column, floats within 1e-9 of each other.

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


def list_differences(lake: Path, other: Path) -> list[str]:
    """Describe each difference between the tables of two lakes; tables that training writes are skipped."""
    differences = []
    for declared in graph.load(LAYERS).declarations.values():
        path = Path(*declared.name.split("."))
        absent = [str(root) for root in (lake, other) if not (root / path / "_delta_log").is_dir()]
        if absent:
            differences.append(f"{declared.name}: not in {' and '.join(absent)}")
            continue
        key, columns = _key_and_columns(declared)
        first, second = (_read(root / path, key, columns) for root in (lake, other))
        differences += [f"{declared.name}: {text}" for text in _compare_rows(first, second, key)]
    return differences


def _key_and_columns(declared: Declaration) -> tuple[list[str], list[str]]:
    """Return the key of a table, and all its columns that must agree."""
    if isinstance(declared, Source):
        return list(ORIGIN_COLUMNS), [*ORIGIN_COLUMNS, *declared.columns, *LANDING]
    columns = list(declared.columns)
    if declared.name.startswith("silver."):
        columns += ORIGIN_COLUMNS
    columns += declared.write.get_added_columns(declared.columns)
    return list(declared.write.get_identity_columns(declared.key)), columns


def _read(path: Path, key: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    return pl.scan_delta(str(path)).select(columns).sort(key).collect()


def _compare_rows(ours: pl.DataFrame, theirs: pl.DataFrame, key: Sequence[str]) -> list[str]:
    if ours.schema != theirs.schema:
        changed = [f"{c} is {t} and {theirs.schema[c]}" for c, t in ours.schema.items() if theirs.schema[c] != t]
        return [f"other types: {', '.join(changed)}"]
    duplicates = [str(len(rows) - rows.n_unique(key)) for rows in (ours, theirs)]
    if duplicates != ["0", "0"]:
        return [f"{' and '.join(duplicates)} rows share a key with another"]
    if len(ours) != len(theirs) or not ours.select(key).equals(theirs.select(key)):
        extra = {"first": _anti_join(ours, theirs, key), "second": _anti_join(theirs, ours, key)}
        return [
            f"{len(keys)} rows only in the {lake}: {keys.head(SHOWN).rows()}"
            for lake, keys in extra.items()
            if len(keys)
        ]
    differences = []
    for name in ours.columns:
        unequal = ~_same(ours[name], theirs[name])
        if count := unequal.sum():
            shown = ours.select(*key, pl.col(name).alias("first")).with_columns(theirs[name].alias("second"))
            differences.append(f"{name} differs in {count} rows: {shown.filter(unequal).head(SHOWN).rows()}")
    return differences


def _anti_join(rows: pl.DataFrame, others: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    return rows.join(others, on=key, how="anti").select(key)


def _same(left: pl.Series, right: pl.Series) -> pl.Series:
    """Compare two columns by row; null equals only null, NaN only NaN, and an infinity only itself."""
    equal = left.eq_missing(right)
    if not left.dtype.is_float():
        return equal
    close = (left - right).abs() <= RELATIVE * pl.select(pl.max_horizontal(left.abs(), right.abs())).to_series()
    return equal | (close & left.is_finite() & right.is_finite()).fill_null(False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the rows of lakes.")
    parser.add_argument("lake", type=Path)
    parser.add_argument("others", type=Path, nargs="+", metavar="other")
    arguments = parser.parse_args()
    failed = False
    for other in arguments.others:
        differences = list_differences(arguments.lake, other)
        failed |= bool(differences)
        outcome = "\n  - ".join(["differ", *differences]) if differences else "the same"
        print(f"{arguments.lake} and {other}: {outcome}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
