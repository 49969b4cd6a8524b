"""The landing zone: which files are new, whether they are whole, and the manifest that pins a batch before it is read.

Batch N's exact list of files is written to manifests/<source>/<N>.json, once, before Spark reads any of them; a batch that a
killed run left unfinished is finished with that same list. Files that turn out broken are rejected as a whole, with the
reason, beside the manifest, and do not block the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from lakehouse.clock import now
from lakehouse.definitions.sources import Source
from lakehouse.errors import LandingError, StorageError, first_line
from lakehouse.landing.inspection import at_first_sight, inspect, parquet_rows
from lakehouse.landing.manifest import Delivery, Manifest, Rejected
from lakehouse.storage import location
from lakehouse.storage.location import Found, Location

# Names that a writer gives to files it has not finished.
TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".inprogress", ".crdownload", "~")
COMPRESSED_SUFFIXES = (".bz2", ".deflate", ".lz4", ".snappy", ".zst", ".zstd", ".xz", ".zip")
# A file changed this shortly before it was listed may have changed again under the same time stamp: hash it once more.
RACY_SECONDS = 2.0


class Landing:
    """One source's landing folder and manifests; ``undone`` says which batches its table has taken back."""

    def __init__(
        self, source: Source, landing: Location, manifests: Location, undone: Callable[[], Collection[int]] = tuple
    ) -> None:
        self.source = source
        self.root: Location = landing
        self.folder: Location = landing / source.landing
        self.manifests: Location = manifests / source.name
        self.undone = undone

    def history(self) -> list[Manifest]:
        """Every manifest, oldest first; one whose batch was taken back has no files."""
        return self.without(self.undone())

    def without(self, batches: Collection[int]) -> list[Manifest]:
        """The manifests as they stand when these batches are taken back."""
        return [one.taken_back() if one.batch in batches else one for one in self.everything()]

    def everything(self) -> list[Manifest]:
        """The manifests as written, oldest first, with what was rejected after that taken into account."""
        there = location.names(self.manifests)
        batches = [int(name.removesuffix(".json")) for name in there if name.removesuffix(".json").isdigit()]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda batch: self._read(batch, f"{batch:08d}.rejected.json" in there), batches))

    def listed(self) -> list[Delivery]:
        """The files that are there and finished, by path, not yet hashed."""
        settled_ns = time.time_ns() - int(self.source.settle_seconds * 1e9)
        found = [
            Delivery(f"{self.source.landing}/{one.path}", one.size, one.modified_ns, one.identity)
            for one in location.walk(self.folder, left_alone)
            if not self.source.settle_seconds or one.modified_ns <= settled_ns
        ]
        return sorted(found, key=lambda one: one.path)

    def pending(self, history: Sequence[Manifest], definition: str) -> list[Delivery]:
        """The files that no batch has taken yet: new paths, and known ones with other bytes.

        A rejected file counts as taken until its bytes or the source's declaration change.
        """
        taken, refused = _in_table(history), dict[str, tuple[Rejected, str]]()
        for manifest in history:
            for one in manifest.rejected:
                if one.identity and manifest.definition == definition:
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
        there = location.look_up(self.root, waiting)
        return [one for path, one in waiting.items() if not isinstance(there[path], OSError)]

    def rows(self, files: Iterable[Delivery]) -> int | None:
        """The rows of files that say how many they have (Parquet), as far as they can be read; None for others."""
        if self.source.format != "parquet":
            return None
        return sum(parquet_rows(self.root / one.path) for one in files)

    def at_first_sight(self, files: Iterable[Delivery]) -> list[tuple[str, str | None, Mapping[str, str] | None]]:
        """Of each file its path, why it will be rejected, and its columns where they are not those declared; as far as its
        beginning tells."""
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda one: (one.path, at_first_sight(self.root / one.path, self.source)), files)
            return [(path, seen.reason, seen.columns) for path, seen in found]

    def _is_known(self, one: Delivery, taken: tuple[Delivery | Rejected, str] | None) -> bool:
        if taken is None or taken[0].size != one.size:
            return False
        before, at = taken
        if one.identity:
            return one.identity == before.identity
        same_time = before.modified_ns == one.modified_ns
        if same_time and before.modified_ns / 1e9 < _epoch(at) - RACY_SECONDS:
            return True
        try:
            return bool(before.identity) and location.identity(self.root / one.path) == before.identity
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
        last_id = max((one.file_id for m in history for one in (*m.files, *m.undone)), default=0)
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
            if before and before.identity == one.identity and not full:
                continue  # the delivery that the table has already
            last_id += 1
            whole.append(replace(one, file_id=last_id))
        rejected = tuple(one for one in inspected if isinstance(one, Rejected))
        if full and (lost := sorted(taken.keys() - {one.path for one in whole})):
            reasons = {one.path: one.reason for one in rejected}
            raise _would_lose_rows(self.source, [f"{p} {reasons.get(p, 'has not settled or is gone')}" for p in lost])
        manifest = Manifest(self.source.name, batch, now(), definition, tuple(whole), rejected, full)
        try:
            said = {name: value for name, value in asdict(manifest).items() if name != "undone"}
            location.create(self._file(batch), json.dumps(said, indent=1).encode())
        except FileExistsError:
            raise LandingError(f"{self._file(batch)} exists: another run took this batch. Run again.") from None
        return manifest

    def verified(self, manifest: Manifest, definition: str) -> Manifest:
        """The manifest less the files that vanished or changed since it was written; these go on record as rejected.

        Where the source was declared otherwise then, files that do not fit its declaration now are rejected, too.

        Raises:
            LandingError: the batch takes the place of all before it, and would lose the rows of such a file. Its
                manifest is put away, so that the next run goes on from what the table holds.
        """
        there = location.look_up(self.root, [one.path for one in manifest.files])
        gone, columns = [], {one.path: one.columns for one in manifest.files}
        for one in manifest.files:
            found = there[one.path]
            if isinstance(found, OSError):
                gone.append(Rejected(one.path, one.size, one.modified_ns, "", f"cannot be read: {found.strerror}"))
            elif not self._is_still(one, found):
                gone.append(Rejected(one.path, one.size, one.modified_ns, "", "changed while its batch was under way"))
            elif manifest.definition != definition:
                inspected = self._inspect(one)
                if isinstance(inspected, Rejected):
                    gone.append(replace(inspected, identity=""))
                else:
                    columns[one.path] = inspected.columns
        if gone and manifest.full:
            location.put(self._file(manifest.batch, ".abandoned"), self._file(manifest.batch).read_bytes())
            self._file(manifest.batch).unlink()
            raise _would_lose_rows(self.source, [f"{one.path} {one.reason}" for one in gone])
        if gone:
            # No hash: whatever lies at that path next is a new delivery.
            later = [*manifest.rejected[len(self._read_plain(manifest.batch).rejected) :], *gone]
            said = json.dumps([asdict(one) for one in later], indent=1)
            location.put(self._file(manifest.batch, ".rejected"), said.encode())
            manifest = self._read(manifest.batch, True)
        return replace(manifest, files=tuple(replace(one, columns=columns[one.path]) for one in manifest.files))

    def _is_still(self, one: Delivery, found: Found) -> bool:
        if not found.identity and (found.size, found.modified_ns) == (one.size, one.modified_ns):
            return True
        return (found.identity or location.identity(self.root / one.path)) == one.identity

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
        there = location.look_up(self.root, wanted)
        for path, deliveries in wanted.items():
            found = there[path]
            known = "" if isinstance(found, OSError) else found.identity or location.identity(self.root / path)
            for one in {d.identity: d for d in deliveries}.values():
                if not known:
                    problems.append(f"{path} is gone")
                elif known != one.identity:
                    problems.append(f"{path} holds other bytes than delivery {one.file_id}")
        if problems:
            raise _would_lose_rows(self.source, problems)

    def _inspect(self, one: Delivery) -> Delivery | Rejected:
        path = self.root / one.path
        identity, columns = one.identity, None
        try:
            identity = identity or location.identity(path)
            reason = _unreadable_name(one.path)
            if reason is None:
                seen = inspect(path, self.source)
                reason, columns = seen.reason, seen.columns
        except EOFError:
            reason = "ends before its compressed data does"
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 text (byte {error.start} of a part: {error.reason})"
        except StorageError:  # says nothing of the file
            raise
        except Exception as error:  # whatever a reader raises on a broken file: it must not block the others
            reason = f"cannot be read: {first_line(error)}"
        if reason:
            return Rejected(one.path, one.size, one.modified_ns, identity, reason)
        return replace(one, identity=identity, columns=columns and dict(columns))

    def _file(self, batch: int, suffix: str = "") -> Location:
        return self.manifests / f"{batch:08d}{suffix}.json"

    def _read(self, batch: int, has_later: bool) -> Manifest:
        manifest = self._read_plain(batch)
        if not has_later:
            return manifest
        later = tuple(Rejected(**one) for one in json.loads(self._file(batch, ".rejected").read_text(encoding="utf-8")))
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


def deliver(
    landing: Location, source: Source, files: Iterable[Path], progress: Callable[[int], None] | None = None
) -> list[Location]:
    """Put copies of files into a source's landing folder, each whole; ``progress`` is told of bytes sent to a bucket.

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
    delivered: list[Location] = [landing.joinpath(source.landing, name) for name in names]
    for file, target in zip(files, delivered, strict=True):
        location.deliver(target, file, progress)
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


def _epoch(at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(at).timestamp()
