"""The landing zone: its new files, and the manifest that pins a batch before it is read.

The list of files of batch N is written once to manifests/<source>/<N>.json, before any of them is read. If a run is
killed, the next run finishes the batch with the same list. A damaged file is rejected as a whole and does not block the
rest. The reason is stored in the manifest if the path alone gives it, or else beside it in <N>.rejected.json.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from lakehouse.clock import now
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import Source
from lakehouse.errors import LandingError, WorkerLostError, escape_controls, get_first_line
from lakehouse.landing.manifest import LandedFile, Manifest, RejectedFile
from lakehouse.landing.paths import find_path_problem, is_gone, is_ignored, stat_files
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits
from lakehouse.landing.reader.counting import count_records
from lakehouse.landing.reader.preview import preview_file
from lakehouse.landing.reader.rejection import ChangedFileError
from lakehouse.storage import location
from lakehouse.storage.location import FileInfo, Location

# A file that changed just before it was listed may change again under the same time stamp. Its content is hashed again.
REHASH_SECONDS = 2.0


class LandingZone:
    """The landing folder and the manifests of one source.

    Args:
        source: the declared source.
        landing: the folder of all landing folders.
        manifests: the folder of all manifests.
        get_rolled_back_batches: returns the batches that the bronze table has rolled back.
        unpack_limits: how far a file may unpack.
    """

    def __init__(
        self,
        source: Source,
        landing: Location,
        manifests: Location,
        get_rolled_back_batches: Callable[[], Collection[int]] = tuple,
        unpack_limits: UnpackLimits = DEFAULT_LIMITS,
    ) -> None:
        self.source = source
        self.root: Location = landing
        self.folder: Location = landing / source.landing
        self.manifest_folder: Location = manifests / source.name
        self.get_rolled_back_batches = get_rolled_back_batches
        self.unpack_limits = unpack_limits

    @property
    def fingerprint(self) -> str:
        """A hash of the declaration and the limits, by which a file that they reject is not read again."""
        limits = self.unpack_limits
        more = "" if limits == DEFAULT_LIMITS else f"+{limits.max_bytes}+{limits.max_ratio}"
        return compute_fingerprint(self.source) + more

    def read_history(self) -> list[Manifest]:
        """Return every manifest, oldest first. The manifest of a batch that was rolled back has no files."""
        return self.read_history_without(self.get_rolled_back_batches())

    def read_history_without(self, batches: Collection[int]) -> list[Manifest]:
        """Return every manifest as if the given batches were rolled back."""
        return [
            manifest.mark_rolled_back() if manifest.batch in batches else manifest for manifest in self.read_manifests()
        ]

    def read_manifests(self) -> list[Manifest]:
        """Return the manifests as written, oldest first. Files that were rejected later count as rejected."""
        names = location.list_names(self.manifest_folder)
        batches = [int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdigit()]
        with ThreadPoolExecutor() as pool:
            return list(
                pool.map(lambda batch: self._read_manifest(batch, f"{batch:08d}.rejected.json" in names), batches)
            )

    def list_files(self) -> list[LandedFile]:
        """Return the finished files by path, without an identity where the store has none.

        A symbolic link is among them, and is rejected later. If the source's folder is a link, it is the only one.
        """
        if link := location.find_link(self.root, self.source.landing):
            info = location.stat_link(self.root, link)
            return [LandedFile(link, info.size, info.modified_ns)]
        settled_ns = time.time_ns() - int(self.source.settle_seconds * 1e9)
        files = [
            LandedFile(f"{self.source.landing}/{info.path}", info.size, info.modified_ns, info.identity)
            for info in location.walk(self.folder, is_ignored)
            if not self.source.settle_seconds or info.modified_ns <= settled_ns
        ]
        return sorted(files, key=lambda file: file.path)

    def find_new_files(self, history: Sequence[Manifest], fingerprint: str) -> list[LandedFile]:
        """Return the files that no batch has read: new paths, and earlier paths with other bytes.

        A rejected file is new again when its bytes or the declaration of the source change.
        """
        deliveries, rejections = _find_effective_files(history), dict[str, tuple[RejectedFile, str]]()
        for manifest in history:
            for file in manifest.rejected_files:
                if file.identity and manifest.fingerprint == fingerprint:
                    rejections[file.path] = (file, manifest.created_at)
                else:  # The file could not be read, or another declaration rejected it.
                    rejections.pop(file.path, None)
        return [
            file
            for file in self.list_files()
            if not self._has_same_content(file, deliveries.get(file.path))
            and not self._has_same_content(file, rejections.get(file.path))
        ]

    def find_rejected_files(self, history: Iterable[Manifest]) -> list[RejectedFile]:
        """Return by path the rejected files that still need attention: neither delivered again nor removed since."""
        rejections: dict[str, RejectedFile] = {}
        for manifest in history:
            rejections.update((rejected.path, rejected) for rejected in manifest.rejected_files)
            for file in manifest.files:
                rejections.pop(file.path, None)
        states = stat_files(self.root, rejections)
        return [rejected for path, rejected in sorted(rejections.items()) if not is_gone(states[path])]

    def reject_by_path(self, files: Iterable[LandedFile]) -> list[RejectedFile]:
        """Return the files that the next run rejects by their paths alone, such as symbolic links."""
        problems = ((file, find_path_problem(self.root, file.path)) for file in files)
        return [
            RejectedFile(file.path, file.size, file.modified_ns, file.identity, reason)
            for file, reason in problems
            if reason
        ]

    def count_rows(self, files: Iterable[LandedFile]) -> int | None:
        """Return the number of rows that the footers of readable Parquet files give; None for other formats."""
        if self.source.format != "parquet":
            return None
        return sum(self._count_rows(file) for file in files if not find_path_problem(self.root, file.path))

    def _count_rows(self, file: LandedFile) -> int:
        try:
            return count_records(self.source, file, self.root, self.unpack_limits)
        except (OSError, ValueError):  # pyarrow's errors are subclasses of these; the run rejects the file
            return 0

    def preview_files(self, files: Collection[LandedFile]) -> list[tuple[str, str | None, Mapping[str, str] | None]]:
        """Read the beginning of each file.

        Returns:
            For each file its path, the reason for its rejection, and its columns if they are not the declared ones.
        """
        with ThreadPoolExecutor() as pool:
            return [(file.path, *preview) for file, preview in zip(files, pool.map(self._preview, files), strict=True)]

    def _preview(self, file: LandedFile) -> tuple[str | None, Mapping[str, str] | None]:
        problem = find_path_problem(self.root, file.path)
        return (problem, None) if problem else preview_file(self.source, file, self.root, self.unpack_limits)

    def _has_same_content(self, file: LandedFile, earlier: tuple[LandedFile | RejectedFile, str] | None) -> bool:
        """Return whether a file has the content of an earlier delivery, which comes with the time of its manifest."""
        if earlier is None or earlier[0].size != file.size:
            return False
        delivery, created_at = earlier
        if file.identity:
            return file.identity == delivery.identity
        same_time = delivery.modified_ns == file.modified_ns
        if same_time and delivery.modified_ns / 1e9 < _to_epoch(created_at) - REHASH_SECONDS:
            return True
        try:
            return bool(delivery.identity) and location.compute_identity(self.root / file.path) == delivery.identity
        except OSError:  # The next batch rejects the unreadable file.
            return False

    def pin_batch(
        self,
        batch: int,
        fingerprint: str,
        history: Sequence[Manifest],
        files: Iterable[LandedFile],
        is_full: bool = False,
    ) -> Manifest:
        """Identify the files by their content, number them, and write the manifest of the batch before any is read.

        Args:
            is_full: the batch replaces all earlier batches.

        Raises:
            LandingError: another run wrote the manifest, or a full batch would lose files of earlier manifests.
        """
        last_id = max((file.file_id for m in history for file in (*m.files, *m.rolled_back_files)), default=0)
        deliveries = {path: delivery for path, (delivery, _) in _find_effective_files(history).items()}
        if is_full:  # The order of delivery decides which of two rows is newer.
            numbers = {path: delivery.file_id for path, delivery in deliveries.items()}
            files = sorted(files, key=lambda file: numbers.get(file.path, last_id + 1))
        with ThreadPoolExecutor() as pool:
            identified = list(pool.map(self._identify, files))
        accepted = [file for file in identified if isinstance(file, LandedFile)]
        if not is_full:  # The table has the rows of a repeated delivery.
            identities = {path: delivery.identity for path, delivery in deliveries.items()}
            accepted = [file for file in accepted if identities.get(file.path) != file.identity]
        numbered = tuple(replace(file, file_id=number) for number, file in enumerate(accepted, start=last_id + 1))
        rejected = tuple(file for file in identified if isinstance(file, RejectedFile))
        if is_full and (lost := sorted(deliveries.keys() - {file.path for file in numbered})):
            reasons = {file.path: file.reason for file in rejected}
            default = "is missing, or was modified within settle_seconds"
            raise _build_refresh_error(self.source, [f"{path} {reasons.get(path, default)}" for path in lost])
        manifest = Manifest(self.source.name, batch, now(), fingerprint, numbered, rejected, is_full)
        self.create_manifest(manifest)
        return manifest

    def _identify(self, file: LandedFile) -> LandedFile | RejectedFile:
        """Return the file with its identity, or its rejection by its path alone."""
        identity = file.identity
        try:
            identity = identity or location.compute_identity(self.root / file.path)
            reason = find_path_problem(self.root, file.path)
        except OSError as error:
            reason = f"cannot be read: {get_first_line(error)}"
        if reason:
            return RejectedFile(file.path, file.size, file.modified_ns, identity, reason)
        return replace(file, identity=identity)

    def create_manifest(self, manifest: Manifest) -> None:
        """Write a manifest that does not exist.

        Raises:
            LandingError: The manifest exists.
        """
        file = self.get_manifest_path(manifest.batch)
        fields = {name: value for name, value in asdict(manifest).items() if name != "rolled_back_files"}
        try:
            location.create(file, json.dumps(fields, indent=1).encode())
        except FileExistsError:
            raise LandingError(f"{file}: another run created this manifest. Run again.") from None

    def verify_batch(self, manifest: Manifest, history: Iterable[Manifest]) -> Manifest:
        """Return the manifest without files that vanished or changed after it was written. Record these as rejected.

        Raises:
            LandingError: a full batch would lose the rows of such a file (`reject_files`).
        """
        states = stat_files(self.root, [file.path for file in manifest.files])
        problems = ((file, self._find_change(file, states[file.path])) for file in manifest.files)
        # A rejection without an identity: the next file at the same path is a new delivery.
        return self.reject_files(
            manifest,
            history,
            [RejectedFile(file.path, file.size, file.modified_ns, "", reason) for file, reason in problems if reason],
        )

    def _find_change(self, file: LandedFile, state: FileInfo | OSError) -> str | None:
        if isinstance(state, OSError):
            return str(state.strerror) if state.errno == errno.ELOOP else f"cannot be read: {state.strerror}"
        return None if self._is_unchanged(file, state) else str(ChangedFileError())

    def reject_files(
        self, manifest: Manifest, history: Iterable[Manifest], rejected: Sequence[RejectedFile]
    ) -> Manifest:
        """Record rejections beside a pinned manifest, and return the manifest without these files.

        Raises:
            LandingError: a full batch would lose rows of an earlier batch. Its manifest is renamed, and the next run
                continues from the rows of the table.
        """
        if not rejected:
            return manifest
        deliveries = _find_effective_files(past for past in history if past.batch < manifest.batch)
        lost = [f"{file.path} {file.reason}" for file in rejected if file.path in deliveries]
        if manifest.is_full and lost:
            path = self.get_manifest_path(manifest.batch)
            location.put(self.get_manifest_path(manifest.batch, ".abandoned"), path.read_bytes())
            path.unlink()
            raise _build_refresh_error(self.source, lost)
        original_count = len(self._read_original_manifest(manifest.batch).rejected_files)
        later = [*manifest.rejected_files[original_count:], *rejected]
        content = json.dumps([asdict(file) for file in later], indent=1)
        location.put(self.get_manifest_path(manifest.batch, ".rejected"), content.encode())
        return self._read_manifest(manifest.batch, True)

    def _is_unchanged(self, file: LandedFile, state: FileInfo) -> bool:
        if not state.identity and (state.size, state.modified_ns) == (file.size, file.modified_ns):
            return True
        return (state.identity or location.compute_identity(self.root / file.path)) == file.identity

    def check_refresh(self, history: Sequence[Manifest]) -> None:
        """Check that the landing zone still has every file of the manifests, with the same bytes.

        Raises:
            LandingError: a full refresh would lose rows.
        """
        expected: dict[str, list[LandedFile]] = {}
        for manifest in history:
            for file in manifest.files:
                if self.source.on_redelivery == "replace":
                    expected[file.path] = [file]
                else:
                    expected.setdefault(file.path, []).append(file)
        problems = []
        states = stat_files(self.root, expected)
        for path, deliveries in expected.items():
            state = states[path]
            identity = (
                "" if isinstance(state, OSError) else state.identity or location.compute_identity(self.root / path)
            )
            for delivery in {delivery.identity: delivery for delivery in deliveries}.values():
                if not identity:
                    problem = state.strerror if isinstance(state, OSError) and not is_gone(state) else "is gone"
                    problems.append(f"{path} {problem}")
                elif identity != delivery.identity:
                    problems.append(f"{path} holds other bytes than delivery {delivery.file_id}")
        if problems:
            raise _build_refresh_error(self.source, problems)

    @contextmanager
    def mark_staging(self, manifest: Manifest) -> Iterator[bool]:
        """Mark a batch while its files are read. Yield whether a process ended in the middle of an earlier attempt.

        The mark stays if this process or one of Spark's ends.
        """
        mark = self.get_manifest_path(manifest.batch, ".staging")
        has_ended = mark.name in location.list_names(self.manifest_folder)
        location.put(mark, b"{}")
        is_kept = False
        try:
            yield has_ended
        except WorkerLostError:
            is_kept = True
            raise
        finally:
            if not is_kept:
                with suppress(FileNotFoundError):
                    mark.unlink()

    def get_manifest_path(self, batch: int, suffix: str = "") -> Location:
        """Return the path of a batch's manifest, which need not exist."""
        return self.manifest_folder / f"{batch:08d}{suffix}.json"

    def _read_manifest(self, batch: int, has_later_rejections: bool) -> Manifest:
        manifest = self._read_original_manifest(batch)
        if not has_later_rejections:
            return manifest
        content = self.get_manifest_path(batch, ".rejected").read_text(encoding="utf-8")
        later = tuple(RejectedFile(**fields) for fields in json.loads(content))
        paths = {rejected.path for rejected in later}
        files = tuple(file for file in manifest.files if file.path not in paths)
        return replace(manifest, files=files, rejected_files=manifest.rejected_files + later)

    def _read_original_manifest(self, batch: int) -> Manifest:
        file = self.get_manifest_path(batch)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            files = tuple(LandedFile(**fields) for fields in value.pop("files"))
            rejected = tuple(RejectedFile(**fields) for fields in value.pop("rejected_files"))
            return Manifest(**value, files=files, rejected_files=rejected)
        except (ValueError, TypeError, KeyError) as error:
            raise LandingError(f"{file}: not a manifest ({error}). Restore it from a backup of the lake.") from error


def _find_effective_files(history: Iterable[Manifest]) -> dict[str, tuple[LandedFile, str]]:
    """Return by path the last delivery with rows in the table, and the time of its manifest.

    A full batch replaces all earlier ones.
    """
    deliveries: dict[str, tuple[LandedFile, str]] = {}
    for manifest in history:
        if manifest.is_full:
            deliveries.clear()
        deliveries.update((file.path, (file, manifest.created_at)) for file in manifest.files)
    return deliveries


def _build_refresh_error(source: Source, problems: Sequence[str]) -> LandingError:
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return LandingError(
        f"{source.name}: a full refresh would lose rows, so nothing was changed: "
        f"{'; '.join(map(escape_controls, problems[:5]))}{more}. "
        "Restore the files as delivered, make the declaration fit, and run --full-refresh again."
    )


def _to_epoch(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp()
