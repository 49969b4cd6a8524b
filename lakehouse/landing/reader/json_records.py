"""Records of a JSON file, typed strictly and exactly.

The columns of a group of records are built at once. If a value is wrong, the group is split until its record is alone.
A record that is in doubt is examined value by value.
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
from lakehouse.landing.reader.json_values import (
    Examination,
    MapKey,
    Path,
    find_unknown_keys,
    has_struct,
    has_typed_keys,
)
from lakehouse.landing.reader.rejection import RejectedFileError

_PIECES = 16
_GROUP_RECORDS = 1 << 14
# What precedes the colon after a key.
_KEY_ENDS = (b'":', b" :", b"\t:", b"\n:", b"\r:")
# pyarrow.ArrowInvalid is a ValueError.
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


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
        self.has_structs = any(map(has_struct, self.fields.values()))
        # Two texts can be one key, such as 0 and -0.
        self.has_typed_keys = any(map(has_typed_keys, self.fields.values()))
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
        self._decode(group, outcome)
        count = len(group.texts)
        rows = pa.array(np.arange(self.record_count + 1, self.record_count + count + 1))
        self.record_count += count
        arrays = outcome.arrays or ArrayBuilder().build_struct(outcome.objects, self.fields)
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

    def _decode(self, group: Texts, outcome: _Outcome) -> None:
        """Decode records, and add the results to the outcome. Examine those that fail."""
        failed: set[int] = set()
        texts = iter(group.texts)
        while len(outcome.objects) < len(group.texts):
            try:  # The objects before an error stay in the list.
                outcome.objects.extend(map(self.decoder.decode, texts))
            except _DECODE_ERRORS:
                failed.add(len(outcome.objects))
                self._examine(group, len(outcome.objects), outcome)
        good = [at for at in range(len(group.texts)) if at not in failed]
        for at in self._find_doubtful(group.texts, good, outcome):
            self._examine(group, at, outcome)

    def _find_doubtful(self, texts: list[bytes], decoded: list[int], outcome: _Outcome) -> list[int]:
        """Return the decoded records of which a value may be wrong, or a key may be there twice.

        The undeclared keys of the others are added to the outcome.
        """
        try:
            builder = ArrayBuilder()
            arrays = builder.build_struct([outcome.objects[at] for at in decoded], self.fields)
        except _DECODE_ERRORS:
            if len(decoded) == 1:
                return decoded
            step = -(-len(decoded) // _PIECES)
            pieces = (decoded[start : start + step] for start in range(0, len(decoded), step))
            return [at for piece in pieces for at in self._find_doubtful(texts, piece, outcome)]
        if len(decoded) == len(texts):
            outcome.arrays = arrays
        if _has_key_count([texts[at] for at in decoded], [], builder.key_count):
            return []  # Every key is declared, and none is there twice.
        unknown = {at: self._find_unknown_keys(texts[at]) for at in decoded} if self.is_open else {}
        others = {at: [bytes(raw) for raw in values.values()] for at, values in unknown.items()}
        raws = [raw for values in others.values() for raw in values]
        doubtful: set[int] = set()
        if not _has_key_count([texts[at] for at in decoded], raws, builder.key_count + len(raws)):
            doubtful.update(at for at in decoded if self.has_typed_keys or find_duplicate_key(texts[at]))
        else:  # The values of undeclared keys were not counted.
            objects = {at: [raw for raw in raws if raw[:1] in (b"{", b"[")] for at, raws in others.items()}
            doubtful.update(at for at, raws in objects.items() if any(map(find_duplicate_key, raws)))
        outcome.unknown.update((at, values) for at, values in unknown.items() if values and at not in doubtful)
        return sorted(doubtful)

    def _find_unknown_keys(self, text: bytes) -> dict[Path, Raw]:
        """Return the undeclared keys of a good record with their values by path."""
        values = self.key_decoder.decode(text)
        if self.has_structs or not values.keys() <= self.fields.keys():
            return find_unknown_keys(values, self.fields)
        return {}

    def _examine(self, group: Texts, at: int, outcome: _Outcome) -> None:
        """Examine one record by itself, and set or replace its result."""
        text = group.texts[at]
        if group.lines:
            _check_line(text, group.lines[at])
        record, unknown = self.examination.examine(text)
        outcome.objects[at : at + 1] = [record]
        outcome.arrays = None
        if record is None:
            outcome.malformed[at] = text.decode()
        if unknown:
            # The keys of a malformed record count for the contract, too.
            self._note_columns([unknown])
            if record is not None:
                outcome.unknown[at] = unknown


@dataclass
class _Outcome:
    """The decoded values of a group: an object or None for each record; by position, the malformed and unknown ones.

    Attributes:
        arrays: the columns of the objects, if they were built at once.
    """

    objects: list[Any]
    malformed: dict[int, str]
    unknown: dict[int, dict[Path, Raw]]
    arrays: list[pa.Array] | None = None


def _has_key_count(texts: list[bytes], others: list[bytes], count: int) -> bool:
    """Return True if records have just so many keys. Then no object has a key twice.

    Colons within texts can make it false.

    Args:
        others: values within the records whose own keys do not count.
    """
    text, other = b"\n".join(texts), b"\n".join(others)
    counts = (sum(text.count(end) - other.count(end) for end in ends) for ends in ((b":",), _KEY_ENDS))
    return count in counts


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
    except (ValueError, RecursionError):
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
