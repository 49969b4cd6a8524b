"""Where a lake lies: a local folder or a bucket. What pathlib has no word for, for both."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TypeAlias

from lakehouse.storage.s3 import S3Path, endpoint, require_environment

Location: TypeAlias = Path | S3Path


@dataclass(frozen=True)
class Found:
    """A file: its path below where it was looked for, and its identity, where a listing gives one (the ETag in a bucket)."""

    path: str
    size: int
    modified_ns: int
    identity: str = ""


def walk(folder: Location, left_alone: Callable[[str], bool]) -> Iterator[Found]:
    """Every file below a folder, but for those whose name, or that of a folder above them, is to be left alone."""
    if isinstance(folder, S3Path):
        start = len(folder.key) + 1 if folder.key else 0
        for one in folder.below():
            path = one["Key"][start:]
            if not path.endswith("/") and not any(left_alone(part) for part in path.split("/")):
                yield _object(path, one)
        return
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not left_alone(f))
        for name in names:
            if left_alone(name):
                continue
            path = Path(parent, name)
            try:
                stat = path.stat()
            except OSError:  # renamed or withdrawn since it was listed, or a link that leads nowhere
                continue
            if S_ISREG(stat.st_mode):
                yield Found(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)


def look_up(folder: Location, paths: Iterable[str]) -> dict[str, Found | OSError]:
    """The files as they are now, or why one cannot be had; those of a bucket from one listing."""
    if isinstance(folder, S3Path):
        paths = list(paths)
        top = os.path.commonpath([PurePosixPath(path).parent for path in paths]) if paths else ""
        below = f"{top}/" if top else ""
        listed = walk(folder / top if top else folder, lambda name: False) if paths else ()
        there = {below + one.path: replace(one, path=below + one.path) for one in listed}
        gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return {path: there.get(path, gone) for path in paths}
    found: dict[str, Found | OSError] = {}
    for path in paths:
        try:
            stat = (folder / path).stat()
            found[path] = Found(path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            found[path] = error
    return found


def identity(file: Location) -> str:
    """What tells one content from another: the ETag in a bucket, the SHA-256 of a local file."""
    return _tag(file.head()["ETag"]) if isinstance(file, S3Path) else _sha256(file)


def names(folder: Location) -> list[str]:
    """What lies directly in a folder, sorted; nothing where there is none."""
    try:
        return sorted(one.name for one in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_folder(place: Location) -> bool:
    """Whether there is a folder; in a bucket, whether anything lies below the place."""
    return bool(place.below(1)) if isinstance(place, S3Path) else place.is_dir()


def create(file: Location, content: bytes) -> None:
    """Create a file with its whole content.

    Raises:
        FileExistsError: it is there already.
    """
    if isinstance(file, S3Path):
        file.create_from(io.BytesIO(content))
        return
    with _beside(file, content) as temporary:
        os.link(temporary, file)


def put(file: Location, content: bytes) -> None:
    """Write a file so that no reader sees half of it, in the place of what was there."""
    if isinstance(file, S3Path):
        file.write_bytes(content)
        return
    with _beside(file, content) as temporary:
        os.replace(temporary, file)


def deliver(file: Location, content: bytes | Path, progress: Callable[[int], None] | None = None) -> bool:
    """`put`, from memory or from a local file; False where the same bytes are there already.

    What is large goes to a bucket in parts; ``progress`` is told the bytes of each.
    """
    if _holds(file, content):
        return False
    if isinstance(file, Path):
        with _beside(file, content) as temporary:
            os.replace(temporary, file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.upload(content, progress)
    return True


def _holds(file: Location, content: bytes | Path) -> bool:
    if isinstance(content, Path):
        return same(content, file)
    return _size(file) == len(content) and _sha256(file) == hashlib.sha256(content).hexdigest()


def same(one: Location, other: Location) -> bool:
    """Whether two files hold the same bytes; not where one is missing."""
    return _size(one) == _size(other) is not None and _sha256(one) == _sha256(other)


def move(file: Location, target: Location) -> None:
    """Put a file of the same store in another place, whole."""
    if isinstance(file, S3Path) and isinstance(target, S3Path):
        file.copy(target)
        file.unlink()
    elif isinstance(file, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)


def move_new(file: Location, target: Location) -> None:
    """`move` to a place where nothing lies.

    Raises:
        FileExistsError: something does.
    """
    if isinstance(file, S3Path) and isinstance(target, S3Path):
        # Stores copy without conditions, so it comes by here.
        with tempfile.TemporaryFile() as held, file.open() as content:
            shutil.copyfileobj(content, held)
            held.seek(0)
            target.create_from(held)
        file.unlink()
    elif isinstance(file, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
        file.unlink()


def remove(folder: Location) -> None:
    """Remove a folder and all in it."""
    if isinstance(folder, S3Path):
        for one in folder.below():
            S3Path(folder.bucket, one["Key"]).unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _size(file: Location) -> int | None:
    try:
        return int(file.head()["ContentLength"]) if isinstance(file, S3Path) else file.stat().st_size
    except FileNotFoundError:
        return None


def relative(place: Location, root: Location) -> str:
    """The place as seen from a folder above it."""
    return str(place).removeprefix(str(root)).strip("/")


def spark_uri(place: Location) -> str:
    """The place as Spark names it."""
    return f"s3a://{place.bucket}/{place.key}" if isinstance(place, S3Path) else str(place)


def delta_options(place: Location) -> dict[str, str]:
    """What delta-rs must be told beyond the environment, which it reads itself: to give up within half a minute, too."""
    if not isinstance(place, S3Path):
        return {}
    require_environment()  # without keys, or with half an address, delta-rs would look elsewhere, and say so of that
    plain = {"allow_http": "true"} if endpoint().startswith("http://") else {}
    return {**plain, "max_retries": "7", "retry_timeout": "30s"}


@contextmanager
def _beside(file: Path, content: bytes | Path) -> Iterator[Path]:
    """The content in a file of a temporary name, in the same folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.{secrets.token_hex(8)}.tmp")  # a name may be as long as can be
    try:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            shutil.copyfile(content, temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(file: Location) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # any stream will do


def _object(path: str, listed: dict[str, object]) -> Found:
    modified = listed["LastModified"].timestamp()  # type: ignore[attr-defined]
    return Found(path, int(listed["Size"]), int(modified * 1e9), _tag(str(listed["ETag"])))  # type: ignore[call-overload]


def _tag(etag: str) -> str:
    return etag.strip('"')
