"""Digests of the files that each commit added, beside the table in `_digests/<version>.json`. Needs no Spark.

Delta's log has the size of a file, but nothing that shows a changed bit. A digest has the size in the log, and the
SHA-256 of a local file; in a bucket, the store's checksum (ETag). VACUUM keeps folders with a leading underscore.

A run that is killed after its commit leaves a version without digests. The table's next commit writes them. Such a
digest proves that its file has not changed since then, and has the size in the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

from lakehouse.causes import describe_cause, describe_known_cause
from lakehouse.deltalog.commit_record import Record
from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import DamagedFileError
from lakehouse.storage import location
from lakehouse.storage.location import FileInfo, Location

logger = logging.getLogger(__name__)
FOLDER = "_digests"
# The number of earlier versions that are searched for missing digests.
_MAX_EARLIER = 20


@dataclass(frozen=True)
class Digest:
    """The content of one file when its commit was made.

    Attributes:
        path: The path below the table's folder.
        checksum: The SHA-256 of a local file; the ETag in a bucket.
    """

    path: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Verification:
    """Comparison of a table's files with their digests.

    Attributes:
        verified_files: The number of compared files.
        unverified_files: The number of files without a digest, such as those of OPTIMIZE.
        differences: The damaged or missing files, in words.
    """

    verified_files: int
    unverified_files: int
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Commit:
    """One version in a table's log.

    Attributes:
        sizes: The size of each file that the commit added below the table's folder, by its path. The log's own is None.
        is_own: The commit has a record, so a run of lakehouse made it.
    """

    version: int
    sizes: dict[str, int | None]
    is_own: bool


def write_digests(table: Location, version: int) -> None:
    """Write the digests of the files that a version added, and of its log file, once all lie on the disk.

    Digests that earlier commits lack are written first. A failure leaves files without digests, and is logged: the
    version's own are written by the table's next commit, those of earlier commits never.

    Raises:
        DamagedFileError: The disk reports that it did not store a file of the version.
    """
    with _log_failure(table, f"version {version}"):
        commit = _read_commit(table, version)
        _sync(table, commit.sizes)
        with _log_failure(table, "earlier versions that lack them"):
            for earlier in _find_commits_without_digests(table, version):
                _write_digest_file(table, earlier, is_late=True)
        _write_digest_file(table, commit)


@contextmanager
def _log_failure(table: Location, versions: str) -> Iterator[None]:
    """Log an error: whatever fails here, the commit is made."""
    try:
        yield
    except DamagedFileError:
        raise
    except Exception as error:
        logger.warning("%s: no digests of %s were written (%s).", table, versions, describe_cause(error).rstrip("."))


def _read_commit(table: Location, version: int) -> _Commit:
    log_file = f"_delta_log/{version:020d}.json"
    actions = [json.loads(line) for line in (table / log_file).read_text(encoding="utf-8").splitlines()]
    sizes: dict[str, int | None] = {log_file: None}
    for action in actions:
        added = action.get("add") or action.get("cdc") or {}
        path = added.get("path", "")
        if path and ":" not in path and not path.startswith("/"):
            sizes[unquote(path)] = added["size"]
    texts = (action["commitInfo"].get("userMetadata") for action in actions if "commitInfo" in action)
    return _Commit(version, sizes, any(Record.from_json(text) for text in texts))


def _find_commits_without_digests(table: Location, version: int) -> list[_Commit]:
    """Return the own commits between a version and the newest earlier digests, oldest first."""
    commits = list[_Commit]()
    for earlier in range(version - 1, max(version - 1 - _MAX_EARLIER, -1), -1):
        if location.get_size(_get_digest_file(table, earlier)) is not None:
            break
        try:
            commits.append(_read_commit(table, earlier))
        except FileNotFoundError:  # Delta removes old log files.
            break
    return [commit for commit in reversed(commits) if commit.is_own]


def _write_digest_file(table: Location, commit: _Commit, *, is_late: bool = False) -> None:
    """Write the digests of a commit's files.

    Args:
        is_late: Later commits were made since, and files may be gone.
    """

    def compute(path: str, size: int | None) -> Digest | None:
        file = table / path
        try:
            size = location.get_size(file) or 0 if size is None else size
            return Digest(path, size, location.compute_identity(file))
        except FileNotFoundError:
            if is_late:
                return None
            raise

    with ThreadPoolExecutor() as pool:
        digests = [digest for digest in pool.map(compute, commit.sizes, commit.sizes.values()) if digest]
    content = json.dumps([asdict(digest) for digest in digests], indent=1)
    location.put(_get_digest_file(table, commit.version), content.encode())


def _get_digest_file(table: Location, version: int) -> Location:
    return table / FOLDER / f"{version:020d}.json"


def _sync(table: Location, paths: Iterable[str]) -> None:
    """Wait until the disk has stored local files and their names. A bucket has stored each object that it lists.

    Raises:
        DamagedFileError: The disk did not store a file.
    """
    if not isinstance(table, Path):
        return
    files = [table / path for path in paths]
    with ThreadPoolExecutor() as pool:
        list(pool.map(location.sync, [*files, *{file.parent for file in files}]))


def verify_files(log: TableLog) -> Verification:
    """Compare the files of a table, and those of its older versions that still exist, with their digests."""
    digests, differences = _read_digests(log.path)
    current = {unquote(path) for path in log.list_files()}
    states = location.stat_files(log.path, sorted({*digests, *current}))

    def compare(path: str, state: FileInfo | OSError) -> str | None:
        if isinstance(state, OSError):
            if describe_known_cause(state):
                return _describe_unreadable(path, state)
            return f"lacks the file {path}" if path in current else None
        digest = digests[path]
        if state.size != digest.size:
            return f"has {state.size:,} bytes in {path}, but its commit wrote {digest.size:,}"
        try:
            checksum = state.identity or location.compute_identity(log.path / path)
        except OSError as error:
            return _describe_unreadable(path, error)
        return None if checksum == digest.checksum else f"has other content in {path} than its commit wrote"

    compared = {path: state for path, state in states.items() if path in digests or isinstance(state, OSError)}
    with ThreadPoolExecutor() as pool:
        differences += [text for text in pool.map(compare, compared, compared.values()) if text]
    existing = [path for path, state in states.items() if not isinstance(state, OSError)]
    verified = sum(path in digests for path in existing)
    return Verification(verified, len(existing) - verified, tuple(differences))


def _describe_unreadable(path: str, error: OSError) -> str:
    return f"has a file that cannot be read: {path} ({error.strerror})"


def _read_digests(table: Location) -> tuple[dict[str, Digest], list[str]]:
    """Read the digest of each file. The earliest one counts: a rollback adds old files again.

    Returns:
        The digests by path, and the files of digests that are damaged, in words.
    """
    digests, differences = dict[str, Digest](), list[str]()
    for name in location.list_names(table / FOLDER):
        try:
            content = json.loads((table / FOLDER / name).read_text(encoding="utf-8"))
            for digest in (Digest(**fields) for fields in content):
                digests.setdefault(digest.path, digest)
        except (ValueError, TypeError):
            differences.append(f"has damaged digests in {FOLDER}/{name}")
    return digests, differences
