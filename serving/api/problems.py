"""What is said where there is no answer: in words, with the request's id, and nothing of the inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.responses import Response

# Of the faults of one request.
MAX_FAULTS = 20
# For a refusal before the request was read: what else comes of it would be read until it ends.
CLOSE_CONNECTION = {"Connection": "close"}


class Fault(BaseModel):
    """One thing that is wrong with a request: where, such as keys.0.origin, and what."""

    location: str
    message: str


class Problem(BaseModel):
    """Why there is no answer."""

    request_id: str
    detail: str
    faults: list[Fault] = []


class RequestError(Exception):
    """A request that gets no answer, with the status and the words that its caller may see."""

    def __init__(
        self, status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults, self.headers = status, detail, faults, headers

    def response(self, request_id: str) -> Response:
        said: dict[str, Any] = {"request_id": request_id, "detail": self.detail}
        said["faults"] = [fault.model_dump() for fault in self.faults]
        return Response(to_json(said), self.status, self.headers, "application/json")


def to_request_error(error: ValidationError) -> RequestError:
    """A request that is not as it must be: the first of its faults, without the values that it came with."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [
        Fault(location=".".join(map(str, one["loc"]))[:200] or "body", message=one["msg"]) for one in found[:MAX_FAULTS]
    ]
    more = f"; the first {MAX_FAULTS} are listed" if len(found) > MAX_FAULTS else ""
    return RequestError(422, f"The request has {len(found)} fault{'s' if len(found) > 1 else ''}{more}.", faults)
