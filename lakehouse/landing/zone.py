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
from lakehouse.errors import LandingError, StorageError, get_first_line
from lakehouse.landing.inspection import count_parquet_rows, inspect_file, preview_file
from lakehouse.landing.manifest import LandedFile, Manifest, RejectedFile
from lakehouse.storage import location
from lakehouse.storage.location import FileInfo, Location

# Names that a writer gives to files it has not finished.
TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".inprogress", ".crdownload", "~")
COMPRESSED_SUFFIXES = (".bz2", ".deflate", ".lz4", ".snappy", ".zst", ".zstd", ".xz", ".zip")
# A file changed this shortly before it was listed may have changed again under the same time stamp: hash it once more.
REHASH_SECONDS = 2.0


class LandingZone:
    """One source's landing folder and manifests; ``undone`` says which batches its table has taken back."""

    def __init__(
        self,
        source: Source,
        landing: Location,
        manifests: Location,
        get_rolled_back_batches: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.source = source
        self.root: Location = landing
        self.folder: Location = landing / source.landing
        self.manifest_folder: Location = manifests / source.name
        self.get_rolled_back_batches = get_rolled_back_batches

    def read_history(self) -> list[Manifest]:
        """Every manifest, oldest first; one whose batch was taken back has no files."""
        return self.read_history_without(self.get_rolled_back_batches())

    def read_history_without(self, batches: Collection[int]) -> list[Manifest]:
        """The manifests as they stand when these batches are taken back."""
        return [one.mark_rolled_back() if one.batch in batches else one for one in self.read_manifests()]

    def read_manifests(self) -> list[Manifest]:
        """The manifests as written, oldest first, with what was rejected after that taken into account."""
        there = location.list_names(self.manifest_folder)
        batches = [int(name.removesuffix(".json")) for name in there if name.removesuffix(".json").isdigit()]
        with ThreadPoolExecutor() as pool:
            return list(
                pool.map(lambda batch: self._read_manifest(batch, f"{batch:08d}.rejected.json" in there), batches)
            )

    def list_files(self) -> list[LandedFile]:
        """The files that are there and finished, by path, not yet hashed."""
        settled_ns = time.time_ns() - int(self.source.settle_seconds * 1e9)
        found = [
            LandedFile(f"{self.source.landing}/{one.path}", one.size, one.modified_ns, one.identity)
            for one in location.walk(self.folder, is_ignored)
            if not self.source.settle_seconds or one.modified_ns <= settled_ns
        ]
        return sorted(found, key=lambda one: one.path)

    def find_new_files(self, history: Sequence[Manifest], fingerprint: str) -> list[LandedFile]:
        """The files that no batch has taken yet: new paths, and known ones with other bytes.

        A rejected file counts as taken until its bytes or the source's declaration change.
        """
        taken, refused = _find_effective_files(history), dict[str, tuple[RejectedFile, str]]()
        for manifest in history:
            for one in manifest.rejected_files:
                if one.identity and manifest.fingerprint == fingerprint:
                    refused[one.path] = (one, manifest.created_at)
                else:  # it could not be read then, or another declaration refused it
                    refused.pop(one.path, None)
        return [
            one
            for one in self.list_files()
            if not (self._is_known(one, taken.get(one.path)) or self._is_known(one, refused.get(one.path)))
        ]

    def find_rejected_files(self, history: Iterable[Manifest]) -> list[RejectedFile]:
        """The rejected files that still wait for somebody: neither delivered again nor taken away since."""
        waiting: dict[str, RejectedFile] = {}
        for manifest in history:
            waiting.update((one.path, one) for one in manifest.rejected_files)
            for one in manifest.files:
                waiting.pop(one.path, None)
        there = location.stat_files(self.root, waiting)
        return [one for path, one in waiting.items() if not isinstance(there[path], OSError)]

    def count_rows(self, files: Iterable[LandedFile]) -> int | None:
        """The rows of files that say how many they have (Parquet), as far as they can be read; None for others."""
        if self.source.format != "parquet":
            return None
        return sum(count_parquet_rows(self.root / one.path) for one in files)

    def preview_files(self, files: Iterable[LandedFile]) -> list[tuple[str, str | None, Mapping[str, str] | None]]:
        """Of each file its path, why it will be rejected, and its columns where they are not those declared; as far as its
        beginning tells."""
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda one: (one.path, preview_file(self.root / one.path, self.source)), files)
            return [(path, seen.reason, seen.columns) for path, seen in found]

    def _is_known(self, one: LandedFile, taken: tuple[LandedFile | RejectedFile, str] | None) -> bool:
        if taken is None or taken[0].size != one.size:
            return False
        before, at = taken
        if one.identity:
            return one.identity == before.identity
        same_time = before.modified_ns == one.modified_ns
        if same_time and before.modified_ns / 1e9 < _to_epoch(at) - REHASH_SECONDS:
            return True
        try:
            return bool(before.identity) and location.compute_identity(self.root / one.path) == before.identity
        except OSError:  # what cannot be read is looked at, and rejected, by the next batch
            return False

    def write_manifest(
        self,
        batch: int,
        fingerprint: str,
        history: Sequence[Manifest],
        files: Iterable[LandedFile],
        is_full: bool = False,
    ) -> Manifest:
        """Inspect the files, then write the batch's manifest: whole files numbered, the others rejected.

        Raises:
            LandingError: the manifest is there already, written by another run; or the batch takes the place of all before it
                and files on record would not be in it.
        """
        last_id = max((one.file_id for m in history for one in (*m.files, *m.rolled_back_files)), default=0)
        taken = {path: one for path, (one, _) in _find_effective_files(history).items()}
        if is_full:  # the order in which they were delivered is what makes one row newer than another
            files = sorted(files, key=lambda one: taken[one.path].file_id if one.path in taken else last_id + 1)
        with ThreadPoolExecutor() as pool:
            inspected = list(pool.map(self._inspect, files))
        whole: list[LandedFile] = []
        for one in inspected:
            if not isinstance(one, LandedFile):
                continue
            before = taken.get(one.path)
            if before and before.identity == one.identity and not is_full:
                continue  # the delivery that the table has already
            last_id += 1
            whole.append(replace(one, file_id=last_id))
        rejected = tuple(one for one in inspected if isinstance(one, RejectedFile))
        if is_full and (lost := sorted(taken.keys() - {one.path for one in whole})):
            reasons = {one.path: one.reason for one in rejected}
            raise _build_refresh_error(
                self.source, [f"{p} {reasons.get(p, 'has not settled or is gone')}" for p in lost]
            )
        manifest = Manifest(self.source.name, batch, now(), fingerprint, tuple(whole), rejected, is_full)
        try:
            said = {name: value for name, value in asdict(manifest).items() if name != "rolled_back_files"}
            location.create(self._get_manifest_path(batch), json.dumps(said, indent=1).encode())
        except FileExistsError:
            raise LandingError(
                f"{self._get_manifest_path(batch)} exists: another run took this batch. Run again."
            ) from None
        return manifest

    def verify_manifest(self, manifest: Manifest, fingerprint: str) -> Manifest:
        """The manifest less the files that vanished or changed since it was written; these go on record as rejected.

        Where the source was declared otherwise then, files that do not fit its declaration now are rejected, too.

        Raises:
            LandingError: the batch takes the place of all before it, and would lose the rows of such a file. Its
                manifest is put away, so that the next run goes on from what the table holds.
        """
        there = location.stat_files(self.root, [one.path for one in manifest.files])
        gone, columns = [], {one.path: one.columns for one in manifest.files}
        for one in manifest.files:
            found = there[one.path]
            if isinstance(found, OSError):
                gone.append(RejectedFile(one.path, one.size, one.modified_ns, "", f"cannot be read: {found.strerror}"))
            elif not self._is_unchanged(one, found):
                gone.append(
                    RejectedFile(one.path, one.size, one.modified_ns, "", "changed while its batch was under way")
                )
            elif manifest.fingerprint != fingerprint:
                inspected = self._inspect(one)
                if isinstance(inspected, RejectedFile):
                    gone.append(replace(inspected, identity=""))
                else:
                    columns[one.path] = inspected.columns
        if gone and manifest.is_full:
            location.put(
                self._get_manifest_path(manifest.batch, ".abandoned"),
                self._get_manifest_path(manifest.batch).read_bytes(),
            )
            self._get_manifest_path(manifest.batch).unlink()
            raise _build_refresh_error(self.source, [f"{one.path} {one.reason}" for one in gone])
        if gone:
            # No hash: whatever lies at that path next is a new delivery.
            later = [
                *manifest.rejected_files[len(self._read_original_manifest(manifest.batch).rejected_files) :],
                *gone,
            ]
            said = json.dumps([asdict(one) for one in later], indent=1)
            location.put(self._get_manifest_path(manifest.batch, ".rejected"), said.encode())
            manifest = self._read_manifest(manifest.batch, True)
        return replace(manifest, files=tuple(replace(one, columns=columns[one.path]) for one in manifest.files))

    def _is_unchanged(self, one: LandedFile, found: FileInfo) -> bool:
        if not found.identity and (found.size, found.modified_ns) == (one.size, one.modified_ns):
            return True
        return (found.identity or location.compute_identity(self.root / one.path)) == one.identity

    def check_refresh(self, history: Sequence[Manifest]) -> None:
        """Check that a full refresh finds everything on record in the landing zone, with the same bytes.

        Raises:
            LandingError: it would lose rows.
        """
        wanted: dict[str, list[LandedFile]] = {}
        for manifest in history:
            for one in manifest.files:
                if self.source.on_redelivery == "replace":
                    wanted[one.path] = [one]
                else:
                    wanted.setdefault(one.path, []).append(one)
        problems = []
        there = location.stat_files(self.root, wanted)
        for path, deliveries in wanted.items():
            found = there[path]
            known = "" if isinstance(found, OSError) else found.identity or location.compute_identity(self.root / path)
            for one in {d.identity: d for d in deliveries}.values():
                if not known:
                    problems.append(f"{path} is gone")
                elif known != one.identity:
                    problems.append(f"{path} holds other bytes than delivery {one.file_id}")
        if problems:
            raise _build_refresh_error(self.source, problems)

    def _inspect(self, one: LandedFile) -> LandedFile | RejectedFile:
        path = self.root / one.path
        identity, columns = one.identity, None
        try:
            identity = identity or location.compute_identity(path)
            reason = _check_name(one.path)
            if reason is None:
                seen = inspect_file(path, self.source)
                reason, columns = seen.reason, seen.columns
        except EOFError:
            reason = "ends before its compressed data does"
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 text (byte {error.start} of a part: {error.reason})"
        except StorageError:  # says nothing of the file
            raise
        except Exception as error:  # whatever a reader raises on a broken file: it must not block the others
            reason = f"cannot be read: {get_first_line(error)}"
        if reason:
            return RejectedFile(one.path, one.size, one.modified_ns, identity, reason)
        return replace(one, identity=identity, columns=columns and dict(columns))

    def _get_manifest_path(self, batch: int, suffix: str = "") -> Location:
        return self.manifest_folder / f"{batch:08d}{suffix}.json"

    def _read_manifest(self, batch: int, has_later: bool) -> Manifest:
        manifest = self._read_original_manifest(batch)
        if not has_later:
            return manifest
        later = tuple(
            RejectedFile(**one)
            for one in json.loads(self._get_manifest_path(batch, ".rejected").read_text(encoding="utf-8"))
        )
        gone = {one.path for one in later}
        kept = tuple(one for one in manifest.files if one.path not in gone)
        return replace(manifest, files=kept, rejected_files=manifest.rejected_files + later)

    def _read_original_manifest(self, batch: int) -> Manifest:
        file = self._get_manifest_path(batch)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            files = tuple(LandedFile(**one) for one in value.pop("files"))
            rejected = tuple(RejectedFile(**one) for one in value.pop("rejected_files"))
            return Manifest(**value, files=files, rejected_files=rejected)
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
        if is_ignored(file.name)
    ]
    names = [file.name for file in files]
    problems += [f"two files are called {name}" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise LandingError("Nothing was delivered: " + "; ".join(problems) + ".")
    delivered: list[Location] = [landing.joinpath(source.landing, name) for name in names]
    for file, target in zip(files, delivered, strict=True):
        location.put_if_changed(target, file, progress)
    return delivered


def _find_effective_files(history: Iterable[Manifest]) -> dict[str, tuple[LandedFile, str]]:
    """The last delivery of each path whose rows the table holds, and when: a full batch took the place of all before it."""
    taken: dict[str, tuple[LandedFile, str]] = {}
    for manifest in history:
        if manifest.is_full:
            taken.clear()
        taken.update((one.path, (one, manifest.created_at)) for one in manifest.files)
    return taken


def _build_refresh_error(source: Source, problems: Sequence[str]) -> LandingError:
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return LandingError(
        f"{source.name}: a full refresh would lose rows, so nothing was done: {'; '.join(problems[:5])}{more}. "
        "Put the files back as they were delivered, fitting the declaration, and run --full-refresh again."
    )


def _check_name(path: str) -> str | None:
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


def is_ignored(name: str) -> bool:
    """Whether the name is that of a file or folder which its writer has not finished, or hides."""
    return name.startswith(("_", ".")) or name.endswith(TEMPORARY_SUFFIXES)


def _to_epoch(at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(at).timestamp()
