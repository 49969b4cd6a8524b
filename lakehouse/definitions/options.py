"""Options of a source's text files. The project reads each of them itself; any other option is refused by name."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_KNOWN: Mapping[str, tuple[str, ...]] = {
    "csv": ("sep", "quote", "escape", "header", "encoding"),
    "json": ("encoding",),
    "parquet": (),
}
_TITLES = {"csv": "CSV", "json": "JSON"}
# Names of the same options in Spark and other readers.
_SYNONYMS = {
    "delimiter": "sep",
    "separator": "sep",
    "quotechar": "quote",
    "escapechar": "escape",
    "charset": "encoding",
}
_CHARACTER_OPTIONS = ("sep", "quote", "escape")
_BOOLEANS = {"true": True, "false": False}
# Characters that end or begin something else in every delimited file.
_RESERVED_CHARACTERS = "\r\n\0"


@dataclass(frozen=True)
class TextOptions:
    """Options of text files.

    Attributes:
        separator: one ASCII character between two values of a CSV record.
        quote: one ASCII character around a CSV value.
        escape: a character that makes the next quote, or itself, part of a value; None if only a doubled quote does.
        encoding: name of a Python codec.
        has_header: the first record of a CSV file has the names of the columns.
    """

    separator: str = ","
    quote: str = '"'
    escape: str | None = None
    encoding: str = "utf-8"
    has_header: bool = True

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> TextOptions:
        """Parse the options of a source, which have no problems (`find_option_problems`)."""
        quote = options.get("quote", cls.quote)
        escape = options.get("escape", quote)
        return cls(
            options.get("sep", cls.separator),
            quote,
            None if escape == quote else escape,
            codecs.lookup(options.get("encoding", cls.encoding)).name,
            _BOOLEANS[str(options.get("header", "true")).lower()],
        )


def find_option_problems(format: str, options: Mapping[str, str]) -> list[str]:
    """Return the problems of a source's options."""
    allowed = _KNOWN.get(format, ())
    problems = [_describe_unknown_option(name, format) for name in options if name not in allowed]
    return problems + list(_find_value_problems({name: options[name] for name in options if name in allowed}))


def _describe_unknown_option(name: str, format: str) -> str:
    allowed = _KNOWN.get(format, ())
    if not allowed:
        return f"option {name!r}: a {format} source has no options"
    text = str(name).lower()
    near = [_SYNONYMS[text]] if text in _SYNONYMS else difflib.get_close_matches(text, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near and near[0] in allowed else ""
    return f"option {name!r} is none of a {_TITLES[format]} source's ({', '.join(allowed)}){hint}"


def _find_value_problems(options: Mapping[str, str]) -> Iterator[str]:
    for name in (name for name in _CHARACTER_OPTIONS if name in options):
        if not _is_plain_character(options[name]):
            yield f"option {name}={options[name]!r} is not one ASCII character other than a line end"
    separator, quote = options.get("sep", TextOptions.separator), options.get("quote", TextOptions.quote)
    if separator == quote:
        yield f"the options sep and quote are both {separator!r}"
    if options.get("escape") == separator:
        yield f"the options sep and escape are both {separator!r}"
    if str(options.get("header", "true")).lower() not in _BOOLEANS:
        yield f"option header={options['header']!r} is neither true nor false"
    if not _is_text_encoding(options.get("encoding", "utf-8")):
        yield f"option encoding={options['encoding']!r} is not an encoding of text"


def _is_plain_character(value: object) -> bool:
    return isinstance(value, str) and len(value) == 1 and value.isascii() and value not in _RESERVED_CHARACTERS


def _is_text_encoding(name: object) -> bool:
    """Return whether Python can decode an encoding piece by piece, and it is not a transport encoding such as hex."""
    try:
        return isinstance("".encode(codecs.lookup(str(name)).name), bytes)
    except (LookupError, UnicodeError):
        return False
