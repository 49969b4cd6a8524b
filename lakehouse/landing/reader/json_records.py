"""Records of a JSON file, typed strictly and exactly.

A group of records is decoded at once. If anything about it is in doubt, it is split until the record in doubt is alone,
and that record is examined value by value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Raw

from lakehouse.definitions.sources import Source
from lakehouse.landing.reader import conversion
from lakehouse.landing.reader.column_types import to_arrow_type
from lakehouse.landing.reader.columns import check_columns
from lakehouse.landing.reader.conformance import format_json
from lakehouse.landing.reader.json_layout import Texts, find_duplicate_key, split_records
from lakehouse.landing.reader.json_types import ArrayBuilder, make_struct
from lakehouse.landing.reader.json_values import Examination, MapKey, Path
from lakehouse.landing.reader.rejection import RejectedFileError

_PIECES = 16
_GROUP_RECORDS = 1 << 14
# What precedes the colon after a key.
_KEY_ENDS = (b'":', b" :", b"\t:", b"\n:", b"\r:")
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, OverflowError)  # pyarrow.ArrowInvalid is a ValueError


@dataclass
class JsonRecords:
    """Consecutive records.

    Attributes:
        declared: the declared columns, null in a malformed record.
        rows: the number of each record in the file, from 1.
        malformed: the text of each malformed record; None if none is malformed.
        rescued: the texts of each record's undeclared values by path; None if no record has one.
        has_rescued_column: the contract accepts undeclared keys.
    """

    declared: dict[str, pa.Array]
    rows: pa.Array
    malformed: pa.Array | None
    rescued: list[dict[str, str]] | None
    has_rescued_column: bool

    def conform(self, added: Mapping[str, str]) -> tuple[dict[str, pa.Array], pa.Array | None]:
        """Return the declared and added columns, and `_rescued` if the contract has it.

        Args:
            added: the columns that the contract adds, with their types in the table.
        """
        values = dict(self.declared)
        rescued = self.rescued or [{} for _ in range(len(self.rows))] if added else self.rescued
        for name, kind in added.items():
            texts = pa.array([found.get(name) for found in rescued or ()], pa.string())
            values[name] = texts if kind == "string" else conversion.cast_to_other_type(texts, to_arrow_type(kind))
            for found, is_taken in zip(rescued or (), values[name].is_valid().to_pylist(), strict=True):
                if is_taken:
                    found.pop(name, None)
        if not self.has_rescued_column:
            return values, None
        if not rescued:
            return values, pa.nulls(len(self.rows), pa.string())
        return values, pa.array([format_json(found) for found in rescued], pa.string())


class JsonReader:
    """Reads the records of one file.

    Args:
        source: the declaration.
        pieces: the text in UTF-8, in pieces of any length.

    Attributes:
        columns: the declared columns, and the keys that are not declared, by path. Complete when the file was read.
    """

    def __init__(self, source: Source, pieces: Iterable[bytes]) -> None:
        self.source, self.pieces = source, pieces
        self.columns: dict[str, str] = dict(source.columns)
        self.fields = {name: to_arrow_type(kind) for name, kind in source.columns.items()}
        self.is_open = source.contract.new_column != "fail"
        record = make_struct(self.fields, is_closed=not self.is_open)
        self.decoder = msgspec.json.Decoder(record)
        self.key_decoder = msgspec.json.Decoder(dict[str, Raw])
        self.examination = Examination(self.fields, record)
        self.record_count = 0

    def read_records(self) -> Iterator[JsonRecords]:
        """Yield the records.

        Raises:
            RejectedFileError: the file is damaged, or has an undeclared key that the contract does not accept.
        """
        for texts in split_records(self.pieces):
            for start in range(0, len(texts.texts), _GROUP_RECORDS):
                end = start + _GROUP_RECORDS
                lines = texts.lines and texts.lines[start:end]
                yield self._read_group(Texts(texts.texts[start:end], lines))
        check_columns(self.source, self.columns)

    def _read_group(self, group: Texts) -> JsonRecords:
        outcome = _Outcome([], {}, {})
        self._decode(group, 0, outcome)
        count = len(group.texts)
        rows = pa.array(np.arange(self.record_count + 1, self.record_count + count + 1))
        self.record_count += count
        arrays = ArrayBuilder().build_struct(outcome.objects, self.fields)
        malformed, rescued = None, None
        if outcome.malformed:
            malformed = pa.array([outcome.malformed.get(at) for at in range(count)], pa.string())
        if outcome.unknown:
            rescued = [_to_texts(outcome.unknown.get(at)) for at in range(count)]
            self._note_columns(outcome.unknown.values())
        declared = dict(zip(self.fields, arrays, strict=True))
        return JsonRecords(declared, rows, malformed, rescued, self.source.contract.has_rescued_column)

    def _note_columns(self, unknown: Iterable[Mapping[Path, Raw]]) -> None:
        for values in unknown:
            for path in values:
                names = (part for part in path if isinstance(part, str) and not isinstance(part, MapKey))
                self.columns.setdefault(".".join(names), "string")

    def _decode(self, group: Texts, start: int, outcome: _Outcome) -> None:
        """Decode records, and add what becomes of them to the outcome.

        Args:
            start: the position of the first record in its group.
        """
        texts = group.texts
        try:
            objects = [self.decoder.decode(text) for text in texts]
            builder = ArrayBuilder()
            builder.build_struct(objects, self.fields)
            unknown = self._find_unknown_keys(texts, start) if self.is_open else {}
            self._check_keys(texts, builder.key_count, unknown)
        except _DECODE_ERRORS:
            if len(texts) == 1:
                self._examine(texts[0], group.lines[0] if group.lines else None, start, outcome)
                return
            step = -(-len(texts) // _PIECES)
            for at in range(0, len(texts), step):
                lines = group.lines and group.lines[at : at + step]
                self._decode(Texts(texts[at : at + step], lines), start + at, outcome)
        else:
            outcome.objects += objects
            outcome.unknown.update((at, values) for at, values in unknown.items() if values)

    def _check_keys(self, texts: list[bytes], count: int, unknown: Mapping[int, Mapping[Path, Raw]]) -> None:
        """Check that no object of the records has a key twice.

        Args:
            count: the number of declared keys that were decoded.
            unknown: the values of undeclared keys.

        Raises:
            ValueError: an object has a key twice, or one of several may have.
        """
        others = [bytes(raw) for values in unknown.values() for raw in values.values()]
        objects = [other for other in others if other[:1] in (b"{", b"[")]
        if any(find_duplicate_key(other) for other in objects):
            raise ValueError("a key is there twice")
        if not _has_key_count(texts, others, count + len(others)) and (len(texts) > 1 or find_duplicate_key(texts[0])):
            raise ValueError("a key may be there twice")

    def _find_unknown_keys(self, texts: list[bytes], start: int) -> dict[int, dict[Path, Raw]]:
        """Return the undeclared keys of each record with their values."""
        declared = self.fields.keys()
        found: dict[int, dict[Path, Raw]] = {}
        for at, text in enumerate(texts, start=start):
            values = self.key_decoder.decode(text)
            if len(values) > len(declared) or not values.keys() <= declared:
                found[at] = {(key,): value for key, value in values.items() if key not in declared}
        return found

    def _examine(self, text: bytes, line: int | None, at: int, outcome: _Outcome) -> None:
        """Examine one record by itself."""
        if line is not None:
            _check_line(text, line)
        record, unknown = self.examination.examine(text)
        outcome.objects.append(record)
        if record is None:
            outcome.malformed[at] = text.decode()
        if unknown:
            # The keys of a malformed record count for the contract, too.
            self._note_columns([unknown])
            if record is not None:
                outcome.unknown[at] = unknown


@dataclass
class _Outcome:
    """What was decoded of a group: an object or None for each record, and by position the malformed and the unknown."""

    objects: list[Any]
    malformed: dict[int, str]
    unknown: dict[int, dict[Path, Raw]]


def _has_key_count(texts: list[bytes], others: list[bytes], count: int) -> bool:
    """Return True if records have just so many keys. Then no object has a key twice.

    Colons within texts can make it false.

    Args:
        others: values within the records whose own keys do not count.
    """
    for ends in ((b":",), _KEY_ENDS):
        total = sum(text.count(end) for end in ends for text in texts)
        if total - sum(other.count(end) for end in ends for other in others) == count:
            return True
    return False


def _check_line(text: bytes, line: int) -> None:
    """Check that a line is one record, whatever its values.

    Raises:
        RejectedFileError: it is a list, or more than one record.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.doc[: error.pos].lstrip().startswith(("{", "[")):
            raise RejectedFileError(f"has more than one record in line {line}") from error
    except ValueError:
        return
    else:
        if isinstance(value, list) and value:
            raise RejectedFileError(f"has a list in line {line} instead of one record")


def _to_texts(values: Mapping[Path, Raw] | None) -> dict[str, str]:
    """Return the text of each value by its path. Nulls are left out."""
    texts: dict[str, str] = {}
    for path, raw in (values or {}).items():
        text = bytes(raw).decode()
        if text == "null":
            continue
        name = _name_path(path)
        while name in texts:
            name += "_"
        texts[name] = msgspec.json.decode(text, type=str) if text.startswith('"') else text
    return texts


def _name_path(path: Path) -> str:
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int | MapKey) else f".{part}" if name else part
    return name
