"""Schemas of requests and responses. Pydantic validates requests against the feature table's columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Annotated, Any, Final, NotRequired

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NaiveDatetime,
    TypeAdapter,
    with_config,
)
from pydantic_core import PydanticCustomError, from_json
from typing_extensions import TypedDict

from lakehouse.errors import ModelError
from lakehouse.ml.task import Task
from lakehouse.serving.api.problems import Fault, RequestError

MAX_ROWS: Final = 1000
EITHER_MESSAGE: Final = "Give either `features` or `keys`."
# Bits of the integer types, by their names in Spark SQL.
_BITS = {"tinyint": 8, "smallint": 16, "int": 32, "bigint": 64}
_NUMBER = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_TEXT, _FLAG = Annotated[str, Field(strict=True)], Annotated[bool, Field(strict=True)]
_MOMENTS: Mapping[str, Any] = {
    "date": Annotated[date, Field(strict=True)],
    "timestamp": Annotated[AwareDatetime, Field(strict=True)],
    "timestamp_ntz": Annotated[NaiveDatetime, Field(strict=True)],
}
_FEATURES: Mapping[str, Any] = {"string": _TEXT, "boolean": _FLAG, "float": _NUMBER, "double": _NUMBER, **_MOMENTS}
_KEYS: Mapping[str, Any] = {"string": _TEXT, "boolean": _FLAG, **_MOMENTS}

PredictionRequest = dict[str, list[dict[str, Any]]]
Row = tuple[Any, ...]
Key = tuple[Any, ...]


class Prediction(BaseModel):
    """Prediction of one row.

    ``unknown`` lists the columns with a value that is not in the training data. The model treats it as missing.
    """

    probability: float = Field(ge=0, le=1)
    model_version: int
    alias: str
    unknown: list[str]
    feature_version: int | None = Field(description="The version of the feature table; null for rows by features.")


class Answer(BaseModel):
    """Predictions, in the order of the request's rows."""

    request_id: str
    predictions: list[Prediction]


class Version(BaseModel):
    """Version of the model in service, with its input columns and their typical values."""

    alias: str
    version: int
    run_id: str
    module: str
    input_columns: list[str]
    typical: dict[str, Any]
    since: datetime


class ModelInfo(BaseModel):
    """Versions in service and the feature table for lookups.

    ``canary`` is the challenger's share of the requests.
    """

    task: str
    serving: list[Version]
    canary: float
    feature_table: str
    feature_version: int
    key: list[str]
    time: str


class Health(BaseModel):
    status: str


def build_request_type(
    task: Task, columns: Mapping[str, str], input_columns: Collection[str]
) -> TypeAdapter[PredictionRequest]:
    """Build the type of a request: rows by their ``features``, or by their ``keys``.

    A row by features must contain the input columns; null means unknown. It may contain any other column except the
    label, so callers that send whole rows need no change for a model with other inputs. A row by key must contain the
    key. It may contain the time, which makes the lookup faster.

    Args:
        columns: The table's columns, with Spark SQL's names of their types.

    Raises:
        ModelError: An input column or a key column has a type without a JSON form.
    """
    feature_types = {
        name: _get_feature_type(type_name) for name, type_name in columns.items() if name != task.label_column
    }
    key_columns = (*task.key, task.time_column)
    key_types = {name: _get_integer_type(columns[name]) or _KEYS.get(columns[name]) for name in key_columns}
    unsupported = [name for name in input_columns if feature_types.get(name) is None]
    unsupported += [name for name, key_type in key_types.items() if key_type is None]
    if unsupported:
        names = ", ".join(f"{name} ({columns.get(name)})" for name in dict.fromkeys(unsupported))
        raise ModelError(
            f"{task.name} cannot be served: {task.feature_table} has columns without a JSON form: {names}."
        )
    row = {
        name: feature_type | None if name in input_columns else NotRequired[feature_type | None]
        for name, feature_type in feature_types.items()
        if feature_type
    }
    key = {name: key_type if name in task.key else NotRequired[key_type] for name, key_type in key_types.items()}
    # Validation ends at the first row with faults: to validate a thousand faulty rows would block all other requests.
    row_list = Field(min_length=1, max_length=MAX_ROWS, fail_fast=True)
    rows = {
        "features": NotRequired[Annotated[list[_make_typed_dict("Features", row)], row_list]],  # type: ignore[misc]
        "keys": NotRequired[Annotated[list[_make_typed_dict("Key", key)], row_list]],  # type: ignore[misc]
    }
    return TypeAdapter(_make_typed_dict("Request", rows, {"minProperties": 1, "maxProperties": 1}))


def check_widths(body: bytes, columns: int) -> None:
    """Check that no row has more names than the table has columns.

    Without this check, a list of thousands of unknown names would block all other requests.

    Args:
        columns: The number of the table's columns.

    Raises:
        RequestError: A row has too many names, or the body has several fields.
    """
    try:
        content = from_json(body)
    except ValueError:
        return  # validation reports the fault
    if not isinstance(content, dict):
        return
    if len(content) > 1:
        raise RequestError(422, EITHER_MESSAGE)
    for field, rows in content.items():
        for position, row in enumerate(rows if isinstance(rows, list) else ()):
            if isinstance(row, dict) and len(row) > columns:
                message = f"There are {len(row)} columns, and the table has {columns}."
                fault = Fault(location=f"{field}.{position}"[:200], message=message)
                raise RequestError(422, "The request has 1 fault.", [fault])


def _make_typed_dict(name: str, fields: Mapping[str, Any], schema_extra: dict[str, Any] | None = None) -> Any:
    """Return the type of a dictionary with these keys and no others."""
    config = ConfigDict(extra="forbid", json_schema_extra=schema_extra)
    return with_config(config)(TypedDict(name, dict(fields)))  # type: ignore[operator]


def _get_feature_type(type_name: str) -> Any:
    return _get_integer_type(type_name) or (_NUMBER if type_name.startswith("decimal") else _FEATURES.get(type_name))


def _get_integer_type(type_name: str) -> Any:
    """Return the type of an integer column; None for other columns. JSON's 3.0 is an integer, too."""
    if type_name not in _BITS:
        return None
    limit = 2 ** (_BITS[type_name] - 1)
    return Annotated[int, Field(ge=-limit, le=limit - 1), BeforeValidator(_check_number)]


def _check_number(value: Any) -> Any:
    if type(value) in (int, float):  # True is an int in Python, and pydantic accepts digits in a text
        return value
    raise PydanticCustomError("number", "Input should be a valid number")
