"""`make env`: .env from .env.example, every empty value a new secret. Nothing but the standard library."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / ".env.example"


def write(target: Path) -> bool:
    """Make the file, for its owner alone; False where there is one already, which stays as it is."""
    # Hexadecimal digits mean nothing to a shell, to compose or in a URL.
    filled = re.sub(r"(?m)^([A-Z]\w*)=$", lambda key: f"{key[1]}={secrets.token_hex(20)}", EXAMPLE.read_text("utf-8"))
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(filled)
    return True


if __name__ == "__main__":
    made = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / ".env"
    print(f"{made} is new; its secrets are random." if write(made) else f"{made} is there already and stays as it is.")
