"""Where the servers' programs come from, and PostgreSQL's folder and account."""

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
# One version for both: the image's.
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
    """The path of a server's program; ``folder`` is the server's own.

    Raises:
        StackError: it is not there and cannot be built.
    """
    if name == "postgres":
        return str(_postgres_programs(folder) / name)
    if found := shutil.which(name, path=PATH):
        return found
    if name == "minio":
        return str(_built("MinIO", name, f"{MINIO}@{MINIO_VERSION}", MINIO_BUILT))
    if name == "actionlint":
        return str(_built(name, name, f"{ACTIONLINT}@{ACTIONLINT_VERSION}", ACTIONLINT_BUILT))
    raise StackError(f"{name} is not in {Path(sys.executable).parent}: run make stack, which installs it.")


def _built(title: str, name: str, package: str, target: Path) -> Path:
    if target.exists():
        return target
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise StackError(
            f"{title} is missing: put its program {name} on the PATH, or install Go 1.24 or newer (go.dev/dl), "
            f"with which {package} is built."
        )
    print(f"{title} is built once, into {target}; this takes some minutes.", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as built:
        try:
            subprocess.run([go, "install", package], env={**os.environ, "GOBIN": built}, check=True)
        except subprocess.CalledProcessError as error:
            raise StackError(f"{title} could not be built; Go said why.") from error
        os.replace(Path(built, name), target)
    return target


def _postgres_programs(data: Path) -> Path:
    """The folder of the PostgreSQL that made the data; where there is none yet, of the newest."""
    found = {int(one.parent.name): one for one in Path("/usr/lib/postgresql").glob("[0-9]*/bin")}
    if postgres := shutil.which("postgres"):
        version = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout
        found[int(re.findall(r"\d+", version)[0])] = Path(postgres).resolve().parent
    made = data / "PG_VERSION"
    wanted = [int(made.read_text("utf-8"))] if made.exists() else [v for v in found if v >= OLDEST_POSTGRES]
    fitting = sorted(set(wanted) & found.keys())
    if not fitting:
        which = f"{wanted[0]}, which made {data}," if made.exists() else f"{OLDEST_POSTGRES} or newer"
        raise StackError(f"PostgreSQL {which} is missing (Debian, Ubuntu: apt-get install postgresql).")
    return found[fitting[-1]]


def postgres_account() -> dict[str, Any]:
    """Whom PostgreSQL runs as: it refuses root, so its package's user then."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise StackError(
            "PostgreSQL does not run as root, and there is no user postgres (its package makes it)."
        ) from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def make_database(data: Path, values: Variables, account: Mapping[str, Any]) -> None:
    """Make PostgreSQL's folder, whole or not at all.

    Raises:
        StackError: its account cannot reach the folder, or initdb fails.
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
                f"The user postgres cannot reach {data}: give a folder (--data) whose parents all may enter."
            )
    # A pipe, so that the password is on no command line and in no file.
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
        raise StackError(f"PostgreSQL's folder {data} could not be made: {done.stderr.strip()}")
    os.replace(fresh, data)


if __name__ == "__main__":
    # Before tests with limits of time start servers: building one takes minutes.
    try:
        find("minio", Path())
    except StackError as error:
        print(error)
