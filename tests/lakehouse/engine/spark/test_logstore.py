"""The log store's jar is what its source builds, and is started with wherever a command is called."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse.engine.spark.session import add_jvm_jars, read_properties
from tests.paths import CONF, PROJECT
from tests.stack import skip_missing

JARS = PROJECT / "lakehouse/engine/spark/logstore"
JAR = JARS / "conditional-put-logstore.jar"


def code(jar: Path) -> dict[str, str]:
    """The code of each class, as text: compilers of different versions number the same constants differently."""
    classes = [name.removesuffix(".class") for name in zipfile.ZipFile(jar).namelist() if name.endswith(".class")]
    command = ["javap", "-c", "-p", "-constants", "-classpath", str(jar)]
    return {
        name: subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout for name in classes
    }


def test_the_jars_are_what_the_sources_build(spark: SparkSession, tmp_path: Path) -> None:
    if not (shutil.which("javac") and shutil.which("make")):
        skip_missing("javac or make is missing")
    needs = [file for file in sys_jars(spark) if "hadoop-client-api" in file or "delta-storage" in file]
    assert len(needs) == 2
    variables = [
        f"LOGSTORE_JARS={tmp_path}",
        f"LOGSTORE_CLASSES={tmp_path / 'classes'}",
        f"LOGSTORE_NEEDS={' '.join(needs)}",
    ]
    subprocess.run(["make", "logstore", *variables], cwd=PROJECT, check=True)
    for jar in (JAR, JARS / "posix-local-files.jar"):
        assert code(tmp_path / jar.name) == code(jar), "make logstore builds it"


def sys_jars(spark: SparkSession) -> list[str]:
    """The files of Spark's own jars and of the session's packages."""
    own = Path(sys.modules["pyspark"].__file__ or "").parent / "jars"
    return [str(file) for file in own.glob("*.jar")] + [
        one.removeprefix("file://") for one in spark.sparkContext.getConf().get("spark.jars", "").split(",")
    ]


def test_the_jar_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {})
    add_jvm_jars(read_properties(CONF / "spark" / "minio.conf")["spark.jars"], PROJECT)
    assert shlex.split(os.environ["PYSPARK_SUBMIT_ARGS"]) == ["--jars", str(JAR), "pyspark-shell"]
    assert JAR.is_file()


def test_each_profile_has_every_setting_of_the_one_that_it_adds_to() -> None:
    local, minio, cluster = (read_properties(CONF / "spark" / f"{name}.conf") for name in ("local", "minio", "cluster"))
    assert {name for name in local if minio.get(name) != local[name]} == {"spark.jars.packages"}
    assert {*local["spark.jars.packages"].split(",")} < {*minio["spark.jars.packages"].split(",")}
    of_the_driver = {"spark.master", "spark.driver.memory", "spark.driver.host", "spark.driver.bindAddress"}
    assert {name for name in minio if cluster.get(name) != minio[name]} == of_the_driver
