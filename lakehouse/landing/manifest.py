"""The manifest of a batch of landed files.

A delivery is a path with its size and its identity: a hash of its content, or its ETag in a bucket. The same name with
other bytes is a new delivery.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LandedFile:
    """One landed file.

    Attributes:
        path: the path below the landing zone.
        identity: a hash of the content, or the ETag; empty until it is computed.
        file_id: the place in the order of deliveries.
    """

    path: str
    size: int
    modified_ns: int
    identity: str = ""
    file_id: int = 0


@dataclass(frozen=True)
class RejectedFile:
    """A file that was rejected as a whole, with the reason."""

    path: str
    size: int
    modified_ns: int
    identity: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The files of one batch of one source.

    Attributes:
        created_at: the time in UTC.
        is_full: the batch replaces all earlier ones.
        rolled_back_files: the files of a batch that was rolled back. Only their numbers stay in use.
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
        """Return the manifest as it counts after its batch was rolled back."""
        return replace(self, files=(), rejected_files=(), is_full=False, rolled_back_files=self.files)
