"""Test an object store before a lake trusts it: conditional writes must keep two runs from making the same commit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from lakehouse.errors import StorageError
from lakehouse.storage.s3 import S3Path, translate_errors

WRITERS = 4
_REFUSAL_STATUSES = (412, 409)  # the object exists; another write is in progress
_TESTED_STORES = (
    "Amazon S3, MinIO (tested: of February 2026) and SeaweedFS (tested: 4.30 to 4.48; 4.16 lets several writers win)"
)


def require_conditional_put(client: Any, bucket: str, prefix: str) -> None:
    """Prove that exactly one of several concurrent PUTs with If-None-Match creates a new object.

    The PUTs run at the same time, as some stores check first and write later.

    Raises:
        StorageError: more than one PUT succeeded, or none; or the bucket cannot be written.
    """
    key = f"{prefix.strip('/')}/_probe-{uuid4().hex}".lstrip("/")
    with translate_errors(S3Path(bucket, key)):
        try:
            with ThreadPoolExecutor(WRITERS) as writers:
                statuses = list(writers.map(lambda _: _put_if_absent(client, bucket, key), range(WRITERS)))
            created = sum(status not in _REFUSAL_STATUSES for status in statuses)
            # If the answer to the successful PUT was lost, the client repeats it and is refused.
            is_atomic = created == 1 or (created == 0 and _has_file(client, bucket, key))
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    if not is_atomic:
        raise StorageError(
            f"The S3 store at {client.meta.endpoint_url}, bucket {bucket}, does not honour If-None-Match: "
            f"to {WRITERS} concurrent writers of one new object it answered {', '.join(map(str, statuses))}, "
            "so that concurrent runs would lose commits. "
            f"Use a store that lets one writer succeed and refuses the others with 412: {_TESTED_STORES}."
        )


def _has_file(client: Any, bucket: str, key: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def _put_if_absent(client: Any, bucket: str, key: str) -> int:
    """Return the status of a conditional PUT; a refusal is no error."""
    from botocore.exceptions import ClientError

    try:
        response = client.put_object(Bucket=bucket, Key=key, Body=b"probe", IfNoneMatch="*")
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in _REFUSAL_STATUSES:
            return int(status)
        raise
    return int(response["ResponseMetadata"]["HTTPStatusCode"])
