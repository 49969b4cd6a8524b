"""The test of an object store before a lake trusts it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from lakehouse.errors import StorageError
from lakehouse.storage.preflight import WRITERS, require_conditional_put
from tests.s3 import make_client, new_keys

PROBE = {"Bucket": "lake", "Key": ANY, "Body": ANY, "IfNoneMatch": "*"}


@pytest.fixture
def stubbed() -> Iterator[tuple[Any, Stubber]]:
    s3 = make_client("http://store.example:9000", new_keys())
    with Stubber(s3) as stubber:
        yield s3, stubber


def refused(stubber: Stubber, status: int, times: int) -> None:
    for _ in range(times):
        stubber.add_client_error("put_object", "Refused", "No", http_status_code=status, expected_params=PROBE)


def test_one_winner_passes_and_the_probe_is_removed(stubbed: tuple[Any, Stubber]) -> None:
    s3, stubber = stubbed
    refused(stubber, 412, WRITERS - 2)
    stubber.add_response("put_object", {"ResponseMetadata": {"HTTPStatusCode": 200}}, PROBE)
    refused(stubber, 409, 1)
    stubber.add_response("delete_object", {}, {"Bucket": "lake", "Key": ANY})
    require_conditional_put(s3, "lake", "tables/")
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize(("wins", "answers"), [(WRITERS, "200, 200, 200, 200"), (2, "412"), (0, "412, 412, 412, 412")])
def test_a_store_without_exactly_one_winner_is_rejected(stubbed: tuple[Any, Stubber], wins: int, answers: str) -> None:
    s3, stubber = stubbed
    for _ in range(wins):
        stubber.add_response("put_object", {"ResponseMetadata": {"HTTPStatusCode": 200}}, PROBE)
    refused(stubber, 412, WRITERS - wins)
    if not wins:
        stubber.add_client_error("head_object", "404", http_status_code=404)
    stubber.add_response("delete_object", {}, {"Bucket": "lake", "Key": ANY})
    with pytest.raises(StorageError) as raised:
        require_conditional_put(s3, "lake", "")
    message = str(raised.value)
    assert all(
        part in message for part in ("http://store.example:9000", "bucket lake", answers, "Use a store", "MinIO")
    )
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize("status", [403, 404, 501])
def test_a_store_that_refuses_writes_is_named(stubbed: tuple[Any, Stubber], status: int) -> None:
    s3, stubber = stubbed
    refused(stubber, status, WRITERS)
    stubber.add_response("delete_object", {}, {"Bucket": "lake", "Key": ANY})
    with pytest.raises(StorageError, match=r"s3://lake/_probe-.* refuses: .*PutObject"):
        require_conditional_put(s3, "lake", "")


def test_a_store_that_does_not_answer_is_named() -> None:
    with pytest.raises(StorageError, match=r"does not answer \(Could not connect"):
        require_conditional_put(make_client("http://127.0.0.1:9", new_keys()), "lake", "")


@pytest.mark.parametrize("checks_first", [False, True])
def test_a_server_that_ignores_the_condition_is_rejected(checks_first: bool) -> None:
    objects: set[str] = set()

    class Careless(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            exists = checks_first and self.path in objects
            time.sleep(0.2)  # another writer checks between this one's check and its write
            objects.add(self.path)
            self.answer(412 if exists else 200)

        def do_DELETE(self) -> None:
            self.answer(204)

        def answer(self, status: int) -> None:
            self.send_response_only(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Careless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StorageError, match="it answered 200, 200, 200, 200"):
            require_conditional_put(make_client(f"http://127.0.0.1:{server.server_port}", new_keys()), "lake", "tables")
        server.shutdown()
    assert [path.rpartition("-")[0] for path in objects] == ["/lake/tables/_probe"]


def test_a_winner_whose_answer_was_lost_passes(stubbed: tuple[Any, Stubber]) -> None:
    s3, stubber = stubbed
    refused(stubber, 412, WRITERS)  # one was repeated and refused because of its own first attempt
    stubber.add_response("head_object", {"ContentLength": 5})
    stubber.add_response("delete_object", {}, {"Bucket": "lake", "Key": ANY})
    require_conditional_put(s3, "lake", "")
    stubber.assert_no_pending_responses()
