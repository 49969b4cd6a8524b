"""Models of scikit-learn as files, read with exactly the types that the project has looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lakehouse.errors import ModelError


def save(fitted: Any, file: Path, trusted: Sequence[str]) -> None:
    """Store with skops.

    Raises:
        ModelError: it holds types that are not trusted, so that `load` would refuse it.
    """
    import skops.io

    stored = skops.io.dumps(fitted)
    if strange := sorted(set(skops.io.get_untrusted_types(data=stored)) - set(trusted)):
        raise ModelError(
            f"What was fitted holds types that TRUSTED_TYPES does not name: {', '.join(strange)}. Read what they do, then add "
            "them there."
        )
    file.write_bytes(stored)


def load(file: Path, trusted: Sequence[str]) -> Any:
    """Raises skops's own errors on types that are not trusted."""
    import skops.io

    return skops.io.load(file, trusted=list(trusted))
