"""The landing zone: which files are new, whether they are whole, and the manifest that pins a batch before it is read.

A delivery is a path with its size and content hash: the same name with new bytes is a new delivery. Batch N's exact list
of files is written to manifests/<source>/<N>.json, once, before Spark reads any of them; a batch that a
killed run left unfinished is finished with that same list. Files that turn out broken are rejected as a whole, with the
reason, beside the manifest, and do not block the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from stat import S_ISREG

from lakehouse.declare import Source
from lakehouse.errors import LandingError, first_line
from lakehouse.inspection import INSPECTIONS, parquet_rows
from lakehouse.ledger import now

# Names that a writer gives to files it has not finished.
TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".inprogress", ".crdownload", "~")
COMPRESSED_SUFFIXES = (".bz2", ".deflate", ".lz4", ".snappy", ".zst", ".zstd", ".xz", ".zip")
# A file changed this shortly before it was listed may have changed again under the same time stamp: hash it once more.
RACY_SECONDS = 2.0


@dataclass(frozen=True)
class Delivery:
    """One landed file: its path below the landing zone, its identity, its place in the order of deliveries."""

    path: str
    size: int
    modified_ns: int
    sha256: str = ""
    file_id: int = 0


@dataclass(frozen=True)
class Rejected:
    """A file that was set aside as a whole, and why."""

    path: str
    size: int
    modified_ns: int
    sha256: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The files of one batch of one source. ``at`` is UTC; a ``full`` batch takes the place of all before it."""

    source: str
    batch: int
    at: str
    definition: str
    files: tuple[Delivery, ...]
    rejected: tuple[Rejected, ...] = ()
    full: bool = False


class Landing:
    """One source's landing folder and manifests."""

    def __init__(self, source: Source, landing: Path, manifests: Path) -> None:
        self.source = source
        self.root = landing
        self.folder = landing / source.landing
        self.manifests = manifests / source.name

    def history(self) -> list[Manifest]:
        """Every manifest, oldest first, with what was rejected after it was written taken into account."""
        files = sorted(p for p in self.manifests.glob("*.json") if p.stem.isdigit())
        return [self._read(file) for file in files]

    def listed(self) -> list[Delivery]:
        """The files that are there and finished, by path, not yet hashed."""
        if not self.folder.is_dir():
            return []
        settled_ns = time.time_ns() - int(self.source.settle_seconds * 1e9)
        found = []
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(f for f in folders if not left_alone(f))
            for name in names:
                if left_alone(name):
                    continue
                path = Path(folder, name)
                try:
                    stat = path.stat()
                except OSError:  # renamed or withdrawn since it was listed, or a link that leads nowhere
                    continue
                if not S_ISREG(stat.st_mode):
                    continue
                if self.source.settle_seconds and stat.st_mtime_ns > settled_ns:
                    continue
                found.append(Delivery(path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime_ns))
        return sorted(found, key=lambda one: one.path)

    def pending(self, history: Sequence[Manifest], definition: str) -> list[Delivery]:
        """The files that no batch has taken yet: new paths, and known ones with other bytes.

        A rejected file counts as taken until its bytes or the source's declaration change.
        """
        taken, refused = _in_table(history), dict[str, tuple[Rejected, str]]()
        for manifest in history:
            for one in manifest.rejected:
                if one.sha256 and manifest.definition == definition:
                    refused[one.path] = (one, manifest.at)
                else:  # it could not be read then, or another declaration refused it
                    refused.pop(one.path, None)
        return [
            one
            for one in self.listed()
            if not (self._is_known(one, taken.get(one.path)) or self._is_known(one, refused.get(one.path)))
        ]

    def rejected(self, history: Iterable[Manifest]) -> list[Rejected]:
        """The rejected files that still wait for somebody: neither delivered again nor taken away since."""
        waiting: dict[str, Rejected] = {}
        for manifest in history:
            waiting.update((one.path, one) for one in manifest.rejected)
            for one in manifest.files:
                waiting.pop(one.path, None)
        return [one for one in waiting.values() if (self.root / one.path).exists()]

    def rows(self, files: Iterable[Delivery]) -> int | None:
        """The rows of files that say how many they have (Parquet), as far as they can be read; None for others."""
        if self.source.format != "parquet":
            return None
        return sum(parquet_rows(self.root / one.path) for one in files)

    def _is_known(self, one: Delivery, taken: tuple[Delivery | Rejected, str] | None) -> bool:
        if taken is None or taken[0].size != one.size:
            return False
        before, at = taken
        same_time = before.modified_ns == one.modified_ns
        if same_time and before.modified_ns / 1e9 < _epoch(at) - RACY_SECONDS:
            return True
        try:
            return bool(before.sha256) and _sha256(self.root / one.path) == before.sha256
        except OSError:  # what cannot be read is looked at, and rejected, by the next batch
            return False

    def write(
        self, batch: int, definition: str, history: Sequence[Manifest], files: Iterable[Delivery], full: bool = False
    ) -> Manifest:
        """Inspect the files, then write the batch's manifest: whole files numbered, the others rejected.

        Raises:
            LandingError: the manifest is there already, written by another run; or the batch takes the place of all before it
                and files on record would not be in it.
        """
        last_id = max((one.file_id for m in history for one in m.files), default=0)
        taken = {path: one for path, (one, _) in _in_table(history).items()}
        if full:  # the order in which they were delivered is what makes one row newer than another
            files = sorted(files, key=lambda one: taken[one.path].file_id if one.path in taken else last_id + 1)
        with ThreadPoolExecutor() as pool:
            inspected = list(pool.map(self._inspect, files))
        whole: list[Delivery] = []
        for one in inspected:
            if not isinstance(one, Delivery):
                continue
            before = taken.get(one.path)
            if before and before.sha256 == one.sha256 and not full:
                continue  # the delivery that the table has already
            last_id += 1
            whole.append(replace(one, file_id=last_id))
        rejected = tuple(one for one in inspected if isinstance(one, Rejected))
        if full and (lost := sorted(taken.keys() - {one.path for one in whole})):
            reasons = {one.path: one.reason for one in rejected}
            raise _would_lose_rows(self.source, [f"{p} {reasons.get(p, 'has not settled or is gone')}" for p in lost])
        manifest = Manifest(self.source.name, batch, now(), definition, tuple(whole), rejected, full)
        _create(self._file(batch), json.dumps(asdict(manifest), indent=1))
        return manifest

    def verified(self, manifest: Manifest, definition: str) -> Manifest:
        """The manifest less the files that vanished or changed since it was written; these go on record as rejected.

        Where the source was declared otherwise then, files that do not fit its declaration now are rejected, too.

        Raises:
            LandingError: the batch takes the place of all before it, and would lose the rows of such a file. Its
                manifest is put away, so that the next run goes on from what the table holds.
        """
        gone = []
        for one in manifest.files:
            try:
                stat = (self.root / one.path).stat()
            except OSError as error:
                gone.append(Rejected(one.path, one.size, one.modified_ns, "", f"cannot be read: {error.strerror}"))
                continue
            same = (stat.st_size, stat.st_mtime_ns) == (one.size, one.modified_ns)
            if not same and _sha256(self.root / one.path) != one.sha256:
                gone.append(Rejected(one.path, one.size, one.modified_ns, "", "changed while its batch was under way"))
            elif manifest.definition != definition and isinstance(found := self._inspect(one), Rejected):
                gone.append(replace(found, sha256=""))
        if gone and manifest.full:
            self._file(manifest.batch).rename(self._file(manifest.batch, ".abandoned"))
            raise _would_lose_rows(self.source, [f"{one.path} {one.reason}" for one in gone])
        if gone:
            # No hash: whatever lies at that path next is a new delivery.
            later = [*manifest.rejected[len(self._read_plain(manifest.batch).rejected) :], *gone]
            _replace(self._file(manifest.batch, ".rejected"), json.dumps([asdict(one) for one in later], indent=1))
            manifest = self._read(self._file(manifest.batch))
        return manifest

    def check_refresh(self, history: Sequence[Manifest]) -> None:
        """Check that a full refresh finds everything on record in the landing zone, with the same bytes.

        Raises:
            LandingError: it would lose rows.
        """
        wanted: dict[str, list[Delivery]] = {}
        for manifest in history:
            for one in manifest.files:
                if self.source.relanded == "replace":
                    wanted[one.path] = [one]
                else:
                    wanted.setdefault(one.path, []).append(one)
        problems = []
        for path, deliveries in wanted.items():
            file = self.root / path
            found = _sha256(file) if file.is_file() else None
            for one in {d.sha256: d for d in deliveries}.values():
                if found is None:
                    problems.append(f"{path} is gone")
                elif found != one.sha256:
                    problems.append(f"{path} holds other bytes than delivery {one.file_id}")
        if problems:
            raise _would_lose_rows(self.source, problems)

    def _inspect(self, one: Delivery) -> Delivery | Rejected:
        path = self.root / one.path
        digest, reason = "", None
        try:
            digest = _sha256(path)
            reason = _unreadable_name(one.path) or INSPECTIONS[self.source.format](path, self.source)
        except EOFError:
            reason = "ends before its compressed data does"
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 text (byte {error.start} of a part: {error.reason})"
        except Exception as error:  # whatever a reader raises on a broken file: it must not block the others
            reason = f"cannot be read: {first_line(error)}"
        if reason:
            return Rejected(one.path, one.size, one.modified_ns, digest, reason)
        return replace(one, sha256=digest)

    def _file(self, batch: int, suffix: str = "") -> Path:
        return self.manifests / f"{batch:08d}{suffix}.json"

    def _read(self, file: Path) -> Manifest:
        manifest = self._read_plain(int(file.stem))
        later_file = file.with_name(f"{file.stem}.rejected.json")
        if not later_file.exists():
            return manifest
        later = tuple(Rejected(**one) for one in json.loads(later_file.read_text(encoding="utf-8")))
        gone = {one.path for one in later}
        kept = tuple(one for one in manifest.files if one.path not in gone)
        return replace(manifest, files=kept, rejected=manifest.rejected + later)

    def _read_plain(self, batch: int) -> Manifest:
        file = self._file(batch)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            files = tuple(Delivery(**one) for one in value.pop("files"))
            rejected = tuple(Rejected(**one) for one in value.pop("rejected"))
            return Manifest(**value, files=files, rejected=rejected)
        except (ValueError, TypeError, KeyError) as error:
            raise LandingError(f"{file}: not a manifest ({error}); restore it from a backup of the lake.") from error


def deliver(landing: Path, source: Source, files: Iterable[Path]) -> list[Path]:
    """Put copies of files into a source's landing folder, each whole: written under a temporary name, then renamed.

    Raises:
        LandingError: a file is not there, or its name is one that the landing zone leaves alone; nothing is delivered.
    """
    files = list(files)
    problems = [f"{file} is not a file" for file in files if not file.is_file()]
    problems += [
        f"{file.name} has a name that is left alone (_, . or a temporary suffix)"
        for file in files
        if left_alone(file.name)
    ]
    names = [file.name for file in files]
    problems += [f"two files are called {name}" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise LandingError("Nothing was delivered: " + "; ".join(problems) + ".")
    folder = landing / source.landing
    folder.mkdir(parents=True, exist_ok=True)
    delivered = []
    for file in files:
        place_whole(folder / file.name, file.read_bytes())
        delivered.append(folder / file.name)
    return delivered


def _in_table(history: Iterable[Manifest]) -> dict[str, tuple[Delivery, str]]:
    """The last delivery of each path whose rows the table holds, and when: a full batch took the place of all before it."""
    taken: dict[str, tuple[Delivery, str]] = {}
    for manifest in history:
        if manifest.full:
            taken.clear()
        taken.update((one.path, (one, manifest.at)) for one in manifest.files)
    return taken


def _would_lose_rows(source: Source, problems: Sequence[str]) -> LandingError:
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return LandingError(
        f"{source.name}: a full refresh would lose rows, so nothing was done: {'; '.join(problems[:5])}{more}. "
        "Put the files back as they were delivered, fitting the declaration, and run --full-refresh again."
    )


def place_whole(target: Path, content: bytes) -> bool:
    """Write a file so that no reader sees half of it; False where the same bytes are there already."""
    if target.exists() and target.stat().st_size == len(content) and target.read_bytes() == content:
        return False
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, target)
    return True


def _unreadable_name(path: str) -> str | None:
    """Why Spark's readers cannot take a file of this name, or would read something else than was inspected."""
    if ":" in path:
        return "has a colon in its path, which Spark cannot read"
    if path.endswith(COMPRESSED_SUFFIXES):
        return f"is compressed as {Path(path).suffix}; deliver it plain or as .gz"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return None


def left_alone(name: str) -> bool:
    """Whether the name is that of a file or folder which its writer has not finished, or hides."""
    return name.startswith(("_", ".")) or name.endswith(TEMPORARY_SUFFIXES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _epoch(at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(at).timestamp()


def _create(file: Path, text: str) -> None:
    """Create a file with its whole content, or fail where it exists."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, file)
    except FileExistsError:
        raise LandingError(f"{file} exists: another run took this batch. Run again.") from None
    finally:
        temporary.unlink()


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)
