"""The Spark properties that LAKEHOUSE_GPU adds to each profile, and what is checked before a session starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lakehouse import api
from lakehouse.engine.spark.session import JVM_VARIABLES, compose_properties, read_properties, spark_session
from lakehouse.errors import SessionError, SettingsError
from lakehouse.gpu.spark_properties import configure_spark
from lakehouse.settings import Settings
from tests.paths import CONF


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    (file := tmp_path / "rapids.jar").touch()
    return file


def load(jar: Path, **overrides: str) -> Settings:
    return api.load_settings(gpu_jar=jar, **overrides)


def test_without_a_gpu_nothing_is_added(jar: Path) -> None:
    assert compose_properties(load(jar)) == read_properties(CONF / "spark" / "local.conf")


@pytest.mark.parametrize("profile", ["local", "minio", "cluster"])
def test_a_gpu_takes_nothing_from_any_profile(jar: Path, profile: str) -> None:
    own = read_properties(CONF / "spark" / f"{profile}.conf")
    combined = compose_properties(load(jar, gpu="on", spark=f"{profile}.conf"))

    assert {name: combined[name] for name in own} == own
    assert combined["spark.plugins"] == "com.nvidia.spark.SQLPlugin"
    assert combined["spark.driver.extraClassPath"] == combined["spark.executor.extraClassPath"] == str(jar)
    # Spark waits for ever for a device that it has to hand out where there is no cluster.
    assert any(".resource.gpu." in name for name in combined) == (profile == "cluster")


def test_explain_needs_no_device_and_keeps_the_shuffle(jar: Path) -> None:
    combined = compose_properties(load(jar, gpu="explain", spark="cluster.conf"))
    assert (combined["spark.rapids.sql.mode"], combined["spark.shuffle.manager"]) == ("explainOnly", "sort")
    assert not any(".resource.gpu." in name for name in combined)


def test_explain_takes_the_place_of_on(jar: Path) -> None:
    switched = load(jar, gpu="on", spark="cluster.conf").model_copy(update={"gpu": "explain"})
    assert compose_properties(configure_spark(switched)) == compose_properties(
        load(jar, gpu="explain", spark="cluster.conf")
    )


def test_the_profile_gpu_is_local_on_a_gpu(jar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PROFILE", "gpu")
    settings = load(jar)
    assert (settings.profile, settings.gpu, settings.spark) == ("gpu", "on", "local.conf")
    assert compose_properties(settings)["spark.plugins"] == "com.nvidia.spark.SQLPlugin"


@pytest.mark.parametrize("file", sorted((CONF / "spark").glob("gpu*.conf")), ids=lambda file: file.name)
def test_a_line_above_explains_each_property(file: Path) -> None:
    above = ""
    for line in file.read_text().splitlines():
        assert line.startswith("#") or above.startswith("#"), line
        above = line


def test_training_on_the_same_gpu_is_left_memory(jar: Path) -> None:
    name = "spark.rapids.memory.gpu.pool"
    assert compose_properties(load(jar, gpu="on")).get(name) is None
    assert compose_properties(load(jar, gpu="on", gpu_training="on")).get(name) == "NONE"


def test_training_on_a_cluster_needs_spark_on_its_gpus(jar: Path) -> None:
    with pytest.raises(SettingsError, match="gpu_training on a cluster needs LAKEHOUSE_GPU=on as well"):
        load(jar, gpu_training="on", spark_master="spark://host:7077")
    load(jar, gpu_training="on", spark_master="spark://host:7077", gpu="on")


@pytest.mark.parametrize("master", ["", "local[2]"])
def test_a_local_session_needs_a_device(
    jar: Path, fake_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch, master: str
) -> None:
    for name in JVM_VARIABLES:  # a session removes them: restored after the test
        monkeypatch.setenv(name, "")
    fake_smi("exit 0")
    with (
        pytest.raises(SessionError, match="nvidia-smi says: it names no device"),
        spark_session(load(jar, gpu="on", spark_master=master)),
    ):
        pass


@pytest.mark.parametrize("overrides", [{"gpu": "explain"}, {"gpu": "on", "spark_master": "spark://host:7077"}])
def test_explain_and_a_cluster_s_driver_need_no_device(
    jar: Path, fake_smi: Callable[..., None], overrides: dict[str, str]
) -> None:
    fake_smi("")
    (prepare,) = load(jar, **overrides).spark_additions.before_session
    prepare()


def test_a_session_and_spark_conf_need_the_jar(tmp_path: Path) -> None:
    settings = load(tmp_path / "none.jar", gpu="explain")
    for fetch in (*settings.spark_additions.before_session, lambda: api.write_spark_properties(settings)):
        with pytest.raises(SessionError, match=r"The RAPIDS plugin is not at .*none.jar \(LAKEHOUSE_GPU_JAR\)"):
            fetch()
