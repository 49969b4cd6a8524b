"""Differences between the columns of a file or table and the declared ones. Without Spark."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pytest
from pyspark.errors import PySparkTypeError
from pyspark.sql.pandas.types import from_arrow_type

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.definitions.validation import find_problems
from lakehouse.deltalog.commit_record import Record
from lakehouse.landing import schema_drift
from lakehouse.plan import schema_diff

STRICT = Contract()
COLUMNS = {"id": "bigint", "name": "string", "amount": "double"}
LENIENT = Contract(new_column="add", missing_column="ignore", changed_type="rescue")


def items(contract: Contract = STRICT, columns: Mapping[str, str] = COLUMNS) -> Source:
    return source("raw.items", landing="items", columns=columns, format="parquet", contract=contract)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (COLUMNS, None),
        ({"id": "int", "name": "string", "amount": "float"}, None),
        ({**COLUMNS, "gate": "string"}, "has an unknown column gate"),
        ({**COLUMNS, "Name": "string"}, "has an unknown column Name (differs from name only in case)"),
        ({"id": "bigint", "name": "string"}, "lacks column amount"),
        ({**COLUMNS, "amount": "string"}, "has column amount as string, declared double"),
        (
            {"id": "bigint", "Name": "string", "amount": "double"},
            "lacks column name; has an unknown column Name (differs from name only in case)",
        ),
    ],
)
def test_default_contract_rejects_other_columns(columns: dict[str, str], reason: str | None) -> None:
    assert schema_drift.explain_rejection(items(), columns) == reason
    assert schema_drift.explain_rejection(items(LENIENT), columns) is None


@pytest.mark.parametrize(
    ("contract", "columns", "reason"),
    [
        (Contract(new_column="rescue"), {"id": "bigint", "name": "string", "x": "int"}, "lacks column amount"),
        (Contract(missing_column="ignore"), {"id": "bigint", "name": "string", "x": "int"}, "has an unknown column x"),
        (Contract(changed_type="rescue"), {**COLUMNS, "amount": "string", "x": "int"}, "has an unknown column x"),
    ],
)
def test_each_difference_has_its_own_policy(contract: Contract, columns: dict[str, str], reason: str) -> None:
    assert schema_drift.explain_rejection(items(contract), columns) == reason


def test_only_valid_column_names_are_added() -> None:
    columns = {
        **COLUMNS,
        "gate": "string",
        "Gate": "string",
        "Name": "string",
        "two words": "int",
        "_row": "int",
        "x`y": "int",
    }
    assert schema_drift.find_added_columns(items(LENIENT), columns) == {"gate": "string"}
    assert list(schema_drift.describe_drift(items(LENIENT), columns)) == [
        "adds gate string",
        "keeps Gate (differs from gate only in case) in _rescued",
        "keeps Name (differs from name only in case) in _rescued",
        "keeps two words in _rescued",
        "keeps _row in _rescued",
        "keeps x`y in _rescued",
    ]
    assert schema_drift.find_added_columns(items(Contract(new_column="rescue")), columns) == {}


def test_preview_names_missing_and_changed_columns() -> None:
    files = {
        "a": {"id": "bigint", "name": "string"},
        "b": {**COLUMNS, "amount": "string"},
        "c": {**COLUMNS, "gate": "int"},
        "d": {**COLUMNS, "gate": "int", "name": "void", "more": "void"},
    }
    accepted = [
        (path, schema_drift.explain_rejection(items(LENIENT), columns), columns) for path, columns in files.items()
    ]
    texts, changed = schema_drift.preview_drift(items(LENIENT), [*accepted, ("e", "is empty", None), ("f", None, None)])
    assert texts == (
        "leaves amount null, as the files lack it (1 file)",
        "reads amount (string in the files) as double, and keeps other values in _rescued (1 file)",
        "adds gate int (2 files)",
        "rejects e: is empty",
    )
    assert changed == ("amount",)
    rejected = [(path, schema_drift.explain_rejection(items(), columns), columns) for path, columns in files.items()]
    assert schema_drift.preview_drift(items(), rejected)[0] == (
        "rejects a: lacks column amount",
        "rejects b: has column amount as string, declared double",
        "rejects c: has an unknown column gate",
        "rejects d: has an unknown column gate; has an unknown column more",
    )


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ("int", "bigint", True),
        ("bigint", "int", False),
        ("int", "double", True),
        ("bigint", "double", False),
        ("float", "double", True),
        ("date", "timestamp_ntz", True),
        ("date", "timestamp", False),
        ("int", "string", False),
        ("decimal(10,2)", "decimal(12,2)", True),
        ("decimal(10,2)", "decimal(12,4)", True),
        ("decimal(10,2)", "decimal(12,5)", False),
        ("decimal(10,2)", "decimal(10,2)", False),
        ("int", "decimal(10,0)", True),
        ("int", "decimal(10,2)", False),
        ("string", "decimal(38,0)", False),
    ],
)
def test_a_wider_type_holds_every_value(old: str, new: str, wider: bool) -> None:
    assert schema_diff.can_widen(old, new) is wider


def test_columns_added_by_a_contract_are_no_change() -> None:
    existing = {**COLUMNS, "gate": "string", "_rescued": "string"}
    assert schema_diff.compare_schemas(COLUMNS, existing, items()).describe() == ("removes gate",)
    assert schema_diff.compare_schemas(COLUMNS, existing, items(LENIENT)).describe() == ()
    declared = {"id": "bigint", "amount": "string", "more": "int"}
    changes = schema_diff.compare_schemas(declared, {"id": "int", "name": "string", "amount": "double"}, items())
    assert changes.describe() == (
        "adds more int",
        "widens id from int to bigint",
        "removes name",
        "changes amount from double to string",
    )
    assert changes.affected_columns == ("name", "id", "amount")
    assert schema_diff.compare_schemas({**COLUMNS, "Gate": "string"}, existing, items(LENIENT)).describe() == (
        "adds Gate, which exists as gate",
    )


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"id": "int", "ID": "int"}, "raw.items: columns id and ID differ only in case"),
        ({"_File_id": "int"}, "raw.items: column _File_id uses a name that is reserved by the platform"),
        ({"id\n": "int"}, "raw.items: column 'id\\n' is not a plain name"),
        ({"a b": "int"}, "raw.items: column 'a b' is not a plain name"),
    ],
)
def test_ambiguous_column_names_are_refused(columns: dict[str, str], problem: str) -> None:
    assert find_problems(items(columns=columns)) == [problem]


def test_an_unknown_policy_is_refused() -> None:
    assert find_problems(items(Contract(new_column="drop"))) == [  # type: ignore[arg-type]
        "raw.items: new_column='drop' is not one of fail, rescue, add"
    ]


def test_a_record_keeps_column_changes() -> None:
    record = Record("run", 1, 1, {}, {}, "", "", "2024-01-01T00:00:00+00:00", column_changes=("adds gate string",))
    assert Record.from_json(record.to_json()) == record


SUPPORTED_TYPES = [
    pa.null(),
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.decimal32(5, 2),
    pa.decimal64(12, 0),
    pa.decimal128(38, 10),
    pa.decimal256(50, 3),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.binary(16),
    pa.large_binary(),
    pa.date32(),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "America/New_York")),
    *(pa.time64(unit) for unit in ("us", "ns")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.int8()),
    pa.list_(pa.int8(), 3),
    pa.large_list(pa.date32()),
    pa.map_(pa.string(), pa.list_(pa.float32())),
    pa.struct({}),
    pa.struct({"a b": pa.decimal128(10, 2), "c": pa.struct({"d": pa.timestamp("us"), "E": pa.null()})}),
]
UNSUPPORTED_TYPES = [
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.date64(),
    pa.time32("s"),
    pa.time32("ms"),
    pa.month_day_nano_interval(),
    pa.string_view(),
    pa.binary_view(),
    pa.list_view(pa.int8()),
    pa.large_list_view(pa.int8()),
    pa.run_end_encoded(pa.int32(), pa.string()),
    pa.dense_union([pa.field("a", pa.int8())]),
    pa.uuid(),
    pa.dictionary(pa.int32(), pa.uint8()),
    pa.list_(pa.uint8()),
    pa.map_(pa.string(), pa.uint8()),
    pa.struct({"a": pa.uint8()}),
]


@pytest.mark.parametrize("kind", SUPPORTED_TYPES, ids=str)
def test_arrow_types_have_sparks_names(kind: pa.DataType) -> None:
    assert schema_drift.to_sql_type(kind) == from_arrow_type(kind).simpleString()


@pytest.mark.parametrize("kind", UNSUPPORTED_TYPES, ids=str)
def test_arrow_types_unknown_to_spark_are_errors(kind: pa.DataType) -> None:
    with pytest.raises(PySparkTypeError):
        from_arrow_type(kind)
    with pytest.raises(TypeError, match="Spark SQL has no type for"):
        schema_drift.to_sql_type(kind)


@pytest.mark.parametrize("mark", ["variant", "geometry", "geography"])
def test_structs_with_sparks_marks_are_errors(mark: str) -> None:
    kind = pa.struct([pa.field("wkb", pa.binary(), metadata={mark: "true"}), pa.field("srid", pa.int32())])
    with pytest.raises(TypeError, match="Spark SQL has no type for"):
        schema_drift.to_sql_type(kind)
