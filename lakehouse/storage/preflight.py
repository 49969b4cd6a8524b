"""The object store is tried before it is trusted with a lake: does it keep two writers from making the same commit?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from botocore.exceptions import ClientError

from lakehouse.errors import StorageError
from lakehouse.storage.s3 import S3Path, told

WRITERS = 4
_REFUSED = (412, 409)  # the object is there; another write is under way
_SAFE = (
    "Amazon S3, MinIO (tested: of February 2026) and SeaweedFS (tested: 4.30 to 4.48; 4.16 lets several writers win)"
)


def require_conditional_put(client: Any, bucket: str, prefix: str) -> None:
    """Prove that of several PUTs of one new object at once, each with If-None-Match, exactly one is carried out.

    Tried at once, and not one after the other: there are stores that look first and write later.

    Raises:
        StorageError: the store let more than one, or none, win; or it cannot be written.
    """
    key = f"{prefix.strip('/')}/_probe-{uuid4().hex}".lstrip("/")
    place = f"The S3 store at {client.meta.endpoint_url}, bucket {bucket},"
    with told(S3Path(bucket, key)):
        try:
            with ThreadPoolExecutor(WRITERS) as writers:
                statuses = list(writers.map(lambda _: _put_if_absent(client, bucket, key), range(WRITERS)))
            won = sum(status not in _REFUSED for status in statuses)
            # The one whose answer was lost is asked again by the client, and refused.
            honest = won == 1 or (won == 0 and _is_there(client, bucket, key))
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    if not honest:
        raise StorageError(
            f"{place} does not honour If-None-Match: of {WRITERS} writers of one new object one must be let through and the "
            f"others be refused with 412; it answered {', '.join(map(str, statuses))}. Two runs at once would lose commits. "
            f"Use a store that honours it; known to: {_SAFE}."
        )


def _is_there(client: Any, bucket: str, key: str) -> bool:
    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def _put_if_absent(client: Any, bucket: str, key: str) -> int:
    """The status of the answer: an object that is there is no error."""
    try:
        answer = client.put_object(Bucket=bucket, Key=key, Body=b"probe", IfNoneMatch="*")
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in _REFUSED:
            return int(status)
        raise
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])
