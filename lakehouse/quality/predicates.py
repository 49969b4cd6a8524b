"""Check the SQL predicates of declarations, as Spark would read them, with sqlglot's parser of Spark's dialect.

The import of sqlglot takes some tenths of a second, so it is local to its functions.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from lakehouse.definitions.data_types import DataType, parse_type
from lakehouse.quality.problems import Problem

if TYPE_CHECKING:
    from sqlglot import exp

# Spark's functions without parentheses.
_CONSTANTS: Final = frozenset(
    ("current_date", "current_timestamp", "current_time", "current_user", "session_user", "user")
)
# Spark's aggregate functions, and its functions that return several rows.
_AGGREGATES: Final = frozenset(
    re.findall(
        r"\w+",
        """any any_value approx_count_distinct approx_percentile approx_top_k approx_top_k_accumulate
    approx_top_k_combine array_agg avg bit_and bit_or bit_xor bitmap_and_agg bitmap_construct_agg bitmap_or_agg
    bool_and bool_or collect_list collect_set corr count count_if count_min_sketch covar_pop covar_samp every first
    first_value grouping grouping_id histogram_numeric hll_sketch_agg hll_union_agg kll_sketch_agg_bigint
    kll_sketch_agg_double kll_sketch_agg_float kurtosis last last_value listagg max max_by mean median min min_by
    mode percentile percentile_approx percentile_cont percentile_disc regr_avgx regr_avgy regr_count regr_intercept
    regr_r2 regr_slope regr_sxx regr_sxy regr_syy skewness some std stddev stddev_pop stddev_samp string_agg sum
    theta_intersection_agg theta_sketch_agg theta_union_agg try_avg try_sum var_pop var_samp variance""",
    )
)
_WINDOW_FUNCTIONS: Final = frozenset(
    ("cume_dist", "dense_rank", "lag", "lead", "nth_value", "ntile", "percent_rank", "rank", "row_number")
)
_GENERATORS: Final = frozenset(
    ("explode", "explode_outer", "inline", "inline_outer", "json_tuple", "posexplode", "posexplode_outer", "stack")
)
# A table such as delta.`/path` is a path.
_FILE_FORMATS: Final = frozenset(("avro", "csv", "delta", "json", "orc", "parquet", "text"))
# `x LIKE ANY ('a', 'b')` compares with each value.
_QUANTIFIERS: Final = frozenset(("any", "some", "all"))


def find_predicate_problems(predicate: str, columns: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with a predicate over the columns of one row.

    Args:
        columns: The type of each column.
    """
    from sqlglot import exp, parse
    from sqlglot.errors import SqlglotError

    try:
        words = _list_words(predicate)
        statements = parse(f"SELECT {predicate}", dialect="spark")
    except (SqlglotError, RecursionError) as error:
        yield Problem(f"the parser of this check cannot read it{_locate(error)}; Spark will decide", is_error=False)
        return
    statement = statements[0]
    if len(statements) > 1 or not isinstance(statement, exp.Select) or not _is_one_expression(statement):
        yield Problem("it is not one SQL expression such as amount > 0")
    elif len(list(statement.find_all(exp.Query))) > 1:
        yield _judge_subquery(statement)
    elif statement.find(exp.Window):
        yield Problem("a window function is not allowed, because a rule sees one row")
    else:
        yield from map(Problem, _find_misplaced_functions(words))
        yield from map(Problem, _find_unknown_columns(statement, columns))


def suggest(name: str, candidates: Collection[str]) -> str:
    """Return a hint at the nearest name, in any case; empty where none is near."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def _list_words(text: str) -> list[str]:
    """Return the text of each token, in lower case."""
    from sqlglot.dialects.spark import Spark

    return [token.text.lower() for token in Spark().tokenize(text)]


def _locate(error: Exception) -> str:
    """Return the part of the predicate that cannot be read, in brackets."""
    details: Any = getattr(error, "errors", None) or [{}]
    near = str(details[0].get("highlight") or "").strip()
    return f" (near {near!r})" if near else ""


def _judge_subquery(statement: exp.Select) -> Problem:
    """Return an error for a subquery on a table's name: in a run, no table has one. Spark can read paths and values."""
    from sqlglot import exp

    own = {cte.alias for cte in statement.find_all(exp.CTE)}
    for table in statement.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and table.name not in own and table.db.lower() not in _FILE_FORMATS:
            name = ".".join(part.name for part in table.parts)
            return Problem(f"a subquery cannot read {name}: tables have no names in a run; take it as a lookup")
    return Problem("this check does not read subqueries; Spark will decide", is_error=False)


def _is_one_expression(statement: exp.Select) -> bool:
    clauses = [name for name, value in statement.args.items() if value and name not in ("expressions", "kind", "hint")]
    return len(statement.expressions) == 1 and not clauses


def _find_misplaced_functions(words: Sequence[str]) -> Iterator[str]:
    """Yield the functions that need more than one row, or return more than one."""
    for before, name, after in zip(["", *words], words, words[1:], strict=False):
        is_quantifier = name in _QUANTIFIERS and before in ("like", "ilike")
        if after != "(" or is_quantifier:
            continue
        elif name in _AGGREGATES:
            yield f"the aggregate function {name} is not allowed, because a rule sees one row; use a suite"
        elif name in _WINDOW_FUNCTIONS:
            yield f"the window function {name} is not allowed, because a rule sees one row"
        elif name in _GENERATORS:
            yield f"the function {name} is not allowed, because it returns several rows"


def _find_unknown_columns(statement: exp.Select, columns: Mapping[str, str]) -> Iterator[str]:
    from sqlglot import exp

    problems = dict.fromkeys(_resolve(column, columns) for column in statement.find_all(exp.Column))
    yield from (problem for problem in problems if problem)


def _resolve(column: exp.Column, columns: Mapping[str, str]) -> str | None:
    """Return what is wrong with a column and the fields behind it, which Spark resolves without regard to case."""
    from sqlglot import exp

    first, *fields = [part.name for part in column.parts if isinstance(part, exp.Identifier)]
    by_lower = {name.lower(): name for name in columns}
    if first.lower() not in by_lower:
        is_constant = not fields and first.lower() in _CONSTANTS
        return None if is_constant else f"no column {first}{suggest(first, columns)}"
    path = by_lower[first.lower()]
    kind = _parse_declared(columns[path])
    for step in (*fields, *_list_steps(column)):
        if kind is None:
            break
        if step is None:  # an element of an array, or a value of a map
            kind = dict(kind.children).get("element" if kind.name == "array" else "value")
            continue
        found = _find_field(kind, step)
        if isinstance(found, str):
            return f"column {path} {found}"
        path, kind = f"{path}.{step}", found
    return None


def _list_steps(column: exp.Column) -> Iterator[str | None]:
    """Yield the fields that are read of a column after its own parts; None for an element in brackets."""
    from sqlglot import exp

    node: exp.Expression = column
    while node.parent is not None and node.parent.args.get("this") is node:
        parent = node.parent
        if isinstance(parent, exp.Bracket):
            yield None
        elif isinstance(parent, exp.Dot) and isinstance(parent.expression, exp.Identifier):
            yield parent.expression.name
        elif not isinstance(parent, exp.Paren):
            return
        node = parent


def _find_field(kind: DataType, name: str) -> DataType | str | None:
    """Return a field's type, or what is wrong with it; None for a type that is not known."""
    if kind.name == "map":
        return kind.children[1][1]
    holder = kind.children[0][1] if kind.name == "array" else kind
    if holder.name != "struct":
        return f"is {kind}, which has no field {name}"
    fields = {field.lower(): child for field, child in holder.children}
    if name.lower() not in fields:
        return f"has no field {name}{suggest(name, [field for field, _ in holder.children])}"
    child = fields[name.lower()]
    return DataType("array", (("element", child),)) if kind.name == "array" else child


def _parse_declared(text: str) -> DataType | None:
    try:
        return parse_type(text)
    except (ValueError, TypeError):  # reported with the declaration
        return None
