"""The comparison of two lakes: equal values, and the text of a difference."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from benchmarks.compare import _compare_rows

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "left", "right", "differ"),
    [
        (pl.Float64, [1.0, None, NAN, INF, 0.0], [1.0 + 1e-12, None, NAN, INF, 0.0], []),
        (pl.Float64, [1.0, 2.0], [1.0, 2.00001], [(1, 2.0, 2.00001)]),
        (pl.Float64, [1.0, None, 3.0], [1.0, 2.0, None], [(1, None, 2.0), (2, 3.0, None)]),
        (pl.Float64, [1.0, INF, -INF], [INF, 1.0, INF], [(0, 1.0, INF), (1, INF, 1.0), (2, -INF, INF)]),
        (pl.String, ["a", None], ["a", None], []),
        (pl.String, ["a", None], [None, None], [(0, "a", None)]),
        (pl.Int64, [7, 8, 9], [7, 0, 0], [(1, 8, 0), (2, 9, 0)]),
        (pl.List(pl.Int64), [[1], [2]], [[1], [3]], [(1, [2], [3])]),
    ],
)
def test_different_rows_are_counted_and_shown(kind: Any, left: list[Any], right: list[Any], differ: list[Any]) -> None:
    first, second = (
        pl.DataFrame({"key": range(len(values)), "c": pl.Series(values, dtype=kind)}) for values in (left, right)
    )
    assert _compare_rows(first, second, ["key"]) == ([f"c differs in {len(differ)} rows: {differ}"] if differ else [])


@pytest.mark.parametrize("numbers", [(1.0, NAN), (NAN, 1.0), (None, NAN), (INF, NAN)])
def test_nan_equals_only_nan(numbers: tuple[float | None, float | None]) -> None:
    first, second = (pl.DataFrame({"key": [0], "c": pl.Series([number], dtype=pl.Float64)}) for number in numbers)
    (text,) = _compare_rows(first, second, ["key"])
    assert text.startswith("c differs in 1 rows")


def test_other_rows_keys_and_types_are_named() -> None:
    rows = pl.DataFrame({"key": [1, 2], "c": [1, 2]})
    assert _compare_rows(rows, rows.head(1), ["key"]) == ["1 rows only in the first: [(2,)]"]
    assert _compare_rows(rows, pl.concat([rows, rows]), ["key"]) == ["0 and 2 rows share a key with another"]
    assert _compare_rows(rows, rows.cast({"c": pl.String}), ["key"]) == ["other types: c is Int64 and String"]
