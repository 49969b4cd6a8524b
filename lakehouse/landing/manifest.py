"""The manifest of a batch of landed files.

A delivery is a path with its size and its identity (a hash of its content, in a bucket its ETag): the same name with new bytes
is a new delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LandedFile:
    """One landed file: its path below the landing zone, its identity, its place in the order of deliveries.

    ``columns`` are its own, in their order, with their types, where they are not those declared and the contract takes them.
    """

    path: str
    size: int
    modified_ns: int
    identity: str = ""
    file_id: int = 0
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class RejectedFile:
    """A file that was set aside as a whole, and why."""

    path: str
    size: int
    modified_ns: int
    identity: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The files of one batch of one source. ``at`` is UTC; a ``full`` batch takes the place of all before it.

    ``undone`` are the files of a batch that was taken back: they count for nothing but the numbers that they had.
    """

    source: str
    batch: int
    created_at: str
    fingerprint: str
    files: tuple[LandedFile, ...]
    rejected_files: tuple[RejectedFile, ...] = ()
    is_full: bool = False
    rolled_back_files: tuple[LandedFile, ...] = ()

    def mark_rolled_back(self) -> Manifest:
        return replace(self, files=(), rejected_files=(), is_full=False, rolled_back_files=self.files)
