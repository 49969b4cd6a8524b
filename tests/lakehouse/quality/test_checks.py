"""Checks of rules and suites before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import DataFrame

from lakehouse.catalog import Catalog, Suites
from lakehouse.definitions import graph
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.tables import Table, table
from lakehouse.definitions.write_modes import Merge
from lakehouse.quality.checks import find_problems
from tests.lakes import ITEM_TYPES, landed_items
from tests.paths import PROJECT


def make_items(*predicates: str) -> Table:
    """Declare clean.items with a rule for each predicate."""

    def items(items: DataFrame) -> DataFrame:
        return items

    rules = tuple(Rule(f"r{number}", predicate) for number, predicate in enumerate(predicates))
    columns = {**ITEM_TYPES, "tags": "array<string>", "address": "struct<zip:string>"}
    return table("clean.items", columns=columns, write=Merge(), key=("id",), rules=rules, items="raw.items")(items)


def check(folder: Path, *predicates: str) -> list[str]:
    declared = graph.build((landed_items, make_items(*predicates)))
    return list(find_problems(Catalog(declared, folder / "lake", Suites(folder / "suites", folder / "docs"))))


def write_suite(folder: Path, name: str, *expectations: tuple[str, dict[str, object]]) -> None:
    file = folder / "suites" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"type": kind, "kwargs": arguments} for kind, arguments in expectations]
    file.write_text(json.dumps({"name": name, "expectations": entries}))


@pytest.mark.parametrize(
    ("predicate", "problem"),
    [
        ("vlaue IS NULL OR value > 0", "no column vlaue; did you mean value?"),
        ("`vlaue` RLIKE '^[a-z]$' AND id > 0", "no column vlaue; did you mean value?"),
        ("size(tag) > 0", "no column tag; did you mean tags?"),
        ("adress.zip = '1'", "no column adress; did you mean address?"),
        ("nothing > 0", "no column nothing"),
    ],
)
def test_a_rule_on_an_unknown_column_is_named(tmp_path: Path, predicate: str, problem: str) -> None:
    assert check(tmp_path, "id > 0", predicate) == [f"rule r1 of clean.items: {problem}"]


@pytest.mark.parametrize(
    "predicate",
    [
        "value IS NULL OR Value BETWEEN 1 AND 2",
        "address.zip = 'vlaue'",
        'value = "vlaue"',
        "exists(tags, x -> x = 'a')",
        "at < current_date AND _row > 0 AND _file_id > 0",
        "try_cast(value AS decimal(10, 2)) <=> 1.5D AND NOT tags[0] RLIKE '^x'",
        "(value",
    ],
)
def test_other_rules_are_left_to_the_run(tmp_path: Path, predicate: str) -> None:
    assert check(tmp_path, predicate) == []


def test_suites_and_their_typing_mistakes_are_named(tmp_path: Path) -> None:
    write_suite(tmp_path, "clean/itmes.json")
    write_suite(tmp_path, "clean.items.json")
    write_suite(tmp_path, "raw/items.json")
    (tmp_path / "suites" / "README.md").touch()
    write_suite(
        tmp_path,
        "clean/items.json",
        ("expect_table_row_count_to_be_between", {"min_value": 1}),
        ("expect_column_values_to_not_be_nul", {"column": "id"}),
        ("expect_column_values_to_be_unique", {"column": "idd"}),
        ("expect_compound_columns_to_be_unique", {"column_list": ["id", "values"]}),
        ("expect_column_to_exist", {"column": "_row"}),
    )
    assert check(tmp_path) == [
        "suite clean/itmes.json: no table has this name, so it is not used; did you mean clean.items?",
        "suite clean.items.json: no table has this name, so it is not used; did you mean clean.items?",
        "suite raw/items.json: no table has this name, so it is not used; did you mean clean.items?",
        "suite of clean.items: no expectation expect_column_values_to_not_be_nul; "
        "did you mean expect_column_values_to_not_be_null?",
        "suite of clean.items: expect_column_values_to_be_unique: no column idd; did you mean id?",
        "suite of clean.items: expect_compound_columns_to_be_unique: no column values; did you mean value?",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"expectations": [1]}', '{"expectations": [{"kwargs": {}}]}'])
def test_a_file_that_is_no_suite_is_named(tmp_path: Path, text: str) -> None:
    write_suite(tmp_path, "clean/items.json")
    (tmp_path / "suites" / "clean" / "items.json").write_text(text)
    [problem] = check(tmp_path)
    assert problem.startswith("suite of clean.items: not a suite of Great Expectations (")


def test_the_example_has_no_problems(tmp_path: Path) -> None:
    suites = Suites(PROJECT / "conf" / "expectations", tmp_path)
    declared = graph.load(("bronze", "silver", "gold"))
    assert list(find_problems(Catalog(declared, tmp_path, suites))) == []
