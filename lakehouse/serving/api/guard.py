"""Guard around the application: request ids, the key, the time limit, metrics and the log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import uuid
from itertools import chain
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakehouse.serving.api import metrics
from lakehouse.serving.api.problems import CLOSE_CONNECTION, RequestError

logger = logging.getLogger(__name__)
REQUEST_ID: Final = "X-Request-ID"
# The path, its query and all headers together.
HEADER_BYTES: Final = 16_384
# Probes of the process need no key.
PUBLIC_PATHS: Final = ("/health", "/ready")
_PATHS = (*PUBLIC_PATHS, "/predict", "/model", "/metrics", "/openapi.json")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_CLOSED_REQUEST = 499  # nginx's status for a caller that closed the connection


class Guard:
    """ASGI middleware that checks, limits, counts and logs every request.

    Args:
        key: The key that callers must send.
        seconds: Time limit of a request.
    """

    def __init__(self, app: ASGIApp, key: str, seconds: float) -> None:
        self._app, self._key, self._seconds = app, key.encode(), seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path, start = Headers(scope=scope), scope["path"], time.perf_counter()
        caller_id = headers.get(REQUEST_ID, "")
        request_id = caller_id if _ID.fullmatch(caller_id) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            async with asyncio.timeout(self._seconds):
                self._check(scope, headers)
                await self._app(scope, receive, answer)
        except ClientDisconnect:
            status = _CLIENT_CLOSED_REQUEST
        except Exception as error:
            if status:  # the response has started and cannot be replaced
                raise
            await _to_request_error(error, request_id, self._seconds).to_response(request_id)(scope, receive, answer)
        finally:
            seconds, label = time.perf_counter() - start, path if path in _PATHS else "other"
            metrics.REQUESTS.labels(label, status).inc()
            metrics.LATENCY.labels(label).observe(seconds)
            summary = scope["state"].get("summary", "")
            logger.info("%s %s %s %d %.1f ms %s", request_id, scope["method"], label, status, seconds * 1e3, summary)

    def _check(self, scope: Scope, headers: Headers) -> None:
        # The server counts headers that arrive in parts.
        if sum(map(len, (scope["raw_path"], scope["query_string"], *chain(*headers.raw)))) > HEADER_BYTES:
            raise RequestError(431, f"The headers may have {HEADER_BYTES:,} bytes.", headers=CLOSE_CONNECTION)
        if scope["path"] not in PUBLIC_PATHS and not self._is_authorized(headers):
            raise RequestError(
                401,
                "The key is missing or wrong. Send the header Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer", **CLOSE_CONNECTION},
            )

    def _is_authorized(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        is_equal = secrets.compare_digest(key.encode("latin-1"), self._key)
        return is_equal and scheme.lower() == "bearer"


def _to_request_error(error: Exception, request_id: str, seconds: float) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TimeoutError):
        return RequestError(504, f"There was no answer within {seconds:g} seconds.")
    logger.error("%s failed", request_id, exc_info=error)
    return RequestError(500, "Internal error. The server's log has the details under this request's id.")


def get_request_id(request: Request) -> str:
    return str(request.state.request_id)
