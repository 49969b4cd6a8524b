"""Columns of a landed file, by the contract of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lakehouse.definitions.sources import Source
from lakehouse.landing import schema_drift
from lakehouse.landing.reader.rejection import RejectedFileError


def resolve_header(source: Source, header: Sequence[str]) -> dict[str, str]:
    """Return the columns of a CSV file in order, with their types.

    Args:
        header: the values of the first record.

    Raises:
        RejectedFileError: the contract rejects the columns.
    """
    labels = {label: column for column, label in source.header_names.items()}
    names = [labels.get(label, label) for label in header]
    if names == list(source.columns):
        return dict(source.columns)
    if not {*names} & {*source.columns}:
        raise RejectedFileError(f"has no header: its first line is {','.join(header)[:80]!r}")
    if duplicates := sorted({c for c in names if names.count(c) > 1}):
        raise RejectedFileError(
            f"has column {duplicates[0]} twice" if duplicates[0] else "has two columns without name"
        )
    columns = dict.fromkeys(names, "string")
    if {*columns} == {*source.columns} and not source.contract.has_rescued_column:
        raise RejectedFileError(f"has its columns in another order: {','.join(header)}")
    if "" in columns and source.contract.new_column == "fail":
        raise RejectedFileError(f"has no name for column {names.index('') + 1}")
    check_columns(source, columns)
    return columns


def check_first_record(source: Source, record: Sequence[str]) -> None:
    """Check that the first record of a CSV file without a header is no header.

    Raises:
        RejectedFileError: the record has the names of the columns.
    """
    names = [name.strip().lower() for name in record]
    headers = [[*source.columns], [source.header_names.get(column, column) for column in source.columns]]
    if any(names == [name.lower() for name in header] for header in headers):
        raise RejectedFileError(
            f"has a header, but is declared without one: its first record is {','.join(record)[:80]!r}; "
            'declare the source with the option header="true"'
        )


def check_columns(source: Source, columns: Mapping[str, str]) -> None:
    """Check the columns of a file by the contract.

    Raises:
        RejectedFileError: the contract rejects the columns.
    """
    if reason := schema_drift.explain_rejection(source, columns):
        raise RejectedFileError(reason)


def find_added_columns(
    source: Source, columns: Mapping[str, str], existing_columns: Mapping[str, str]
) -> dict[str, str]:
    """Return the undeclared columns of a file that the contract adds, with their types in the table.

    Args:
        existing_columns: columns of the table, and of earlier files of the batch, with their types.
    """
    names = {c.lower(): c for c in existing_columns}
    added = schema_drift.find_added_columns(source, columns)
    # Among names that differ only in case, the first becomes the table's column.
    return {c: existing_columns.get(c, kind) for c, kind in added.items() if names.setdefault(c.lower(), c) == c}
