"""The servers' programs, and PostgreSQL's folder and account."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.env import PROJECT
from deploy.prepare import Variables
from lakehouse.errors import StackError

# The venv's programs before the system's.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
# `make stack` and the image use the same version.
MINIO = "github.com/minio/minio"
MINIO_VERSION = re.findall(r"ARG MINIO_VERSION=(\S+)", (PROJECT / "deploy/minio.Dockerfile").read_text("utf-8"))[0]
BUILT = Path.home() / ".cache" / "lakehouse" / "bin"
MINIO_BUILT = BUILT / f"minio-{MINIO_VERSION}"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint"
ACTIONLINT_VERSION = "v1.7.12"
ACTIONLINT_BUILT = BUILT / f"actionlint-{ACTIONLINT_VERSION}"
OLDEST_POSTGRES = 15
INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8")


def find(name: str, folder: Path) -> str:
    """Return the path of a server's program, and build it if necessary.

    Args:
        folder: the server's folder, from which the version of PostgreSQL is read.

    Raises:
        StackError: the program is missing and cannot be built.
    """
    if name == "postgres":
        return str(_postgres_programs(folder) / name)
    if path := shutil.which(name, path=PATH):
        return path
    if name == "minio":
        return str(_build_once("MinIO", name, f"{MINIO}@{MINIO_VERSION}", MINIO_BUILT))
    if name == "actionlint":
        return str(_build_once(name, name, f"{ACTIONLINT}@{ACTIONLINT_VERSION}", ACTIONLINT_BUILT))
    raise StackError(f"{name}: the program is not in {Path(sys.executable).parent}. Run make stack, which installs it.")


def _build_once(title: str, name: str, package: str, target: Path) -> Path:
    if target.exists():
        return target
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise StackError(
            f"{title}: the program {name} is not on the PATH, and Go is missing to build {package}. "
            "Install one of them: the program, or install Go 1.24 or newer (go.dev/dl)."
        )
    print(f"{title}: built once into {target}. This takes some minutes.", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            subprocess.run([go, "install", package], env={**os.environ, "GOBIN": folder}, check=True)
        except subprocess.CalledProcessError as error:
            raise StackError(f"{title}: Go could not build {package}. Read the output of Go above.") from error
        os.replace(Path(folder, name), target)
    return target


def _postgres_programs(data: Path) -> Path:
    """Return the programs of the version that created the data; without data, of the newest version."""
    folders = {int(folder.parent.name): folder for folder in Path("/usr/lib/postgresql").glob("[0-9]*/bin")}
    if postgres := shutil.which("postgres"):
        version = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout
        folders[int(re.findall(r"\d+", version)[0])] = Path(postgres).resolve().parent
    file = data / "PG_VERSION"
    allowed = [int(file.read_text("utf-8"))] if file.exists() else [v for v in folders if v >= OLDEST_POSTGRES]
    usable = sorted(set(allowed) & folders.keys())
    if not usable:
        version = f"{allowed[0]}, which created {data}," if file.exists() else f"{OLDEST_POSTGRES} or newer"
        raise StackError(f"PostgreSQL {version} is missing. Install it (Debian, Ubuntu: apt-get install postgresql).")
    return folders[usable[-1]]


def postgres_account() -> dict[str, Any]:
    """Return the account of PostgreSQL: it refuses root, so root starts it as the user of its package."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise StackError(
            "PostgreSQL: root cannot run it, and the user postgres is missing. Install its package, which adds it."
        ) from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def create_database_folder(data: Path, values: Variables, account: Mapping[str, Any]) -> None:
    """Create PostgreSQL's folder; a failure leaves none.

    Raises:
        StackError: the account cannot reach the folder, or initdb fails.
    """
    if (data / "PG_VERSION").exists():
        return
    fresh = data.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700, parents=True)
    if account:
        os.chown(fresh, account["user"], account["group"])
        if subprocess.run(["test", "-x", str(fresh)], check=False, **account).returncode:
            raise StackError(
                f"{data}: the user postgres cannot reach it. Choose a folder (--data) that every user can enter."
            )
    # With a pipe, the password is on no command line and in no file.
    readable, writable = os.pipe()
    os.write(writable, f"{values['PGPASSWORD']}\n".encode())
    os.close(writable)
    if account:
        os.fchown(readable, account["user"], account["group"])
    initdb = (_postgres_programs(data) / "initdb", "-D", fresh, "--username", values["PGUSER"], "--pwfile=/dev/stdin")
    done = subprocess.run(
        [*initdb, *INITDB], stdin=readable, capture_output=True, text=True, env={"PATH": PATH}, check=False, **account
    )
    os.close(readable)
    if done.returncode:
        raise StackError(
            f"{data}: initdb failed to create PostgreSQL's folder. Correct the cause: {done.stderr.strip()}"
        )
    os.replace(fresh, data)


if __name__ == "__main__":
    # This runs before tests with time limits start servers, because a build takes minutes.
    try:
        find("minio", Path())
    except StackError as error:
        print(error)
