"""Options of a source's text files. They are the platform's own; any other is refused by its name."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from lakehouse.definitions.sources import Source
from lakehouse.errors import DeclarationError

_ALLOWED = {"csv": ("sep", "quote", "encoding", "header"), "json": ("encoding",), "parquet": ()}
_BOOLEANS = {"true": True, "false": False}
# Characters that end or begin something else in every delimited file.
_RESERVED_CHARACTERS = "\r\n\0"


@dataclass(frozen=True)
class TextOptions:
    """Options of text files.

    Attributes:
        separator: one ASCII character between two values of a CSV record.
        quote: one ASCII character around a CSV value.
        encoding: name of a Python codec.
        has_header: the first record of a CSV file has the names of the columns.
    """

    separator: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    has_header: bool = True

    @classmethod
    def from_source(cls, source: Source) -> TextOptions:
        """Parse the options of a source.

        Raises:
            DeclarationError: an option is unknown, or its value is not allowed. Every problem is listed.
        """
        problems = find_option_problems(source)
        if problems:
            raise DeclarationError(" ".join(problems))
        options = source.options
        encoding = codecs.lookup(options.get("encoding", "utf-8")).name
        return cls(
            options.get("sep", ","),
            options.get("quote", '"'),
            encoding,
            _BOOLEANS[str(options.get("header", "true")).lower()],
        )


def find_option_problems(source: Source) -> list[str]:
    """Return the problems of a source's options."""
    allowed = _ALLOWED[source.format]
    expected = f"the options of a {source.format} source are {', '.join(allowed)}" if allowed else "it has no options"
    problems = [
        f"{source.name}: option {name!r} is unknown; {expected}." for name in source.options if name not in allowed
    ]
    for name in {"sep", "quote"} & source.options.keys() & set(allowed):
        value = source.options[name]
        if len(value) != 1 or not value.isascii() or value in _RESERVED_CHARACTERS:
            problems.append(f"{source.name}: option {name}={value!r} must be one ASCII character.")
    if not problems and source.options.get("sep", ",") == source.options.get("quote", '"'):
        problems.append(f"{source.name}: options sep and quote are both {source.options.get('sep', ',')!r}.")
    if "header" in allowed and str(source.options.get("header", "true")).lower() not in _BOOLEANS:
        problems.append(f"{source.name}: option header={source.options['header']!r} must be true or false.")
    if not _is_text_encoding(source.options.get("encoding", "utf-8")):
        problems.append(f"{source.name}: option encoding={source.options['encoding']!r} is not an encoding of text.")
    return problems


def _is_text_encoding(name: str) -> bool:
    """Return whether Python can decode an encoding piece by piece, and it is not a transport encoding such as hex."""
    try:
        return isinstance("".encode(codecs.lookup(name).name), bytes)
    except (LookupError, UnicodeError):
        return False
