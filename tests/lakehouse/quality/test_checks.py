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
from lakehouse.definitions.write_modes import History, Merge
from lakehouse.quality.checks import find_problems
from tests.lakes import ITEM_TYPES, landed_items


def make_items(*predicates: str) -> Table:
    """Declare clean.items with a rule for each predicate."""

    def items(items: DataFrame) -> DataFrame:
        return items

    rules = tuple(Rule(f"r{number}", predicate) for number, predicate in enumerate(predicates))
    columns = {**ITEM_TYPES, "tags": "array<string>", "address": "struct<zip:string>"}
    return table("clean.items", columns=columns, write=Merge(), key=("id",), rules=rules, items="raw.items")(items)


def check(folder: Path, *predicates: str) -> list[str]:
    """Return the problems of clean.items with these rules, warnings in brackets."""
    declared = graph.build((landed_items, make_items(*predicates)))
    problems = find_problems(Catalog(declared, folder / "lake", Suites(folder / "suites", folder / "docs")))
    return [problem.text if problem.is_error else f"({problem.text})" for problem in problems]


def write_suite(folder: Path, name: str, *expectations: tuple[str, dict[str, object]]) -> None:
    file = folder / "suites" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"type": kind, "kwargs": arguments} for kind, arguments in expectations]
    file.write_text(json.dumps({"name": name, "expectations": entries}))


def test_problems_name_the_rule_and_its_table(tmp_path: Path) -> None:
    assert check(tmp_path, "id > 0", "vlaue > 0 OR max(id) > 0", "(value", "_row > 0 AND size(_unparsed) = 0") == [
        "rule r1 of clean.items: the aggregate function max is not allowed, because a rule sees one row; use a suite",
        "rule r1 of clean.items: no column vlaue; did you mean value?",
        "(rule r2 of clean.items: the parser of this check cannot read it (near 'value'); Spark will decide)",
    ]


def test_rules_do_not_see_columns_that_are_added_later(tmp_path: Path) -> None:
    """Versions are computed from the rows that follow the rules. A table of a table has no landed rows."""
    rules = (Rule("r", "valid_from IS NULL AND _row > 0"),)
    declared = table(
        "clean.past", columns=ITEM_TYPES, write=History("at"), key=("id",), rules=rules, items="clean.items"
    )
    tables = (landed_items, make_items(), declared(lambda items: items))
    problems = find_problems(Catalog(graph.build(tables), tmp_path, Suites(tmp_path, tmp_path)))
    assert [problem.text for problem in problems] == [
        f"rule r of clean.past: no column {c}" for c in ("valid_from", "_row")
    ]


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
        ("expect_column_to_exist", {"column": "id", "row_condition": "idd > 0", "condition_parser": "spark"}),
    )
    assert check(tmp_path) == [
        "(suite clean/itmes.json: no table has this name, so it is not used; did you mean clean.items?)",
        "(suite clean.items.json: no table has this name, so it is not used; did you mean clean.items?)",
        "(suite raw/items.json: no table has this name, so it is not used; did you mean clean.items?)",
        "suite of clean.items: no expectation expect_column_values_to_not_be_nul; "
        "did you mean expect_column_values_to_not_be_null?",
        "suite of clean.items: expect_column_values_to_be_unique: no column idd; did you mean id?",
        "suite of clean.items: expect_compound_columns_to_be_unique: no column values; did you mean value?",
        "suite of clean.items: expect_column_to_exist: row_condition: no column idd; did you mean id?",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"expectations": [1]}', '{"expectations": [{"kwargs": {}}]}'])
def test_a_file_that_is_no_suite_is_named(tmp_path: Path, text: str) -> None:
    write_suite(tmp_path, "clean/items.json")
    (tmp_path / "suites" / "clean" / "items.json").write_text(text)
    [problem] = check(tmp_path)
    assert problem.startswith("suite of clean.items: not a suite of Great Expectations (")
