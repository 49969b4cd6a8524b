"""Errors of the store's clients, and the checks of the environment before any client starts."""

from __future__ import annotations

import pytest

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import StorageError
from lakehouse.storage import s3
from lakehouse.storage.s3 import S3Path

SDK = "software.amazon.awssdk"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "someone",
        "SECRET_ACCESS_KEY": "canary",
        "ENDPOINT_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{SDK}.services.s3.model.S3Exception: Forbidden (Service: S3, Status Code: 403, Request ID: 1)",
            "is wrong or lacks permission",
        ),
        ("Generic S3 error: Client error with status 503 Service Unavailable", "overloaded or still starting"),
        ("s3a://lake/t: <Error><Code>InvalidAccessKeyId</Code>", "AWS_ACCESS_KEY_ID is unknown"),
        (
            f"getFileStatus on s3a://lake/t: {SDK}.core.exception.SdkClientException: Unable to execute HTTP request",
            "does not answer",
        ),
        ("Generic S3 error: error sending request for url (http://127.0.0.1:9/lake)", "does not answer"),
        ("[FAILED_READ_FILE] reading s3a://lake/landing/flights/403.csv: bad quote", None),
        ("s3a://lake/t: the value '503' is no date", None),
        ("Failed to connect to /10.0.0.1:7337: Connection refused, reading s3a://lake/t", None),
        ("Status Code: 403 of a web page", None),
    ],
)
def test_only_errors_of_a_stores_client_are_explained(text: str, expected: str | None) -> None:
    explanation = s3.explain_error(RuntimeError(text))
    assert explanation is None if expected is None else expected in str(explanation)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9000", "minio:9000", "ftp://127.0.0.1", "http://me:canary@127.0.0.1:9000"]
)
def test_an_incomplete_address_is_rejected_before_any_request(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for start in (s3.get_client, lambda: open_log(S3Path("lake", "t"))):
        with pytest.raises(
            StorageError, match=r"AWS_ENDPOINT_URL=.* is not an address. It must begin with http:// or https://"
        ) as raised:
            start()
        assert "canary" not in str(raised.value)


def test_no_client_looks_elsewhere_for_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for start in (s3.get_client, lambda: open_log(S3Path("lake", "t"))):
        with pytest.raises(
            StorageError, match=r"the object store at http://127.0.0.1:9 \(AWS_ENDPOINT_URL\): no credentials"
        ):
            start()
