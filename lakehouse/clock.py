"""The time, as the platform's records keep it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """The time, UTC, to the second, as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
