"""Paths and errors of S3 buckets. `S3Path` has the methods of pathlib.Path that the lakehouse uses.

The client is boto3's. It reads its endpoint, region and credentials from the environment (AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and nowhere else.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from uuid import uuid4

from lakehouse.errors import StorageError, get_first_line, redact_password

CONNECT_SECONDS, READ_SECONDS, MAX_ATTEMPTS = 5, 15, 3
_WRITER = "lakehouse-writer"
_MISSING_CODES = ("404", "NoSuchKey", "NotFound")
_CONFLICT_CODES = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_DISK_FULL = "its disk is full. Free space, then run again."
_REFUSALS = {
    "NoSuchBucket": "the bucket does not exist. Create it or correct `root`.",
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID is unknown to it, or was temporary and has expired. Correct it.",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID. Correct it.",
    "ExpiredToken": "the credentials have expired. "
    "Set new values of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
    "InvalidTokenId": "AWS_SESSION_TOKEN does not belong to AWS_ACCESS_KEY_ID, or has expired. Correct it.",
    "AccessDenied": "AWS_ACCESS_KEY_ID has no permission for this request. Grant it or use other credentials.",
    "403": "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is wrong or lacks permission. Correct them.",
    "XMinioStorageFull": _DISK_FULL,
    "no space left on device": _DISK_FULL,
    "SlowDown": "it is overloaded. Run again later.",
    "503": "it is overloaded or still starting. Run again later.",
    "507": _DISK_FULL,
}
_ADDRESS = re.compile(r"https?://[^/@\s]+/?$")
_START_HINT = "Start it (`make stack`) or correct the setting, then run again."
# Text that only a client of the store writes. A path of a bucket alone may stand in any error.
_CLIENT = r"software\.amazon\.awssdk|Generic S3 error|fs\.s3a\.|S3Exception"
_ABOUT_S3, _BY_A_CLIENT = re.compile(rf"s3a?://|{_CLIENT}"), re.compile(_CLIENT)
_UNREACHABLE = re.compile(
    r"error sending request|Unable to execute HTTP request|Connect to \S+ .*failed|Connection (refused|reset)|"
    r"ConnectException|SocketTimeout|timed out|did not complete"
)


@dataclass(frozen=True, order=True)
class S3Path:
    """An object or prefix of a bucket.

    Attributes:
        key: without a slash at either end; empty for the bucket itself.
    """

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, uri: str) -> S3Path:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return cls(bucket, key.strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    def joinpath(self, *names: str) -> S3Path:
        return self / "/".join(names)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    # --- reading ----------------------------------------------------------------------------------------------------

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the object as a seekable stream to read."""
        from smart_open import s3

        with translate_errors(self):
            return cast(BinaryIO, _Stream(self, s3.open(self.bucket, self.key, mode, client=get_client())))

    def read_bytes(self) -> bytes:
        with translate_errors(self):
            return cast(bytes, get_client().get_object(Bucket=self.bucket, Key=self.key)["Body"].read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def head(self) -> dict[str, Any]:
        """Read the object's size, ETag, time and metadata.

        Raises:
            FileNotFoundError: the object does not exist.
        """
        with translate_errors(self):
            return cast(dict[str, Any], get_client().head_object(Bucket=self.bucket, Key=self.key))

    def exists(self) -> bool:
        """Return True if the object exists, or any object below it."""
        try:
            self.head()
        except FileNotFoundError:
            return bool(self.list_objects(1))
        return True

    def list_objects(self, max_count: int | None = None) -> list[dict[str, Any]]:
        """List the objects below this prefix.

        Args:
            max_count: stop after about this many objects.

        Returns:
            S3's own entries: Key, Size, ETag, LastModified.
        """
        limit = {"MaxKeys": max_count} if max_count else {}
        entries = []
        for page in self._list_pages(f"{self.key}/" if self.key else "", **limit):
            entries += page.get("Contents", ())
            if max_count and len(entries) >= max_count:
                break
        return entries

    def iterdir(self) -> Iterator[S3Path]:
        """List the objects and prefixes directly below this prefix."""
        prefix = f"{self.key}/" if self.key else ""
        for page in self._list_pages(prefix, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield self / entry["Prefix"].removeprefix(prefix).rstrip("/")
            for entry in page.get("Contents", ()):
                if entry["Key"] != prefix:
                    yield self / entry["Key"].removeprefix(prefix)

    def _list_pages(self, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
        with translate_errors(self):
            pages = get_client().get_paginator("list_objects_v2")
            yield from cast(Iterator[dict[str, Any]], pages.paginate(Bucket=self.bucket, Prefix=prefix, **more))

    # --- writing ----------------------------------------------------------------------------------------------------

    def write_bytes(self, content: bytes, **conditions: str) -> str:
        """Put the whole object in one request.

        Args:
            conditions: IfMatch or IfNoneMatch, as PutObject has them.

        Returns:
            The new object's ETag.

        Raises:
            FileExistsError: a condition did not hold.
        """
        with translate_errors(self):
            return str(get_client().put_object(Bucket=self.bucket, Key=self.key, Body=content, **conditions)["ETag"])

    def create_from(self, content: BinaryIO) -> None:
        """Put a new object in one request, of at most 5 GiB.

        Raises:
            FileExistsError: the object exists.
        """
        writer = uuid4().hex
        metadata = {_WRITER: writer}
        try:
            with translate_errors(self):
                get_client().put_object(
                    Bucket=self.bucket, Key=self.key, Body=content, IfNoneMatch="*", Metadata=metadata
                )
        except FileExistsError:
            # If the answer to the first attempt was lost, the client's retry meets this writer's own object.
            if self.head().get("Metadata", {}).get(_WRITER) != writer:
                raise

    def upload(self, file: Path, progress: Callable[[int], None] | None = None) -> None:
        """Put a local file's content, a large one in parts.

        Args:
            progress: called with the bytes of each part as it is sent.
        """
        with translate_errors(self):
            get_client().upload_file(str(file), self.bucket, self.key, Callback=progress)

    def copy(self, target: S3Path) -> None:
        """Copy the object inside the store, a large one in parts."""
        with translate_errors(self):
            get_client().copy({"Bucket": self.bucket, "Key": self.key}, target.bucket, target.key)

    def unlink(self) -> None:
        with translate_errors(self):
            get_client().delete_object(Bucket=self.bucket, Key=self.key)


class _Stream(io.BufferedIOBase):
    """An object's content. A store that fails meanwhile raises StorageError, so that no reader blames the object."""

    def __init__(self, path: S3Path, content: Any) -> None:
        self._path, self._content = path, content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        return cast(bytes, self._call(self._content.read, -1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return cast(int, self._call(self._content.seek, offset, whence))

    def tell(self) -> int:
        return cast(int, self._content.tell())

    def close(self) -> None:
        self._content.close()
        super().close()

    def _call(self, method: Callable[..., Any], *arguments: int) -> Any:
        try:
            with translate_errors(self._path):
                return method(*arguments)
        except FileNotFoundError:
            raise
        except OSError as error:
            failure = f"reading from {_describe_server()} failed ({get_first_line(error)}). Run again."
            raise StorageError(f"{self._path}: {failure}") from error


# --- the client -----------------------------------------------------------------------------------------------------


def get_client() -> Any:
    """Return this process's client; a change of the environment gives a new client.

    Raises:
        StorageError: see `require_environment`.
    """
    require_environment()
    names = (
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_DEFAULT_REGION",
    )
    return _create_client(hashlib.sha256(repr([os.environ.get(name) for name in names]).encode()).hexdigest())


def require_environment() -> None:
    """Check the environment's address and credentials before a client guesses others.

    Raises:
        StorageError: it has no credentials, an incomplete address, or an address that Spark does not read.
    """
    s3_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
    if s3_endpoint and s3_endpoint != get_endpoint():
        raise StorageError("AWS_ENDPOINT_URL_S3: Spark does not read it. Set AWS_ENDPOINT_URL instead.")
    if get_endpoint() and not _ADDRESS.match(get_endpoint()):
        raise StorageError(
            f"AWS_ENDPOINT_URL={redact_password(get_endpoint())!r}: this is not an address. "
            "It must begin with http:// or https://, such as http://127.0.0.1:9000."
        )
    if not (os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")):
        raise StorageError(
            f"{_describe_server()}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(`make env` writes them to .env)."
        )


@cache
def _create_client(environment: str) -> Any:
    import boto3
    from botocore.config import Config

    settings = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        s3={"addressing_style": "path"} if get_endpoint() else None,
        max_pool_connections=32,
        ignore_configured_endpoint_urls=True,
    )
    # Every value is given: boto3 looks up missing ones in files of the user's home.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=get_endpoint() or None,
        region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
        config=settings,
    )


def get_endpoint() -> str:
    """Return the store's address; empty for Amazon S3."""
    return os.environ.get("AWS_ENDPOINT_URL") or ""


# --- errors ---------------------------------------------------------------------------------------------------------


@contextmanager
def translate_errors(path: S3Path) -> Iterator[None]:
    """Translate the client's errors about an object or the store.

    Raises:
        FileNotFoundError: the object does not exist.
        FileExistsError: a condition on the existing object did not hold.
        StorageError: any other error; it names the server and the setting.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
        # smart_open and boto3's transfers wrap the client's error.
        cause = getattr(error, "backend_error", error.__context__ if isinstance(error, Boto3Error) else error)
        if not isinstance(cause, BotoCoreError | ClientError):
            raise
        code = str(cause.response.get("Error", {}).get("Code")) if isinstance(cause, ClientError) else ""
        if code in _MISSING_CODES:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        if code in _CONFLICT_CODES:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise StorageError(f"{path}: {_describe_failure(cause, code)}") from error


def explain_error(error: BaseException) -> str | None:
    """Explain an error of another client of the store, such as Spark's or delta-rs's.

    Returns:
        A message that names the server; None if the error is not the store's.
    """
    text = str(error)
    if not _ABOUT_S3.search(text):
        return None
    code = next((code for code in _REFUSALS if re.search(_build_code_pattern(code), text)), None)
    if code:
        return f"{_describe_server()} refuses: {_REFUSALS[code]}"
    if _BY_A_CLIENT.search(text) and _UNREACHABLE.search(text):
        return f"{_describe_server()} does not answer. {_START_HINT}"
    return None


def _build_code_pattern(code: str) -> str:
    """Return a pattern for an error code. A bare number could be part of a file's name or a value."""
    return rf"(?i:status(?: code)?:? ?){code}\b" if code.isdigit() else rf"\b{code}\b"


def _describe_server() -> str:
    if get_endpoint():
        return f"the object store at {get_endpoint()} (AWS_ENDPOINT_URL)"
    return "Amazon S3 (AWS_ENDPOINT_URL is not set)"


def _describe_failure(error: Exception, code: str) -> str:
    from botocore.exceptions import ConnectionError, HTTPClientError

    if isinstance(error, HTTPClientError | ConnectionError):
        return f"{_describe_server()} does not answer ({get_first_line(error)}). {_START_HINT}"
    in_text = (refusal for text, refusal in _REFUSALS.items() if text in str(error))
    return f"{_describe_server()} refuses: {_REFUSALS.get(code) or next(in_text, f'{get_first_line(error)}.')}"
