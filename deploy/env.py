"""`make env`: write .env from .env.example, with a new secret for every empty value. Needs no package."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / ".env.example"


def write(target: Path) -> bool:
    """Write the file, readable by its owner only; return False for an existing file, which stays unchanged."""
    # Hexadecimal digits need no quoting in a shell, in compose or in a URL.
    text = re.sub(r"(?m)^([A-Z]\w*)=$", lambda key: f"{key[1]}={secrets.token_hex(20)}", EXAMPLE.read_text("utf-8"))
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / ".env"
    print(f"{path}: written with random secrets." if write(path) else f"{path}: exists already and stays unchanged.")
