"""Operations on files of a local folder or a bucket, beyond those that pathlib.Path and S3Path share."""

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
from stat import S_ISLNK, S_ISREG
from typing import BinaryIO, TypeAlias

from lakehouse.errors import DamagedFileError
from lakehouse.storage.s3 import S3Path, get_endpoint, require_environment

Location: TypeAlias = Path | S3Path
# Errors by which a disk reports that it lost a write.
_LOST_WRITES = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class FileInfo:
    """A file of a listing.

    Attributes:
        path: below the listed folder, with forward slashes.
        identity: the ETag in a bucket; empty for a local file, which a listing does not read.
    """

    path: str
    size: int
    modified_ns: int
    identity: str = ""


def walk(folder: Location, is_ignored: Callable[[str], bool]) -> Iterator[FileInfo]:
    """List every file below a folder. A symbolic link is listed itself, and not followed.

    Args:
        is_ignored: called with the name of each file, and of each folder above it. A file is skipped if any is ignored.
    """
    if isinstance(folder, S3Path):
        start = len(folder.key) + 1 if folder.key else 0
        for entry in folder.list_objects():
            path = entry["Key"][start:]
            # A key that ends in a slash marks a folder; the listed folder's own marker leaves an empty path.
            if path and not path.endswith("/") and not any(is_ignored(part) for part in path.split("/")):
                yield _make_file_entry(path, entry)
        return
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        for name in (*folders, *names):  # a link to a folder is among the folders
            if is_ignored(name):
                continue
            path = Path(parent, name)
            try:
                stat = path.lstat()
            except OSError:  # renamed or removed since it was listed
                continue
            if S_ISREG(stat.st_mode) or S_ISLNK(stat.st_mode):
                yield FileInfo(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)


def stat_files(folder: Location, paths: Iterable[str]) -> dict[str, FileInfo | OSError]:
    """Look up files by their paths below a folder; those of a bucket with one listing.

    Returns:
        For each path the file, or the error that reading it raises.
    """
    if isinstance(folder, S3Path):
        paths = list(paths)
        top = os.path.commonpath([PurePosixPath(path).parent for path in paths]) if paths else ""
        above = f"{top}/" if top else ""
        listed = walk(folder / top if top else folder, lambda name: False) if paths else ()
        files = {above + file.path: replace(file, path=above + file.path) for file in listed}
        missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return {path: files.get(path, missing) for path in paths}
    results: dict[str, FileInfo | OSError] = {}
    for path in paths:
        try:
            stat = (folder / path).stat()
            is_file = S_ISREG(stat.st_mode)
            no_file = OSError(errno.EISDIR, "it is not a file")
            results[path] = FileInfo(path, stat.st_size, stat.st_mtime_ns) if is_file else no_file
        except OSError as error:
            results[path] = error
    return results


def find_link(folder: Location, path: str) -> str | None:
    """Return the first part of a path below a folder that is a symbolic link; None without one. A bucket has none."""
    if isinstance(folder, S3Path):
        return None
    parts = [*reversed(PurePosixPath(path).parents), PurePosixPath(path)][1:]
    return next((str(part) for part in parts if folder.joinpath(part).is_symlink()), None)


def open_unlinked(folder: Location, path: str) -> BinaryIO:
    """Open a file by its path below a folder. No part of the path may be a symbolic link.

    Raises:
        OSError: a part is a link, or there is no such file.
    """
    if isinstance(folder, S3Path):
        return folder.joinpath(path).open("rb")
    parts = PurePosixPath(path).parts
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            child = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
            parent = child
        return os.fdopen(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent), "rb")
    finally:
        os.close(parent)


def stat_link(folder: Location, path: str) -> FileInfo:
    """Look up a symbolic link by its path below a folder."""
    assert isinstance(folder, Path)
    stat = folder.joinpath(path).lstat()
    return FileInfo(path, stat.st_size, stat.st_mtime_ns)


def compute_identity(file: Location) -> str:
    """Identify a file's content: by the ETag in a bucket, by the SHA-256 of a local file or of a link's target."""
    if isinstance(file, Path) and file.is_symlink():
        return hashlib.sha256(os.fsencode(file.readlink())).hexdigest()
    return _unquote(file.head()["ETag"]) if isinstance(file, S3Path) else _hash_file(file)


def list_names(folder: Location) -> list[str]:
    """List the names directly in a folder, sorted; none if the folder does not exist."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_folder(place: Location) -> bool:
    """Return True for an existing folder; in a bucket, for a prefix with objects below it."""
    return bool(place.list_objects(1)) if isinstance(place, S3Path) else place.is_dir()


def create(file: Location, content: bytes) -> None:
    """Create a file with its whole content.

    Raises:
        FileExistsError: the file exists.
    """
    if isinstance(file, S3Path):
        file.create_from(io.BytesIO(content))
        return
    with _make_temporary_sibling(file, content) as temporary:
        os.link(temporary, file)


def put(file: Location, content: bytes) -> None:
    """Write or replace a file atomically: no reader sees half of it."""
    if isinstance(file, S3Path):
        file.write_bytes(content)
        return
    with _make_temporary_sibling(file, content) as temporary:
        os.replace(temporary, file)


def sync(path: Path) -> None:
    """Wait until the disk has stored a local file, or the names in a folder. Some file systems cannot sync.

    Raises:
        DamagedFileError: the disk reports that it lost a write.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _LOST_WRITES:
            raise DamagedFileError(
                f"{path}: the disk did not store the file ({error.strerror}). "
                "Check the disk, roll the run back, and run again.",
                str(path),
            ) from error
    finally:
        os.close(descriptor)


def put_if_changed(file: Location, content: bytes | Path, progress: Callable[[int], None] | None = None) -> bool:
    """Write or replace a file atomically, from memory or from a local file.

    Args:
        progress: called with the bytes of each part that goes to a bucket.

    Returns:
        False if the file has the same content already; it is then not written.
    """
    if _has_content(file, content):
        return False
    if isinstance(file, Path):
        with _make_temporary_sibling(file, content) as temporary:
            os.replace(temporary, file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.upload(content, progress)
    return True


def _has_content(file: Location, content: bytes | Path) -> bool:
    if isinstance(file, Path) and file.is_symlink():  # it is replaced, whatever it points to
        return False
    if isinstance(content, Path):
        return has_same_content(content, file)
    return get_size(file) == len(content) and _hash_file(file) == hashlib.sha256(content).hexdigest()


def has_same_content(left: Location, right: Location) -> bool:
    """Return True if both files exist and have the same bytes."""
    return get_size(left) == get_size(right) is not None and _hash_file(left) == _hash_file(right)


def move(file: Location, target: Location) -> None:
    """Move a file within its store, replacing the target."""
    if isinstance(file, S3Path) and isinstance(target, S3Path):
        file.copy(target)
        file.unlink()
    elif isinstance(file, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)


def move_new(file: Location, target: Location) -> None:
    """Move a file within its store, to a target that does not exist.

    Raises:
        FileExistsError: the target exists.
    """
    if isinstance(file, S3Path) and isinstance(target, S3Path):
        # A store's own copy takes no condition, so the content passes through this machine.
        with tempfile.TemporaryFile() as local, file.open() as content:
            shutil.copyfileobj(content, local)
            local.seek(0)
            target.create_from(local)
        file.unlink()
    elif isinstance(file, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
        file.unlink()


def remove(folder: Location) -> None:
    """Remove a folder with all its content."""
    if isinstance(folder, S3Path):
        for entry in folder.list_objects():
            S3Path(folder.bucket, entry["Key"]).unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def get_size(file: Location) -> int | None:
    """Return the size of a file; None if it does not exist."""
    try:
        return int(file.head()["ContentLength"]) if isinstance(file, S3Path) else file.stat().st_size
    except FileNotFoundError:
        return None


def get_relative_path(place: Location, root: Location) -> str:
    """Return the path of a place relative to a folder above it."""
    return str(place).removeprefix(str(root)).strip("/")


def to_spark_uri(place: Location) -> str:
    """Return the address that Spark uses for a place."""
    return f"s3a://{place.bucket}/{place.key}" if isinstance(place, S3Path) else str(place)


def build_delta_options(place: Location) -> dict[str, str]:
    """Return options for delta-rs, which reads the environment itself. Its retries end after 30 seconds."""
    if not isinstance(place, S3Path):
        return {}
    require_environment()  # without keys or a whole address, delta-rs tries others and reports those
    unencrypted = {"allow_http": "true"} if get_endpoint().startswith("http://") else {}
    return {**unencrypted, "max_retries": "7", "retry_timeout": "30s"}


@contextmanager
def _make_temporary_sibling(file: Path, content: bytes | Path) -> Iterator[Path]:
    """Write the content to a temporary file in the same folder; remove that file afterwards."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # The file's own name may have the maximal length.
    temporary = file.with_name(f".{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            shutil.copyfile(content, temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _hash_file(file: Location) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # any stream will do


def _make_file_entry(path: str, entry: dict[str, object]) -> FileInfo:
    modified = entry["LastModified"].timestamp()  # type: ignore[attr-defined]
    size = int(entry["Size"])  # type: ignore[call-overload]
    return FileInfo(path, size, int(modified * 1e9), _unquote(str(entry["ETag"])))


def _unquote(etag: str) -> str:
    return etag.strip('"')
