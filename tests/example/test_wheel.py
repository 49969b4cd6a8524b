"""The wheel: the platform alone, in a fresh environment."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from lakehouse.resources import EXAMPLE_FOLDERS
from tests.paths import PROJECT

PINS = PROJECT / "constraints.txt"
SOURCE = """
from lakehouse import source
orders = source("bronze.orders", landing="orders", columns=("order_id", "amount"))
"""
TABLE = """
from pyspark.sql import DataFrame
from lakehouse import ORIGIN_COLUMNS, Merge, parse, table, unparsed

TYPES = {"order_id": "bigint", "amount": "double"}

@table("silver.orders", columns=TYPES, key=("order_id",), write=Merge(), orders="bronze.orders")
def orders(orders: DataFrame) -> DataFrame:
    return orders.select(*[parse(n, t).alias(n) for n, t in TYPES.items()], unparsed(TYPES), *ORIGIN_COLUMNS)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(PROJECT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (sources,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sources


@pytest.fixture(scope="module")
def base(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel without extras into a fresh environment. Returns the command."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder)
    install = ["-m", "uv", "pip", "install", "--python", str(folder / "bin" / "python"), "--constraint", str(PINS)]
    subprocess.run([sys.executable, *install, str(built[0])], check=True, capture_output=True)
    return folder / "bin" / "lakehouse"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Write a project with a source and a table."""
    for name, content in {
        "conf/base.yml": "root: data\nspark: local.conf\ndeclarations: [bronze, silver]\n",
        "conf/local.yml": "profile: local\n",
        "bronze/__init__.py": SOURCE,
        "silver/__init__.py": TABLE,
        "orders.csv": "order_id,amount\n1,2.5\n",
    }.items():
        (file := tmp_path / name).parent.mkdir(exist_ok=True)
        file.write_text(content)
    yield tmp_path


def run(command: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "SERVING_API_KEY": "0123456789abcdef"}
    return subprocess.run(
        [str(command), *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_has_the_platform_alone(built: tuple[Path, Path]) -> None:
    wheel, sources = built
    names = ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"lakehouse", "lakehouse_medallion-0.1.0.dist-info"}
    folders = {name.split("/")[2] for name in names if name.startswith("lakehouse/example/")}
    assert folders == {*EXAMPLE_FOLDERS}
    assert "lakehouse/engine/spark/logstore/conditional-put-logstore.jar" in names
    assert "lakehouse/example/conf/spark/local.conf" in names
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sources)], check=True)


def test_the_base_reads_a_project_without_pyspark(base: Path, project: Path) -> None:
    assert run(base, project, "land", "bronze.orders", "orders.csv").returncode == 0
    for arguments in ("plan", "status", "tables", "reconcile", "quarantine list", "lineage silver.orders"):
        process = run(base, project, *arguments.split())
        assert process.returncode == 0, process.stderr
    assert '"answer": 42' in run(base, project, "sql", "select 41 + 1 as answer", "--json").stdout


@pytest.mark.parametrize(("command", "extra"), [("run", "spark"), ("serve", "serving")])
def test_a_command_names_its_extra(base: Path, project: Path, command: str, extra: str) -> None:
    process = run(base, project, command)
    assert process.returncode == 2
    assert f"pip install 'lakehouse-medallion[{extra}]'" in process.stderr, process.stderr
