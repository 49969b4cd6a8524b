"""What the API takes and gives: types made from the columns of the feature table, checked by pydantic."""

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
from serving.api.problems import Fault, RequestError

MAX_ROWS: Final = 1000
EITHER_MESSAGE: Final = "Give either `features` or `keys`."
# By the names that Spark SQL has for them.
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

Request = dict[str, list[dict[str, Any]]]
Row = tuple[Any, ...]
Key = tuple[Any, ...]


class Prediction(BaseModel):
    """One row's answer. ``unknown`` names the texts that the model has learned nothing of, which it takes for missing."""

    probability: float = Field(ge=0, le=1)
    model_version: int
    alias: str
    unknown: list[str]
    feature_version: int | None = Field(description="The version of the feature table that was read; null by features.")


class Answer(BaseModel):
    """The rows' answers, in their order."""

    request_id: str
    predictions: list[Prediction]


class Version(BaseModel):
    """A version of the model in service, the features that it reads, and of each a value that is typical."""

    alias: str
    version: int
    run_id: str
    module: str
    input_columns: list[str]
    typical: dict[str, Any]
    since: datetime


class ModelInfo(BaseModel):
    """What is in service, and from where features are looked up; ``canary`` is the challenger's share of the requests."""

    task: str
    serving: list[Version]
    canary: float
    feature_table: str
    feature_version: int
    key: list[str]
    time: str


class Health(BaseModel):
    status: str


def build_request_type(task: Task, columns: Mapping[str, str], input_columns: Collection[str]) -> TypeAdapter[Request]:
    """The type of a request: rows by their ``features``, or by their ``keys``.

    A row by features may hold any column of the table but the label, and must hold those that are read (null is unknown), so that
    who sends whole rows is not broken by a model that reads others. A row by key must hold the key, and may hold the time, which
    saves looking for it. ``columns`` are the table's, with Spark SQL's names of their types.

    Raises:
        ModelError: a column that is read, or of the key, is of a type that cannot be sent.
    """
    sent = {name: _feature(kind) for name, kind in columns.items() if name != task.label_column}
    of_key = {name: _whole(columns[name]) or _KEYS.get(columns[name]) for name in (*task.key, task.time_column)}
    if wrong := [name for name in input_columns if sent.get(name) is None] + [n for n in of_key if of_key[n] is None]:
        kinds = ", ".join(f"{name} ({columns.get(name)})" for name in dict.fromkeys(wrong))
        raise ModelError(f"{task.name} cannot be served: no JSON stands for {kinds} of {task.feature_table}.")
    row = {
        name: kind | None if name in input_columns else NotRequired[kind | None] for name, kind in sent.items() if kind
    }
    key = {name: kind if name in task.key else NotRequired[kind] for name, kind in of_key.items()}
    # The first row with faults ends it: to find those of a thousand rows would keep all other requests waiting.
    several = Field(min_length=1, max_length=MAX_ROWS, fail_fast=True)
    rows = {
        "features": NotRequired[Annotated[list[_dict("Features", row)], several]],  # type: ignore[misc]
        "keys": NotRequired[Annotated[list[_dict("Key", key)], several]],  # type: ignore[misc]
    }
    return TypeAdapter(_dict("Request", rows, {"minProperties": 1, "maxProperties": 1}))


def check_widths(body: bytes, columns: int) -> None:
    """Let nothing pass that has more names than there can be: to list each as unknown would keep all other requests waiting.

    Raises:
        Refused: a row has more than the table's ``columns``, or there is more than rows of one kind.
    """
    try:
        sent = from_json(body)
    except ValueError:
        return  # what is wrong is said when it is read by its type
    if not isinstance(sent, dict):
        return
    if len(sent) > 1:
        raise RequestError(422, EITHER_MESSAGE)
    for kind, rows in sent.items():
        for place, row in enumerate(rows if isinstance(rows, list) else ()):
            if isinstance(row, dict) and len(row) > columns:
                said = f"There are {len(row)} columns, and the table has {columns}."
                raise RequestError(
                    422, "The request has 1 fault.", [Fault(location=f"{kind}.{place}"[:200], message=said)]
                )


def _dict(name: str, fields: Mapping[str, Any], more: dict[str, Any] | None = None) -> Any:
    """A dictionary with these keys and no others."""
    config = ConfigDict(extra="forbid", json_schema_extra=more)
    return with_config(config)(TypedDict(name, dict(fields)))  # type: ignore[operator]


def _feature(kind: str) -> Any:
    return _whole(kind) or (_NUMBER if kind.startswith("decimal") else _FEATURES.get(kind))


def _whole(kind: str) -> Any:
    """A whole number; 3.0 is one, as JSON has it."""
    if kind not in _BITS:
        return None
    most = 2 ** (_BITS[kind] - 1)
    return Annotated[int, Field(ge=-most, le=most - 1), BeforeValidator(_number)]


def _number(value: Any) -> Any:
    if type(value) in (int, float):  # True is an int, too, and pydantic would take digits in a text for a number
        return value
    raise PydanticCustomError("number", "Input should be a valid number")
