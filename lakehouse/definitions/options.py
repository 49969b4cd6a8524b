"""Options of a CSV source. The project reads each of them itself; any other option is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

CSV_OPTIONS = ("sep", "quote", "escape", "header", "encoding")
# Names of the same options in Spark and other readers.
_SYNONYMS = {
    "delimiter": "sep",
    "separator": "sep",
    "quotechar": "quote",
    "escapechar": "escape",
    "charset": "encoding",
}
_CHARACTER_OPTIONS = ("sep", "quote", "escape")
DEFAULTS: Mapping[str, str] = {"sep": ",", "quote": '"'}


def get_separator(options: Mapping[str, str]) -> str:
    """Return the character between two values."""
    return options.get("sep", DEFAULTS["sep"])


def get_quote(options: Mapping[str, str]) -> str:
    """Return the character around a value that may hold separators and line ends."""
    return options.get("quote", DEFAULTS["quote"])


def find_option_problems(format: str, options: Mapping[str, str]) -> list[str]:
    """Return the problems of a source's options."""
    known = CSV_OPTIONS if format == "csv" else ()
    problems = [_describe_unknown_option(name, format) for name in options if name not in known]
    return problems + list(_find_value_problems({name: options[name] for name in options if name in known}))


def _describe_unknown_option(name: str, format: str) -> str:
    if format != "csv":
        return f"option {name!r}: a {format} source has no options"
    text = str(name).lower()
    near = [_SYNONYMS[text]] if text in _SYNONYMS else difflib.get_close_matches(text, CSV_OPTIONS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"option {name!r} is none of a CSV source's ({', '.join(CSV_OPTIONS)}){hint}"


def _find_value_problems(options: Mapping[str, str]) -> Iterator[str]:
    for name in (name for name in _CHARACTER_OPTIONS if name in options):
        if not _is_plain_character(options[name]):
            yield f"option {name}={options[name]!r} is not one ASCII character other than a line end"
    values = [get_separator(options), get_quote(options)]
    if values[0] == values[1]:
        yield f"the options sep and quote are both {values[0]!r}"
    if options.get("escape") == values[0]:
        yield f"the options sep and escape are both {values[0]!r}"
    if str(options.get("header", "true")).lower() != "true":
        yield f"option header={options['header']!r}: only files with a header are read, so that columns have names"
    if str(options.get("encoding", "utf-8")).lower() not in ("utf-8", "utf8"):
        yield f"option encoding={options['encoding']!r}: only UTF-8 is read. Convert the files before they land"


def _is_plain_character(value: object) -> bool:
    return isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"
