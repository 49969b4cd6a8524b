"""What clients of the object store say, in words; and what they are told before they ask."""

from __future__ import annotations

import pytest

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import StorageError
from lakehouse.storage import s3
from lakehouse.storage.s3 import S3Path

SDK = "software.amazon.awssdk"


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "someone",
        "SECRET_ACCESS_KEY": "canary",
        "ENDPOINT_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (f"{SDK}.services.s3.model.S3Exception: Forbidden (Service: S3, Status Code: 403, Request ID: 1)", "are wrong or do not allow"),
        ("Generic S3 error: Client error with status 503 Service Unavailable", "overloaded or starting"),
        ("s3a://lake/t: <Error><Code>InvalidAccessKeyId</Code>", "does not know AWS_ACCESS_KEY_ID"),
        (f"getFileStatus on s3a://lake/t: {SDK}.core.exception.SdkClientException: Unable to execute HTTP request", "does not answer"),
        ("Generic S3 error: error sending request for url (http://127.0.0.1:9/lake)", "does not answer"),
        ("[FAILED_READ_FILE] reading s3a://lake/landing/flights/403.csv: bad quote", None),
        ("s3a://lake/t: the value '503' is no date", None),
        ("Failed to connect to /10.0.0.1:7337: Connection refused, reading s3a://lake/t", None),
        ("Status Code: 403 of a web page", None),
    ],
)  # fmt: skip
def test_an_error_is_the_stores_only_where_its_client_says_so(said: str, means: str | None) -> None:
    found = s3.explained(RuntimeError(said))
    assert found is None if means is None else means in str(found)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9000", "minio:9000", "ftp://127.0.0.1", "http://me:canary@127.0.0.1:9000"]
)
def test_half_an_address_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for ask in (s3.client, lambda: open_log(S3Path("lake", "t"))):
        with pytest.raises(
            StorageError, match=r"AWS_ENDPOINT_URL=.* is no address: it begins with http:// or https://"
        ) as raised:
            ask()
        assert "canary" not in str(raised.value)


def test_no_reader_looks_elsewhere_for_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for ask in (s3.client, lambda: open_log(S3Path("lake", "t"))):
        with pytest.raises(StorageError, match="no credentials for the object store at http://127.0.0.1:9"):
            ask()
