"""`make env`: write .env from .env.example, with a new secret for every empty value. Needs no package.

For an existing file, it prints what makes the secrets easy to read or to guess.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = PROJECT / ".env.example"
# A secret has at least so many characters, and so many different ones.
SECRET_LENGTH, SECRET_CHARACTERS = 16, 8


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


def find_weaknesses(file: Path) -> list[str]:
    """Return a sentence for each weakness of an .env file, without its values."""
    problems = []
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        problems.append(f"{file}: other accounts can use it (mode {mode:o}). Run chmod 600 {file}.")
    values = dict(re.findall(r"(?m)^(?:export )?([A-Z]\w*)=['\"]?(.*?)['\"]?\s*$", file.read_text("utf-8")))
    keys = [key for key in re.findall(r"(?m)^([A-Z]\w*)=$", EXAMPLE.read_text("utf-8")) if values.get(key)]
    weak = [key for key in keys if is_weak(values[key])]
    equal = [key for key in keys if [values[other] for other in keys].count(values[key]) > 1]
    if weak:
        problems.append(
            f"{file}: {', '.join(weak)} can be guessed. A secret has {SECRET_LENGTH} or more characters, "
            f"{SECRET_CHARACTERS} of them different; `openssl rand -hex 20` prints one."
        )
    if equal:
        problems.append(f"{file}: {', '.join(equal)} have the value of another key. Give each a value of its own.")
    return problems


def is_weak(secret: str) -> bool:
    return len(secret) < SECRET_LENGTH or len({*secret}) < SECRET_CHARACTERS


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / ".env"
    print(f"{path}: written with random secrets." if write(path) else f"{path}: exists already and stays unchanged.")
    for problem in find_weaknesses(path):
        print(problem, file=sys.stderr)
