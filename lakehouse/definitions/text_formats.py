"""Text formats: the exact grammar of landed text, by type. Java, Rust and cuDF share its regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from lakehouse.definitions.data_types import normalize_type
from lakehouse.errors import DeclarationError

INTEGERS: Final = ("tinyint", "smallint", "int", "bigint")
FLOATS: Final = ("float", "double")
MOMENTS: Final = ("date", "timestamp", "timestamp_ntz")
_OTHERS: Final = ("string", "binary", "boolean")
_DECIMAL: Final = re.compile(r"decimal\((\d+),(\d+)\)")
_ZONE: Final = "(Z|[+-][0-9]{2}:[0-9]{2})"
# The form without a pattern. A timestamp without a zone is in the session's zone, UTC.
_ISO_DATE: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ISO_TIME: Final = "[T ][0-9]{2}:[0-9]{2}"
_ISO_SECONDS: Final = ":[0-9]{2}([.][0-9]{1,6})?"
_ISO: Final = {
    "date": f"^{_ISO_DATE}\\z",
    "timestamp": f"^{_ISO_DATE}{_ISO_TIME}({_ISO_SECONDS}{_ZONE}?)?\\z",
    "timestamp_ntz": f"^{_ISO_DATE}{_ISO_TIME}({_ISO_SECONDS})?\\z",
}
_TOKEN: Final = re.compile(r"'(?P<quoted>[^']+)'|(?P<letters>(?P<letter>[A-Za-z])(?P=letter)*)|(?P<other>[^'])")
_FIELDS: Final = ("yyyy", "MM", "dd", "HH", "mm", "ss", *("S" * n for n in range(1, 7)), "XXX")
# A field needs those before it: minutes without an hour, or a fraction without seconds, have no meaning.
_NEEDS: Final = {"mm": "HH", "ss": "mm", "S": "ss", "XXX": "HH"}
_LITERAL: Final = "literal"


@dataclass(frozen=True)
class Layout:
    """One form of a pattern's text: each optional section is there or left out.

    Attributes:
        regex: Matches the whole text of this form, and no other.
        positions: Position of each field, from 1. Years have four digits, and the other fields two. The fraction `S`
            and the zone `XXX` reach to the end of the text.
    """

    regex: str
    positions: dict[str, int]


@dataclass(frozen=True)
class TextFormat:
    """The format of a column's landed text. A type's name alone stands for its format with these defaults.

    Attributes:
        type_name: The Spark SQL type.
        pattern: For dates and timestamps, a datetime pattern of Spark's, such as `dd.MM.yyyy`. Without one, the text is
            in ISO 8601.
        decimal: The decimal separator, for decimals and floating-point numbers.
        thousands: The separator of groups of three digits, for numbers. Text without it is accepted as well.
        true: Texts that stand for true, for booleans.
        false: Texts that stand for false, for booleans.

    Raises:
        DeclarationError: An attribute is not allowed, or does not apply to the type.
    """

    type_name: str
    pattern: str = ""
    decimal: str = "."
    thousands: str = ""
    true: Sequence[str] = ("true", "True", "TRUE")
    false: Sequence[str] = ("false", "False", "FALSE")

    def __post_init__(self) -> None:
        object.__setattr__(self, "type_name", normalize_type(self.type_name))
        if problems := [*self._find_problems()]:
            raise DeclarationError("\n".join(f"TextFormat({self.type_name!r}): {problem}" for problem in problems))

    @cached_property
    def regex(self) -> str:
        """The regular expression of a number, or of a date or timestamp without a pattern."""
        if self.type_name in _ISO:
            return _ISO[self.type_name]
        digits, point = "[0-9]+", _escape(self.decimal)
        if self.thousands:
            digits = f"([0-9]+|[0-9]{{1,3}}({_escape(self.thousands)}[0-9]{{3}})+)"
        if self.type_name in INTEGERS or self.scale == 0:
            return f"^[+-]?{digits}\\z"
        if self.scale is not None:
            return f"^[+-]?({digits}({point}[0-9]{{0,{self.scale}}})?|{point}[0-9]{{1,{self.scale}}})\\z"
        return f"^[+-]?({digits}({point}[0-9]*)?|{point}[0-9]+)([eE][+-]?[0-9]+)?\\z"

    @cached_property
    def scale(self) -> int | None:
        """The scale of a decimal."""
        match = _DECIMAL.fullmatch(self.type_name)
        return int(match[2]) if match else None

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """The forms of the pattern's text."""
        tokens = [_read_token(match) for match in _TOKEN.finditer(self.pattern)]
        return tuple(_lay_out(form) for form in _expand(iter(tokens)))

    def _find_problems(self) -> Iterator[str]:
        """Yield the attributes that are not allowed."""
        types = (*_OTHERS, *INTEGERS, *FLOATS, *MOMENTS)
        if self.type_name not in types and self.scale is None:
            yield f"text of this type cannot be parsed. Allowed are {', '.join(types)} and decimal(p,s)."
            return
        is_fractional = self.type_name in FLOATS or self.scale is not None
        is_number = is_fractional or self.type_name in INTEGERS
        default = {name: field.default for name, field in self.__dataclass_fields__.items()}
        for names, applies in {
            ("pattern",): self.type_name in MOMENTS,
            ("decimal",): is_fractional,
            ("thousands",): is_number,
            ("true", "false"): self.type_name == "boolean",
        }.items():
            yield from (f"{n} does not apply." for n in names if not applies and getattr(self, n) != default[n])
        yield from self._find_separator_problems(is_fractional)
        if {*self.true} & {*self.false} or isinstance(self.true, str) or isinstance(self.false, str):
            yield f"true={self.true!r} and false={self.false!r} are not two lists of different texts."
        if self.pattern and self.type_name in MOMENTS:
            yield from self._find_pattern_problems()

    def _find_separator_problems(self, is_fractional: bool) -> Iterator[str]:
        for name, separator, length in (("decimal", self.decimal, 1), ("thousands", self.thousands, 0)):
            is_character = len(separator) == 1 and not separator.isalnum() and separator not in "+-"
            if not is_character and len(separator) + length:
                yield f"{name}={separator!r} is not one character other than letters, digits, + and -."
        if is_fractional and self.decimal == self.thousands:
            yield f"decimal and thousands are both {self.decimal!r}."

    def _find_pattern_problems(self) -> Iterator[str]:
        """Yield what is wrong with the pattern."""
        tokens = [_read_token(match) for match in _TOKEN.finditer(self.pattern)]
        fields = [text for kind, text in tokens if kind != _LITERAL and text not in "[]"]
        if self.pattern.count("'") % 2 or "''" in self.pattern or not _is_balanced(tokens):
            yield f"pattern {self.pattern!r}: quotes or brackets do not match."
        elif unknown := [field for field in fields if field not in _FIELDS]:
            yield (
                f"pattern {self.pattern!r}: {', '.join(unknown)} cannot be read. "
                f"Allowed are {', '.join(_FIELDS[:6])}, S to SSSSSS and XXX. Quote letters that stand for themselves."
            )
        else:
            forms = (_list_fields(form) for form in _expand(iter(tokens)))
            problems = (problem for form in forms for problem in _find_form_problems(form, self.type_name))
            yield from (f"pattern {self.pattern!r}: {problem}" for problem in dict.fromkeys(problems))


def to_format(type_name: str | TextFormat) -> TextFormat:
    """Return the format of a type's name, or the format itself."""
    return TextFormat(type_name) if isinstance(type_name, str) else type_name


Token = tuple[str, str]


def _read_token(match: re.Match[str]) -> Token:
    """Return a token's kind and text. Brackets and fields have a kind of their own."""
    if match["letters"]:
        return match["letters"][0], match["letters"]
    if match["other"] and match["other"] in "[]":
        return match["other"], match["other"]
    return _LITERAL, match["quoted"] or match["other"]


def _is_balanced(tokens: Sequence[Token]) -> bool:
    depth = 0
    for kind, _ in tokens:
        depth += (kind == "[") - (kind == "]")
        if depth < 0:
            return False
    return depth == 0


def _expand(tokens: Iterator[Token]) -> list[tuple[Token, ...]]:
    """Return the forms of a pattern up to its end, or to the end of an optional section."""
    forms: list[tuple[Token, ...]] = [()]
    for token in tokens:
        if token[0] == "]":
            break
        added = [*_expand(tokens), ()] if token[0] == "[" else [(token,)]
        forms = [(*form, *more) for form in forms for more in added]
    return forms


def _list_fields(form: Sequence[Token]) -> list[str]:
    """Return the fields and literals of a form; a fraction is `S`, whatever its length."""
    return [text if kind != "S" else kind for kind, text in form]


def _find_form_problems(form: Sequence[str], type_name: str) -> Iterator[str]:
    """Yield why a form does not determine a value of the type, or cannot be read by position."""
    fields = [field for field in form if field in (*_FIELDS[:6], "S", "XXX")]
    for field in ("yyyy", "MM", "dd"):
        if field not in fields:
            yield f"{field} is missing or optional."
    yield from (f"{field} occurs twice." for field in dict.fromkeys(fields) if fields.count(field) > 1)
    yield from (f"{field} needs {_NEEDS[field]}." for field in fields if _NEEDS.get(field, field) not in fields)
    if "S" in form[:-1] and form[form.index("S") :] != ["S", "XXX"]:
        yield "only XXX can follow the fraction."
    if "XXX" in form[:-1]:
        yield "XXX is not at the end."
    if type_name == "date" and "HH" in fields:
        yield "a date has no time."
    if type_name == "timestamp_ntz" and "XXX" in fields:
        yield "timestamp_ntz has no zone."


def _lay_out(form: Sequence[Token]) -> Layout:
    """Return the regular expression of a form, and where its fields are."""
    regex, positions, position = "", dict[str, int](), 1
    for kind, text in form:
        if kind == _LITERAL:
            regex += "".join(map(_escape, text))
        elif text == "XXX":
            regex += _ZONE
        else:
            regex += f"[0-9]{{1,{len(text)}}}" if kind == "S" else f"[0-9]{{{len(text)}}}"
        if kind != _LITERAL:
            positions["S" if kind == "S" else text] = position
        position += len(text)
    return Layout(f"^{regex}\\z", positions)


def _escape(character: str) -> str:
    return f"\\{character}" if character in r"\^$.|?*+()[]{}" else character
