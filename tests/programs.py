"""Shell scripts that stand in for programs."""

from __future__ import annotations

from pathlib import Path


def write_program(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
