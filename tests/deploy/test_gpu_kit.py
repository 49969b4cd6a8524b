"""The GPU kit: its files are complete, its parts join again, and a damaged kit does not start."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

from deploy import gpu_kit
from lakehouse.errors import StackError


def sh(script: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", script], env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """Return a small kit with the real run.sh."""
    (made := tmp_path / "gpu-kit").mkdir()
    shutil.copy(gpu_kit.SCRIPTS / "run.sh", made)
    (made / "wheels").mkdir()
    (made / "wheels" / "a.whl").write_bytes(os.urandom(20_000))
    (conf := made / "lakehouse" / "conf" / "spark" / "local.conf").parent.mkdir(parents=True)
    conf.write_text("spark.master local[*]\n")
    gpu_kit._write_checksums(made)
    return made


@pytest.fixture
def parts(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_kit, "PART_BYTES", 5_000)
    files = gpu_kit.split(kit, tmp_path / "parts")
    assert len(files) > 4
    assert max(part.stat().st_size for part in files) == gpu_kit.PART_BYTES
    return tmp_path / "parts"


def test_parts_become_the_folder_again(kit: Path, parts: Path) -> None:
    assert sh(parts / "join.sh").returncode == 0
    for file in kit.rglob("*"):
        assert file.is_dir() or (parts / "gpu-kit" / file.relative_to(kit)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_damaged_or_missing_part_is_named(parts: Path, harm: str) -> None:
    part = parts / "gpu-kit.tar.003"
    part.write_bytes(part.read_bytes()[:-1] + b"?") if harm == "damaged" else part.unlink()
    done = sh(parts / "join.sh")
    assert done.returncode == 1
    assert "gpu-kit.tar.003" in done.stdout + done.stderr
    assert "Parts are missing or damaged" in done.stderr
    assert not (parts / "gpu-kit").exists()


def test_failed_unpacking_leaves_nothing(parts: Path) -> None:
    (program := parts / "bin" / "tar").parent.mkdir()
    program.write_text('#!/bin/sh\ncat > /dev/null; mkdir "$5/gpu-kit"; echo "tar: no space left" >&2; exit 2\n')
    program.chmod(0o755)
    done = sh(parts / "join.sh", PATH=f"{program.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "no space left" in done.stderr and "The kit could not be unpacked." in done.stderr
    assert not list(parts.glob("*gpu-kit")) and not list(parts.glob(".gpu-kit*"))


def test_a_damaged_kit_installs_nothing(kit: Path) -> None:
    (kit / "wheels" / "a.whl").write_bytes(b"other")
    done = sh(kit / "run.sh")
    assert done.returncode == 1
    assert "wheels/a.whl: FAILED" in done.stdout
    assert "Files are missing or damaged: bring the kit once more." in done.stderr
    assert not (kit / "venv").exists()


def test_moved_kit_without_environment_is_complete(kit: Path) -> None:
    with (kit / "lakehouse" / "conf" / "spark" / "local.conf").open("a") as conf:
        conf.write("spark.jars.ivy /where/it/was/ivy\n")
    done = sh(kit / "run.sh")
    assert "damaged" not in done.stderr
    assert (kit / "venv" / "bin" / "python").exists(), "it got as far as installing"


def test_join_does_not_overwrite_a_kit(parts: Path) -> None:
    sh(parts / "join.sh")
    (parts / "gpu-kit" / "report.md").touch()
    assert "gpu-kit is here already" in sh(parts / "join.sh").stderr
    assert (parts / "gpu-kit" / "report.md").exists()


def test_folder_named_like_a_pattern_is_refused_first(kit: Path) -> None:
    moved = kit.rename(kit.with_name("gpu [new]"))
    done = sh(moved / "run.sh")
    assert done.returncode == 1
    assert f"The kit cannot run in {moved}: move it" in done.stderr
    assert not (moved / "venv").exists()


def test_missing_wheels_of_other_python_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["one[more]", 'never; extra == "test"', "here; extra == 'kit'"]
    monkeypatch.setattr(gpu_kit, "requires", {"lakehouse-medallion": needs}.get)
    monkeypatch.setattr(gpu_kit, "INSTALLERS", ())
    requirements = {
        "one": ["Two.two; python_version >= '3.12'", 'three; extra == "more"', 'never; extra == "less"'],
        "here": [],
        "three": [],
    }
    for name, required in requirements.items():
        with ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(
                f"{name}-1.dist-info/METADATA", "".join(f"Requires-Dist: {requirement}\n" for requirement in required)
            )
    gpu_kit._require_all(tmp_path, "kit", "3.11")
    with pytest.raises(StackError, match=r"Python 3.12 needs wheels that pip has not brought: two-two\."):
        gpu_kit._require_all(tmp_path, "kit", "3.12")


def test_unsuitable_python_is_named(kit: Path) -> None:
    done = sh(kit / "run.sh", PYTHON="/bin/false")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or 3.12 is needed" in done.stderr


def test_kit_has_only_the_projects_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, target = tmp_path / "project", tmp_path / "lakehouse"
    monkeypatch.setattr(gpu_kit, "PROJECT", project)
    for name in ("conf/base.yml", ".env.bak", "data/lake", "gone.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    with pytest.raises(StackError, match="git cannot say which files are the project's"):
        gpu_kit._copy_project(target)
    for words in (["init", "--quiet"], ["add", "conf", "gone.py"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    (project / "gone.py").unlink()
    (project / "conf" / "base.yml").write_text("changed since")
    gpu_kit._copy_project(target)
    copied = {str(file.relative_to(target)): file.read_text() for file in target.rglob("*") if file.is_file()}
    assert copied == {"conf/base.yml": "changed since"}


def test_folder_with_other_files_stays_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(StackError, match="holds other things than a kit"):
        gpu_kit.make(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_copied_java_runs(tmp_path: Path) -> None:
    gpu_kit._copy_java(gpu_kit._find_java_home(), tmp_path / "java")
    done = subprocess.run([tmp_path / "java/bin/java", "-version"], env={}, capture_output=True, text=True, check=True)
    assert 'version "17' in done.stderr
    assert not (tmp_path / "java" / "jmods").exists()


def test_unsupported_java_is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = "    java.specification.version = 21\n    java.version = 21.0.8\n    java.home = /opt/java\n"
    (program := tmp_path / "bin" / "java").parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '{properties}' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(StackError, match=r"java: is Java 21\.0\.8, but .* Java 17\. Point JAVA_HOME at one"):
        gpu_kit.make(tmp_path / "kit")
    assert not (tmp_path / "kit").exists()
