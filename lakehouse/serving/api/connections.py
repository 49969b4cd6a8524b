"""Limits of connections: their number, and the time in which a request must arrive and an answer be read."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from lakehouse.serving.api import metrics
from lakehouse.serving.api.guard import HEADER_BYTES, REQUEST_ID
from lakehouse.serving.api.problems import CLOSE_CONNECTION, RequestError

# Each connection is an open file. Systems allow 1,024 of them to a process, and the lake and the registry need some.
MAX_CONNECTIONS: Final = 500
# From the opening of the connection, or from the answer before.
HEADER_SECONDS: Final = 10.0
# A connection without any byte of a next request is closed earlier.
IDLE_SECONDS: Final = 5
# Time in which a caller must read the answer.
READ_SECONDS: Final = 10.0
# After a signal to end, open requests are answered within this time.
GRACE_SECONDS: Final = 15


def build_server(app: ASGIApp) -> uvicorn.Server:
    """Build the server of an application, with the limits of this module."""
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        # The API has no WebSocket, and the guard checks HTTP only.
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    return uvicorn.Server(config)


class LimitedProtocol(H11Protocol):
    """Protocol that ends a connection with a slow caller, and limits the number of connections.

    uvicorn itself waits without end for the rest of the headers, for the rest of a body that the application does not
    read, and for a caller that does not read its answer.
    """

    _request_deadline: asyncio.TimerHandle
    _read_deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # The protocol then learns of every byte that the caller does not read at once.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:  # else the next request has already arrived
            self._request_deadline.cancel()
            self._await_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._read_deadline.cancel()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, or one with too large headers, in the shape of every other problem."""
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            self._refuse(431, f"The headers may have {HEADER_BYTES:,} bytes.")
        else:
            self._refuse(400, msg)

    @property
    def _is_waiting(self) -> bool:
        """Return whether the application has no request of this connection."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def _await_request(self) -> None:
        self._request_deadline = self.loop.call_later(HEADER_SECONDS, self._end_waiting)

    def _end_waiting(self) -> None:
        if not self._is_waiting:
            return  # the answer to the request sets the next deadline
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"The headers did not come within {HEADER_SECONDS:g} seconds.")
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its request; refuse this one if all others have theirs."""
        waiting = [other for other in self.connections if isinstance(other, LimitedProtocol) and other._is_waiting]
        longest = min(waiting, key=lambda other: other._request_deadline.when())
        self.connections.discard(longest)
        if longest is self:
            self._refuse(503, "All connections are in use. Try again later.", {"Retry-After": "1"})
        else:
            longest.transport.abort()

    def _refuse(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Answer without the application, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.flow.write_paused:
            self.transport.abort()  # an earlier answer is not complete
            return
        request_id = uuid.uuid4().hex
        problem = RequestError(status, detail, headers={REQUEST_ID: request_id, **CLOSE_CONNECTION, **(headers or {})})
        response = problem.to_response(request_id)
        head = h11.Response(status_code=status, headers=response.raw_headers)
        events = (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
        metrics.REQUESTS.labels("other", status).inc()
