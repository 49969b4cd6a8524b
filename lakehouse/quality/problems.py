"""Problems that checks find in a project before a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem of a project, in words.

    Attributes:
        is_error: A run would fail. Otherwise it is a warning: the project may not do what its author means.
    """

    text: str
    is_error: bool = True

    def within(self, place: str) -> Problem:
        """Return the same problem with its place before the text."""
        return Problem(f"{place}: {self.text}", self.is_error)
