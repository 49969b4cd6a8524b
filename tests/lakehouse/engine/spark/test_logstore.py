"""The log store's jar equals a build of its source, and is loaded from any working folder."""

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
    """Read the code of each class as text: compilers of different versions number constants differently."""
    classes = [name.removesuffix(".class") for name in zipfile.ZipFile(jar).namelist() if name.endswith(".class")]
    command = ["javap", "-c", "-p", "-constants", "-classpath", str(jar)]
    return {
        name: subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout for name in classes
    }


def test_the_jars_equal_a_build_of_the_sources(spark: SparkSession, tmp_path: Path) -> None:
    if not (shutil.which("javac") and shutil.which("make")):
        skip_missing("javac or make is missing")
    class_path = [file for file in list_jars(spark) if "hadoop-client-api" in file or "delta-storage" in file]
    assert len(class_path) == 2
    variables = [
        f"LOGSTORE_JARS={tmp_path}",
        f"LOGSTORE_CLASSES={tmp_path / 'classes'}",
        f"LOGSTORE_NEEDS={' '.join(class_path)}",
    ]
    subprocess.run(["make", "logstore", *variables], cwd=PROJECT, check=True)
    for jar in (JAR, JARS / "posix-local-files.jar"):
        assert code(tmp_path / jar.name) == code(jar), "make logstore builds it"


def list_jars(spark: SparkSession) -> list[str]:
    """List the files of Spark's own jars and of the session's packages."""
    own = Path(sys.modules["pyspark"].__file__ or "").parent / "jars"
    packages = spark.sparkContext.getConf().get("spark.jars", "").split(",")
    return [str(file) for file in own.glob("*.jar")] + [uri.removeprefix("file://") for uri in packages]


def test_the_jar_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {})
    add_jvm_jars(str(PROJECT / read_properties(CONF / "spark" / "minio.conf")["spark.jars"]))
    assert shlex.split(os.environ["PYSPARK_SUBMIT_ARGS"]) == ["--jars", str(JAR), "pyspark-shell"]
    assert JAR.is_file()


def test_each_profile_has_the_settings_of_its_base() -> None:
    local, minio, cluster = (read_properties(CONF / "spark" / f"{name}.conf") for name in ("local", "minio", "cluster"))
    assert {name for name in local if minio.get(name) != local[name]} == {"spark.jars.packages"}
    assert {*local["spark.jars.packages"].split(",")} < {*minio["spark.jars.packages"].split(",")}
    driver_settings = {"spark.master", "spark.driver.memory", "spark.driver.host", "spark.driver.bindAddress"}
    assert {name for name in minio if cluster.get(name) != minio[name]} == driver_settings
