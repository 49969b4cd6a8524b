"""Deliver files to the landing zone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from lakehouse.causes import describe_cause
from lakehouse.definitions.sources import Source
from lakehouse.errors import LandingError, escape_controls
from lakehouse.landing.paths import is_ignored
from lakehouse.storage import location
from lakehouse.storage.location import Location


def deliver(
    landing: Location, source: Source, files: Iterable[Path], progress: Callable[[int], None] | None = None
) -> list[Location]:
    """Copy files into the landing folder of a source. A reader never sees half of a file.

    Args:
        progress: receives the number of bytes with each part that is sent to a bucket.

    Raises:
        LandingError: a file does not exist, or the landing zone ignores its name, or the folder is a symbolic link.
            Nothing is delivered then. Or a file could not be copied: those before it are delivered.
    """
    files = list(files)
    problems = [f"{escape_controls(str(file))} is not a file" for file in files if not file.is_file()]
    names = [escape_controls(file.name) for file in files]
    problems += [f"{name} has an ignored name (_, . or a temporary suffix)" for name in names if is_ignored(name)]
    problems += [f"two files are called {name}" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise LandingError(f"{source.name}: nothing was delivered: {'; '.join(problems)}. Correct the list of files.")
    if link := location.find_link(landing, source.landing):
        raise LandingError(
            f"{source.name}: nothing was delivered: landing/{link} is a symbolic link. Replace it by a folder."
        )
    targets: list[Location] = [landing.joinpath(source.landing, file.name) for file in files]
    for number, (file, target) in enumerate(zip(files, targets, strict=True)):
        try:
            location.put_if_changed(target, file, progress)
        except OSError as error:
            raise LandingError(
                f"{source.name}: {names[number]} was not delivered, and {number} files before it were: "
                f"{escape_controls(describe_cause(error))}"
            ) from error
    return targets
