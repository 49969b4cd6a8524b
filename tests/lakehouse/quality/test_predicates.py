"""Predicates as Spark reads them."""

from __future__ import annotations

import pytest

from lakehouse.quality.predicates import find_predicate_problems

COLUMNS = {
    "id": "bigint",
    "value": "double",
    "at": "timestamp",
    "name": "string",
    "tags": "array<string>",
    "address": "struct<zip:string,place:struct<lat:double>>",
    "items": "array<struct<sku:string,qty:int>>",
    "attrs": "map<string,struct<unit:string>>",
}
ROW = "is not allowed, because a rule sees one row"


def check(predicate: str) -> list[str]:
    """Return the problems of a predicate over COLUMNS, warnings in brackets."""
    problems = find_predicate_problems(predicate, COLUMNS)
    return [problem.text if problem.is_error else f"({problem.text})" for problem in problems]


@pytest.mark.parametrize(
    "predicate",
    [
        "value IS NULL OR Value BETWEEN 1 AND 2",
        "`NAME` RLIKE '^[a-z]$' AND name NOT LIKE 'x%' AND name LIKE ANY ('a', 'b')",
        """name = 'vlaue' AND name = "vlaue" AND name <> r'\\d' -- max(x)""",
        "at < current_date AND at < now() AND name = user AND at > DATE'2024-01-01'",
        "at + INTERVAL 1 DAY > at - INTERVAL '1 2' DAY TO HOUR AND timestampdiff(MINUTE, at, at) = 0",
        "extract(YEAR FROM at) > 2000 AND try_cast(value AS decimal(10, 2)) <=> 1.5D AND id IN (1L, 2)",
        "CASE WHEN id > 0 THEN value ELSE -value END > 0 AND if(id > 0, true, false)",
        "address.ZIP = '1' AND Address.place.lat > 0 AND (address).zip IS NOT NULL",
        "items[0].qty > 0 AND size(items.sku) > 0 AND attrs['a'].unit = 'kg' AND attrs.a.unit = 'kg'",
        "exists(tags, x -> x = 'a') AND forall(items, i -> i.qty > id)",
        "aggregate(items, 0, (sum, i) -> sum + i.qty, total -> total * 2) > 0",
        "size(filter(tags, (x, i) -> exists(items, y -> y.sku = x AND i > 0))) > 0",
        "map_filter(attrs, (k, v) -> v.unit = k) IS NOT NULL AND named_struct('max', id).max > 0",
        "greatest(id, value) > 0 AND NOT isnan(value)",
        "position('a' IN name) > 0 AND trim(BOTH ' ' FROM name) = 'a' AND name COLLATE UTF8_LCASE = 'a'",
    ],
)
def test_spark_accepts_it(predicate: str) -> None:
    assert check(predicate) == []


@pytest.mark.parametrize(
    ("predicate", "problems"),
    [
        ("vlaue > 0 OR VLAUE > 1", ["no column vlaue; did you mean value?", "no column VLAUE; did you mean value?"]),
        ("`vlaue` > 0", ["no column vlaue; did you mean value?"]),
        ("size(tag) > 0 AND nothing", ["no column tag; did you mean tags?", "no column nothing"]),
        ("exists(tags, x -> x = y)", ["no column y"]),
        ("comment IS NULL AND year > 1", ["no column comment", "no column year"]),
        ("address.zpi = '1'", ["column address has no field zpi; did you mean zip?"]),
        ("address.place.lta = 1", ["column address.place has no field lta; did you mean lat?"]),
        ("(address).zpi = '1'", ["column address has no field zpi; did you mean zip?"]),
        ("items[0].sqk = '1'", ["column items has no field sqk; did you mean sku?"]),
        ("name.first = 'a'", ["column name is string, which has no field first"]),
        ("max(value) > 0", [f"the aggregate function max {ROW}; use a suite"]),
        ("`Percentile_Approx`(value, 0.5) > 0", [f"the aggregate function percentile_approx {ROW}; use a suite"]),
        ("any(id > 0)", [f"the aggregate function any {ROW}; use a suite"]),
        ("row_number() OVER (ORDER BY id) = 1", [f"a window function {ROW}"]),
        ("explode(tags) = 'a'", ["the function explode is not allowed, because it returns several rows"]),
        ("lag(id) > 0", [f"the window function lag {ROW}"]),
        (
            "id IN (SELECT id FROM clean.items)",
            ["a subquery cannot read clean.items: tables have no names in a run; take it as a lookup"],
        ),
        ("id IN (SELECT id FROM delta.`/lake/x`)", ["(this check does not read subqueries; Spark will decide)"]),
        ("EXISTS (WITH x AS (SELECT 1) FROM x)", ["(this check does not read subqueries; Spark will decide)"]),
        ("id > 0, value > 0", ["it is not one SQL expression such as amount > 0"]),
        ("id > 0; DROP TABLE x", ["it is not one SQL expression such as amount > 0"]),
        ("id > 0 FROM items", ["it is not one SQL expression such as amount > 0"]),
        ("(value", ["(the parser of this check cannot read it (near 'value'); Spark will decide)"]),
        ("name = 'a", ["(the parser of this check cannot read it; Spark will decide)"]),
    ],
)
def test_problems_of_predicates(predicate: str, problems: list[str]) -> None:
    assert sorted(check(predicate)) == sorted(problems)
