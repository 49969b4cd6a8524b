"""Objects in a bucket of MinIO or any other S3, in the few words of pathlib that the lakehouse uses.

The client is boto3's: it takes its endpoint, region and credentials from the environment (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and nowhere else.
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

from lakehouse.errors import StorageError, first_line, without_password

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 15, 3
_WRITER = "lakehouse-writer"
_GONE = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_MEANING = {
    "NoSuchBucket": "the bucket is not there: make it, or correct `root`",
    "InvalidAccessKeyId": "it does not know AWS_ACCESS_KEY_ID (any more, if it was a temporary one)",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not the one that belongs to AWS_ACCESS_KEY_ID",
    "ExpiredToken": "the credentials have expired: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN anew",
    "InvalidTokenId": "AWS_SESSION_TOKEN is not the one that belongs to AWS_ACCESS_KEY_ID, or has expired",
    "AccessDenied": "the credentials in AWS_ACCESS_KEY_ID do not allow this",
    "403": "the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are wrong or do not allow this",
    "XMinioStorageFull": "its disk is full: make room, then run again",
    "no space left on device": "its disk is full: make room, then run again",
    "SlowDown": "it is overloaded: run again later",
    "503": "it is overloaded or starting: run again later",
    "507": "its disk is full: make room, then run again",
}
_ADDRESS = re.compile(r"https?://[^/@\s]+/?$")
_START = "Start it (`make stack`) or correct the setting, then run again."
# What a client of the store says, and not just whoever came across a path in it.
_CLIENT = r"software\.amazon\.awssdk|Generic S3 error|fs\.s3a\.|S3Exception"
_OF_S3, _OF_A_CLIENT = re.compile(rf"s3a?://|{_CLIENT}"), re.compile(_CLIENT)
_UNREACHABLE = re.compile(
    r"error sending request|Unable to execute HTTP request|Connect to \S+ .*failed|Connection (refused|reset)|"
    r"ConnectException|SocketTimeout|timed out|did not complete"
)


@dataclass(frozen=True, order=True)
class S3Path:
    """A place in a bucket; ``key`` has no slash at its ends, and is empty for the bucket itself."""

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
        """A seekable stream to read; what fails while it is read is told as `told` does."""
        from smart_open import s3

        with told(self):
            return cast(BinaryIO, _Stream(self, s3.open(self.bucket, self.key, mode, client=client())))

    def read_bytes(self) -> bytes:
        with told(self):
            return cast(bytes, client().get_object(Bucket=self.bucket, Key=self.key)["Body"].read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def head(self) -> dict[str, Any]:
        """The object's size, ETag and time.

        Raises:
            FileNotFoundError: it is not there.
        """
        with told(self):
            return cast(dict[str, Any], client().head_object(Bucket=self.bucket, Key=self.key))

    def exists(self) -> bool:
        """Whether there is an object, or any below it."""
        try:
            self.head()
        except FileNotFoundError:
            return bool(self.below(1))
        return True

    def below(self, most: int | None = None) -> list[dict[str, Any]]:
        """Every object below this prefix, as S3 lists them: Key, Size, ETag, LastModified."""
        limit = {"MaxKeys": most} if most else {}
        found = []
        for page in self._pages(f"{self.key}/" if self.key else "", **limit):
            found += page.get("Contents", ())
            if most and len(found) >= most:
                break
        return found

    def iterdir(self) -> Iterator[S3Path]:
        """What lies directly below."""
        prefix = f"{self.key}/" if self.key else ""
        for page in self._pages(prefix, Delimiter="/"):
            for one in page.get("CommonPrefixes", ()):
                yield self / one["Prefix"].removeprefix(prefix).rstrip("/")
            for one in page.get("Contents", ()):
                if one["Key"] != prefix:
                    yield self / one["Key"].removeprefix(prefix)

    def _pages(self, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
        with told(self):
            pages = client().get_paginator("list_objects_v2")
            yield from cast(Iterator[dict[str, Any]], pages.paginate(Bucket=self.bucket, Prefix=prefix, **more))

    # --- writing ----------------------------------------------------------------------------------------------------

    def write_bytes(self, content: bytes, **conditions: str) -> str:
        """Put the whole object, in one request; returns its ETag. ``conditions`` are PutObject's IfMatch and IfNoneMatch.

        Raises:
            FileExistsError: a condition did not hold.
        """
        with told(self):
            return str(client().put_object(Bucket=self.bucket, Key=self.key, Body=content, **conditions)["ETag"])

    def create_from(self, content: BinaryIO) -> None:
        """Put the whole object where there is none, in one request: at most 5 GiB.

        Raises:
            FileExistsError: there is one.
        """
        writer = uuid4().hex
        metadata = {_WRITER: writer}
        try:
            with told(self):
                client().put_object(Bucket=self.bucket, Key=self.key, Body=content, IfNoneMatch="*", Metadata=metadata)
        except FileExistsError:
            if self.head().get("Metadata", {}).get(_WRITER) != writer:  # else the answer was lost on the way
                raise

    def upload(self, file: Path, progress: Callable[[int], None] | None = None) -> None:
        """Put a local file's content, in parts where it is large; ``progress`` is told the bytes of each part that is sent."""
        with told(self):
            client().upload_file(str(file), self.bucket, self.key, Callback=progress)

    def copy(self, target: S3Path) -> None:
        """Put its content in another place, in parts where it is large, without it coming by here."""
        with told(self):
            client().copy({"Bucket": self.bucket, "Key": self.key}, target.bucket, target.key)

    def unlink(self) -> None:
        with told(self):
            client().delete_object(Bucket=self.bucket, Key=self.key)


class _Stream(io.BufferedIOBase):
    """An object's content: what fails while it is read says nothing of the object, and so must not pass for its fault."""

    def __init__(self, place: S3Path, content: Any) -> None:
        self._place, self._content = place, content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        return cast(bytes, self._told(self._content.read, -1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return cast(int, self._told(self._content.seek, offset, whence))

    def tell(self) -> int:
        return cast(int, self._content.tell())

    def close(self) -> None:
        self._content.close()
        super().close()

    def _told(self, call: Callable[..., Any], *arguments: int) -> Any:
        try:
            with told(self._place):
                return call(*arguments)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"{self._place}: {_server()} broke off: {first_line(error)}") from error


def client() -> Any:
    """The process's client, made anew where the environment names another endpoint or user.

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
    return _client(hashlib.sha256(repr([os.environ.get(name) for name in names]).encode()).hexdigest())


def require_environment() -> None:
    """Check that the environment says where the store is and who asks, before any client guesses.

    Raises:
        StorageError: it has no credentials, no whole address, or names the store in a way that Spark does not know.
    """
    elsewhere = os.environ.get("AWS_ENDPOINT_URL_S3")
    if elsewhere and elsewhere != endpoint():
        raise StorageError("AWS_ENDPOINT_URL_S3 is not known to Spark: name the object store in AWS_ENDPOINT_URL.")
    if endpoint() and not _ADDRESS.match(endpoint()):
        raise StorageError(
            f"AWS_ENDPOINT_URL={without_password(endpoint())!r} is no address: it begins with http:// or https://, such as "
            "http://127.0.0.1:9000."
        )
    if not (os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")):
        raise StorageError(
            f"no credentials for {_server()}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`make env` writes them to .env)."
        )


@cache
def _client(environment: str) -> Any:
    import boto3
    from botocore.config import Config

    settings = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        s3={"addressing_style": "path"} if endpoint() else None,
        max_pool_connections=32,
        ignore_configured_endpoint_urls=True,
    )
    # All of it given: of what is not, boto3 would look into files of the user's.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint() or None,
        region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
        config=settings,
    )


def endpoint() -> str:
    """The store's address; empty for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL") or ""


@contextmanager
def told(place: S3Path) -> Iterator[None]:
    """Put a failure to reach the store or an object in words.

    Raises:
        FileNotFoundError: there is no such object.
        FileExistsError: a condition on what is there did not hold.
        StorageError: anything else; it names the server and the setting.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
        # What smart_open and boto3's transfers wrap.
        cause = getattr(error, "backend_error", error.__context__ if isinstance(error, Boto3Error) else error)
        if not isinstance(cause, BotoCoreError | ClientError):
            raise
        code = str(cause.response.get("Error", {}).get("Code")) if isinstance(cause, ClientError) else ""
        if code in _GONE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from error
        if code in _TAKEN:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from error
        raise StorageError(f"{place}: {_meaning(cause, code)}") from error


def explained(error: Exception) -> str | None:
    """What an error of another client of the store (Spark's, delta-rs's) says of it, in words; None where it says nothing."""
    said = str(error)
    if not _OF_S3.search(said):
        return None
    code = next((code for code in _MEANING if re.search(_said_as(code), said)), None)
    if code:
        return f"{_server()} refuses: {_MEANING[code]}."
    if _OF_A_CLIENT.search(said) and _UNREACHABLE.search(said):
        return f"{_server()} does not answer. {_START}"
    return None


def _said_as(code: str) -> str:
    """A pattern for an error code: one that is a number alone could be anything, a file's name or a value."""
    return rf"(?i:status(?: code)?:? ?){code}\b" if code.isdigit() else rf"\b{code}\b"


def _server() -> str:
    if endpoint():
        return f"the object store at {endpoint()} (AWS_ENDPOINT_URL)"
    return "Amazon S3 (AWS_ENDPOINT_URL is not set)"


def _meaning(error: Exception, code: str) -> str:
    from botocore.exceptions import ConnectionError, HTTPClientError

    server = _server()
    if isinstance(error, HTTPClientError | ConnectionError):
        return f"{server} does not answer ({first_line(error)}). {_START}"
    meaning = _MEANING.get(code) or next((_MEANING[said] for said in _MEANING if said in str(error)), first_line(error))
    return f"{server} refuses: {meaning}."
