"""Spark SQL types of declared columns: plain and nested ones, and the aliases that declarations accept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

TYPES: Final = (
    "string",
    "boolean",
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "float",
    "double",
    "date",
    "timestamp",
    "timestamp_ntz",
    "binary",
)
# Other names of the same types.
ALIASES: Final[Mapping[str, str]] = {
    "text": "string",
    "bool": "boolean",
    "byte": "tinyint",
    "short": "smallint",
    "integer": "int",
    "long": "bigint",
    "real": "float",
    "timestamp_ltz": "timestamp",
    "dec": "decimal",
    "numeric": "decimal",
}
# The type of a Parquet column that has no value in its file. It cannot be declared.
VOID: Final = "void"
ALLOWED: Final = f"{', '.join(TYPES)}, decimal(p,s), array<>, map<>, struct<>"
MAX_PRECISION: Final = 38
_NAMES: Final = (*TYPES, VOID, "decimal", "array", "map", "struct")
_TOKENS: Final = re.compile(r"[<>(),:]|[^<>(),:]+")


@dataclass(frozen=True)
class DataType:
    """A type of Spark SQL. Its text is the canonical form, such as `struct<id:bigint,tags:array<string>>`.

    Attributes:
        name: The type's name, without its parameters.
        children: The types within it: fields of a struct, the `element` of an array, `key` and `value` of a map.
        precision: The digits of a decimal.
        scale: The digits of a decimal after the point.
    """

    name: str
    children: tuple[tuple[str, DataType], ...] = ()
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name == "struct":
            return f"struct<{','.join(f'{name}:{kind}' for name, kind in self.children)}>"
        inner = ",".join(str(kind) for _, kind in self.children)
        return f"{self.name}<{inner}>" if inner else self.name


def parse_type(text: str) -> DataType:
    """Parse a type. Letters of type names may have any case, and blanks may stand between its parts.

    Raises:
        ValueError: There is no such type. The text is a relative clause that says which part is wrong.
    """
    tokens = [token.strip() for token in _TOKENS.findall(text) if token.strip()]
    if len(tokens) == 1 and ALIASES.get(tokens[0].lower(), tokens[0].lower()) not in _NAMES:
        raise ValueError(f"which is none of Spark SQL's ({ALLOWED})")
    kind = _parse(tokens)
    if tokens:
        raise ValueError(f"which has {''.join(tokens)!r} behind {str(kind)!r}")
    return kind


def normalize_type(text: str) -> str:
    """Return the canonical form of a type; the text itself where there is no such type."""
    try:
        return str(parse_type(text))
    except ValueError:
        return text


def normalize_types(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns with the canonical form of each type."""
    return {name: normalize_type(kind) if isinstance(kind, str) else kind for name, kind in columns.items()}


def find_type_problem(text: object) -> str | None:
    """Return what is wrong with a declared type; None where nothing is."""
    if not isinstance(text, str):
        return f"which is not text such as 'string'; allowed are {ALLOWED}"
    try:
        kind = parse_type(text)
    except ValueError as error:
        return str(error)
    return next(_find_problems(kind), None)


def _find_problems(kind: DataType) -> Iterator[str]:
    """Yield what a table cannot have in a type that can be parsed."""
    if kind.name == VOID:
        yield f"which is none of Spark SQL's ({ALLOWED})"
    if kind.name == "map" and _has_map(kind.children[0][1]):
        yield "which has a map in the key of a map"
    names = [name.lower() for name, _ in kind.children]
    yield from (f"which has the field {name!r} twice" for name in dict.fromkeys(names) if names.count(name) > 1)
    for _, child in kind.children:
        yield from _find_problems(child)


def _parse(tokens: list[str]) -> DataType:
    written = _take(tokens, "a type")
    name = ALIASES.get(written.lower(), written.lower())
    if name == "decimal":
        return _parse_decimal(tokens)
    if name in (*TYPES, VOID):
        return DataType(name)
    if name not in ("array", "map", "struct"):
        raise ValueError(f"in which {written!r} is none of Spark SQL's ({ALLOWED})")
    _expect(tokens, "<", written)
    if name == "struct":
        children = _parse_fields(tokens)
    elif name == "map":
        key = _parse(tokens)
        _expect(tokens, ",", f"the key of {written}")
        children = [("key", key), ("value", _parse(tokens))]
    else:
        children = [("element", _parse(tokens))]
    _expect(tokens, ">", f"the types in {written}<")
    return DataType(name, tuple(children))


def _parse_decimal(tokens: list[str]) -> DataType:
    try:
        _expect(tokens, "(", "decimal")
        precision = int(_take(tokens, "a precision"))
        _expect(tokens, ",", "the precision")
        scale = int(_take(tokens, "a scale"))
        _expect(tokens, ")", "the scale")
    except ValueError:
        raise ValueError("which lacks the digits of a decimal, such as decimal(10,2)") from None
    if not 0 <= scale <= precision <= MAX_PRECISION or not precision:
        raise ValueError(f"which has decimal({precision},{scale}); at most 38 digits, of them 0 to all after the point")
    return DataType("decimal", (), precision, scale)


def _parse_fields(tokens: list[str]) -> list[tuple[str, DataType]]:
    fields = []
    while True:
        name = _take(tokens, "a field")
        if tokens[:1] != [":"]:
            raise ValueError(f"which has the field {name!r} without a colon and its type, such as struct<id:bigint>")
        tokens.pop(0)
        fields.append((name, _parse(tokens)))
        if tokens[:1] != [","]:
            return fields
        tokens.pop(0)


def _has_map(kind: DataType) -> bool:
    return kind.name == "map" or any(_has_map(child) for _, child in kind.children)


def _take(tokens: list[str], expected: str) -> str:
    if not tokens or tokens[0] in "<>(),:":
        raise ValueError(f"which lacks {expected} {f'before {tokens[0]!r}' if tokens else 'at its end'}")
    return tokens.pop(0)


def _expect(tokens: list[str], token: str, after: str) -> None:
    if tokens[:1] != [token]:
        raise ValueError(f"which lacks {token!r} behind {after}")
    tokens.pop(0)
