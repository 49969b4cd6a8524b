"""Files of scikit-learn models, loaded with exactly the types that the project has reviewed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lakehouse.errors import ModelError


def save(fitted: Any, file: Path, trusted: Sequence[str]) -> None:
    """Save a model with skops.

    Raises:
        ModelError: the model has types that are not trusted, which `load` would refuse.
    """
    import skops.io

    content = skops.io.dumps(fitted)
    if untrusted := sorted(set(skops.io.get_untrusted_types(data=content)) - set(trusted)):
        raise ModelError(
            f"The fitted model has types that TRUSTED_TYPES does not name: {', '.join(untrusted)}. Review the types, "
            "then add them to TRUSTED_TYPES."
        )
    file.write_bytes(content)


def load(file: Path, trusted: Sequence[str]) -> Any:
    """Load a model with skops, which raises its own errors on types that are not trusted."""
    import skops.io

    return skops.io.load(file, trusted=list(trusted))
