"""Error responses: a message and the request's id, without internals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.responses import Response

# A response lists at most this many faults.
MAX_FAULTS = 20
# For a refusal before the body was read: an open connection would read the rest of the body.
CLOSE_CONNECTION = {"Connection": "close"}


class Fault(BaseModel):
    """One fault of a request and its location, such as keys.0.origin."""

    location: str
    message: str


class Problem(BaseModel):
    """Body of an error response."""

    request_id: str
    detail: str
    faults: list[Fault] = []


class RequestError(Exception):
    """Request without a prediction, with the status and the message for its caller."""

    def __init__(
        self, status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults, self.headers = status, detail, faults, headers

    def to_response(self, request_id: str) -> Response:
        """Return the error as a response."""
        content: dict[str, Any] = {"request_id": request_id, "detail": self.detail}
        content["faults"] = [fault.model_dump() for fault in self.faults]
        return Response(to_json(content), self.status, self.headers, "application/json")


def to_request_error(error: ValidationError) -> RequestError:
    """Convert a validation error to its first faults, without the values from the request."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [
        Fault(location=".".join(map(str, detail["loc"]))[:200] or "body", message=detail["msg"])
        for detail in details[:MAX_FAULTS]
    ]
    more = f"; the first {MAX_FAULTS} are listed" if len(details) > MAX_FAULTS else ""
    return RequestError(422, f"The request has {len(details)} fault{'s' if len(details) > 1 else ''}{more}.", faults)
