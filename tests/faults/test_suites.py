"""Suites that cannot be read or evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from lakehouse.quality import expectations
from tests.lakehouse.quality.test_expectations import TWO_ROWS, Lakes
from tests.lakes import TestLake, items_csv, items_table, landed_items


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "vaule", "max_value": 1}},
            "could not be evaluated: .*vaule",
        ),
        (
            {"type": "expect_nothing_of_the_kind", "kwargs": {}},
            "could not validate the table: .*expect_nothing_of_the_kind",
        ),
        ({"type": "expect_column_mean_to_be_between", "kwargs": {"colunm": "value"}}, "could not validate the table: "),
        (None, "could not validate the table: ZeroDivisionError"),
        ("not JSON", "is not JSON"),
        ("[]", "is not a suite: it needs a list of expectations"),
    ],
)
def test_broken_suite_keeps_published_table(
    make_lake: Lakes, expecting: Callable[..., TestLake], monkeypatch: pytest.MonkeyPatch, broken: Any, message: str
) -> None:
    lake = expecting(make_lake(landed_items, items_table()), TWO_ROWS)
    lake.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,5"))
    lake.run()
    before = (lake.version("clean.items"), lake.rows("clean.items"))
    lake.land("raw.items", "2.csv", items_csv("3,1,5"))
    assert lake.lake.suites is not None
    if broken is None:
        monkeypatch.setattr(expectations, "_evaluate", lambda *_: 1 / 0)
    elif isinstance(broken, str):
        lake.lake.suites.get_path("clean.items").write_text(broken)
    else:
        lake = expecting(lake, broken)
    error = lake.attempt().errors["clean.items"]
    assert re.search(message, error), error
    assert (lake.version("clean.items"), lake.rows("clean.items")) == before
