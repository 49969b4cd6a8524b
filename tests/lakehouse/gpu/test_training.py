"""A GPU as a setting: which properties it adds, what is told where there is none, how the plugin's words are read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lakehouse.engine.spark import rapids as spark_rapids
from lakehouse.engine.spark.session import compose_properties, read_properties, spark_session
from lakehouse.errors import SessionError, SettingsError
from lakehouse.gpu import training
from lakehouse.gpu.report import Node, Plan, TableReport, coverage, parse_nodes
from lakehouse.ml.environment import describe_environment
from lakehouse.settings import Settings, load
from tests.paths import CONF, PROJECT

SAID = """\
*Exec <ProjectExec> will run on GPU
  *Expression <Alias> cast(a#1 as int) AS b#2 will run on GPU
    ^Expression <Cast> try_cast(a#1 as int) will run on GPU via CPU bridge because try_cast is not supported on the GPU
      ^Expression <In> a#1 IN (,
NA) will run on GPU via CPU bridge because it avoids excess CPU and GPU transfers
    ^ <UnixDate> unix_date(d#3) will run on GPU via CPU bridge because GPU does not currently support the operator class UnixDate
  !Exec <WindowExec> cannot run on GPU because not all expressions can be replaced
    @Expression <Alias> last(x#4) AS y#5 could run on GPU
  #Exec <SortExec> could run on GPU but is going to be removed because replacing sortMergeJoin with shuffleHashJoin
  ! <RowDataSourceScanExec> cannot run on GPU because GPU does not currently support the operator class RowDataSourceScanExec
"""


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    (found := tmp_path / "rapids.jar").touch()
    return found


def settings(jar: Path, **more: str) -> Settings:
    return load(gpu_jar=jar, **more)


def test_without_a_gpu_nothing_is_added(jar: Path) -> None:
    assert compose_properties(settings(jar)) == read_properties(CONF / "spark" / "local.conf")


@pytest.mark.parametrize("profile", ["local", "minio", "cluster"])
def test_a_gpu_is_added_to_any_profile_and_takes_nothing_away(jar: Path, profile: str) -> None:
    own = read_properties(CONF / "spark" / f"{profile}.conf")
    found = compose_properties(settings(jar, gpu="on", spark=f"{profile}.conf"))

    assert {name: found[name] for name in own} == own
    assert found["spark.plugins"] == "com.nvidia.spark.SQLPlugin"
    assert found["spark.driver.extraClassPath"] == found["spark.executor.extraClassPath"] == str(jar)
    # Spark waits for ever for a device that it has to hand out where there is no cluster.
    assert any(".resource.gpu." in name for name in found) == (profile == "cluster")


def test_to_explain_a_plan_takes_no_device_and_leaves_the_shuffle_alone(jar: Path) -> None:
    found = compose_properties(settings(jar, gpu="explain", spark="cluster.conf"))
    assert (found["spark.rapids.sql.mode"], found["spark.shuffle.manager"]) == ("explainOnly", "sort")
    assert not any(".resource.gpu." in name for name in found)


def test_the_profile_gpu_is_local_on_a_gpu(jar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PROFILE", "gpu")
    found = settings(jar)
    assert (found.profile, found.gpu, found.spark) == ("gpu", "on", "local.conf")


@pytest.mark.parametrize("file", sorted((CONF / "spark").glob("gpu*.conf")), ids=lambda file: file.name)
def test_each_setting_is_explained_by_a_line_above(file: Path) -> None:
    above = ""
    for line in file.read_text().splitlines():
        assert line.startswith("#") or above.startswith("#"), line
        above = line


def test_a_jar_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"The RAPIDS plugin is not at .*none.jar \(LAKEHOUSE_GPU_JAR\)"):
        spark_rapids.fetch_plugin_jar(settings(tmp_path / "none.jar", gpu="on"))


@pytest.mark.parametrize(
    ("says", "text"),
    [
        ("", "No NVIDIA driver is installed here"),
        ("echo 'No devices were found'; exit 6", "nvidia-smi says: No devices were found"),
        ("exit 0", "nvidia-smi says: it names no device"),
        ("echo 'GRID A100X, 550.54.15, [N/A]'", r"nvidia-smi says: GRID A100X, 550.54.15, \[N/A\]"),
        ("echo 'Tesla P100, 550.54.15, 6.0'", r"Tesla P100 \(compute capability 6.0\) is too old .*: 7.0 is needed"),
        ("echo 'Tesla T4, 470.82.01, 7.5'", "driver 470.82.01 is too old .*: 525 is needed"),
    ],
)
def test_a_missing_or_old_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, text: str) -> None:
    smi(tmp_path, monkeypatch, says)
    with pytest.raises(SessionError, match=text) as error:
        spark_rapids.require_device()
    assert "run on the CPU; LAKEHOUSE_GPU=explain says" in str(error.value)


@pytest.mark.parametrize("master", ["", "local[2]"])
def test_a_session_on_this_machine_needs_a_device(
    jar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, master: str
) -> None:
    smi(tmp_path, monkeypatch, "exit 0")
    with (
        pytest.raises(SessionError, match="nvidia-smi says: it names no device"),
        spark_session(settings(jar, gpu="on", spark_master=master)),
    ):
        pass


def test_each_device_can_be_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    smi(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'")
    with pytest.raises(SessionError, match="CUDA_VISIBLE_DEVICES is empty, which hides each GPU"):
        spark_rapids.require_device()


def test_of_all_that_java_prints_the_line_with_the_error_is_told() -> None:
    said = "downloading\nException in thread main: unresolved dependency: com.nvidia\n\tat org.apache\nShutdown hook called\n"
    done = subprocess.CompletedProcess([], 1, "", said)
    assert spark_rapids.find_error_line(done) == "Exception in thread main: unresolved dependency: com.nvidia"


def test_a_pod_of_kubernetes_starts_as_spark_has_it_and_anything_else_is_a_command(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "deploy" / "gpu" / "entrypoint.sh", tmp_path)
    (program := tmp_path / "spark-entrypoint.sh").write_text('#!/bin/sh\necho "$SPARK_HOME" "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def started(*words: str) -> str:
        command = [str(tmp_path / "entrypoint.sh"), *words]
        return subprocess.run(command, env=path, capture_output=True, text=True, check=True).stdout.strip()

    home, *rest = started("executor", "--more", "a b").split(" ", 1)
    assert Path(home, "bin", "spark-submit").exists()
    assert rest == ["executor --more a b"]
    assert started("echo", "lakehouse") == "lakehouse"


def test_one_device_that_will_do_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    smi(tmp_path, monkeypatch, "echo 'GT 1030, 580.95.05, 6.1'; echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'")
    spark_rapids.require_device()


def test_the_devices_looked_at_are_those_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    smi(tmp_path, monkeypatch, """[ "$3" = --id=1,2 ] && echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'""")
    spark_rapids.require_device()


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str, path: str = "") -> None:
    if says:
        (program := folder / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{path}" if path else str(folder))


def test_what_trains_on_the_same_gpu_is_left_memory(jar: Path) -> None:
    pools = [
        compose_properties(settings(jar, gpu="on", gpu_training=training)).get("spark.rapids.memory.gpu.pool")
        for training in ("", "on")
    ]
    assert pools == [None, "NONE"]


def test_a_cluster_hands_its_gpus_out_to_what_trains_there(jar: Path) -> None:
    with pytest.raises(SettingsError, match="gpu_training on a cluster needs LAKEHOUSE_GPU=on as well"):
        settings(jar, gpu_training="on", spark_master="spark://host:7077")
    settings(jar, gpu_training="on", spark_master="spark://host:7077", gpu="on")


# Stands in for RAPIDS: says what had been imported when it was put in, and puts itself into children as cuML does.
STAND_IN = """
import os, sys
def install():
    print("{name}", [one for one in ("pandas", "sklearn", "skops.io") if one in sys.modules], flush=True)
    if "{name}" == "cuml.accel": os.environ["CUML_ACCEL_ENABLED"] = "1"
"""


@pytest.fixture
def rapids(tmp_path: Path) -> Path:
    for name in ("cudf.pandas", "cuml.accel"):
        (file := tmp_path.joinpath(*name.split(".")).with_suffix(".py")).parent.mkdir()
        file.write_text(STAND_IN.format(name=name))
    (tmp_path / "spark_rapids_ml").mkdir()
    return tmp_path


def lakehouse(rapids: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    told = {"LAKEHOUSE_GPU_TRAINING": "on", "LAKEHOUSE_ROOT": str(rapids / "root"), "PYTHONPATH": str(rapids)}
    command = [sys.executable, "-c", f"{before}\nfrom lakehouse.cli.main import main\nmain()", *words]
    return subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False)


def test_training_is_put_on_the_gpu_before_anything_is_imported_that_trains(
    rapids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(rapids, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'", os.environ["PATH"])
    after = "import atexit, os; atexit.register(lambda: print(os.environ.get('CUML_ACCEL_ENABLED')))"
    done = lakehouse(rapids, "train", "no such model", before=after)
    put_in, then, children = done.stdout.splitlines()
    assert put_in == "cudf.pandas []"
    # skops looks at scikit-learn's classes before cuML has changed them.
    assert then.startswith("cuml.accel [") and "skops.io" in then
    assert children == "None", "it is put into what this process starts, too"
    assert "no such model" in done.stderr
    assert not lakehouse(rapids, "tables").stdout.startswith("cudf")


def test_what_was_imported_too_early_is_told(rapids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(rapids, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'", os.environ["PATH"])
    done = lakehouse(rapids, "train", before="import pandas")
    assert done.returncode == 2
    assert "pandas is imported already and cannot be moved to the GPU" in done.stderr


def test_a_gpu_without_memory_is_told(rapids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(rapids, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'", os.environ["PATH"])
    out = "CUDA error at: cuda_device.cpp:35: cudaErrorMemoryAllocation out of memory"
    (rapids / "cudf" / "pandas.py").write_text(f"def install(): raise RuntimeError({out!r})")
    done = lakehouse(rapids, "train")
    assert done.returncode == 2
    assert f"The GPU cannot be used: {out}. Where its memory is out, another process has it" in done.stderr


def test_training_needs_a_newer_driver_than_the_plugin(rapids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(rapids, monkeypatch, "echo 'NVIDIA A100, 570.86.10, 8.0'", os.environ["PATH"])
    spark_rapids.require_device()
    assert "570.86.10 is too old for training with RAPIDS: 580 is needed" in lakehouse(rapids, "train").stderr


def test_a_recipe_names_the_gpu_that_rapids_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(getDeviceProperties=lambda device: {"name": b"NVIDIA H100 80GB HBM3"})
    for able, found in ((True, "NVIDIA H100 80GB HBM3"), (False, "cpu")):
        cupy = SimpleNamespace(is_available=lambda able=able: able, cuda=SimpleNamespace(runtime=runtime))
        monkeypatch.setitem(sys.modules, "cupy", cupy)  # type: ignore[arg-type]
        assert describe_environment(())["device"] == found


def test_packages_that_training_on_a_gpu_lacks_are_told(tmp_path: Path) -> None:
    done = lakehouse(tmp_path, "train", before="import importlib.util; importlib.util.find_spec = lambda name: None")
    assert done.returncode == 2
    assert "needs cudf, cuml, spark_rapids_ml: pip install 'lakehouse[rapids]'" in done.stderr


def test_the_forest_is_mllibs_where_nothing_was_put_on_the_gpu() -> None:
    assert training.random_forest().__module__ == "pyspark.ml.regression"


def test_what_the_plugin_says_of_a_plan_is_read_by_line() -> None:
    plan = Plan("build", parse_nodes(SAID))

    assert [node.name for node in plan.operators()] == ["ProjectExec", "WindowExec", "RowDataSourceScanExec"]
    assert plan.gpu_operators() == 1
    assert plan.expressions() == {"*": 1, "^": 3, "@": 1}
    assert plan.fallbacks() == {
        ("WindowExec", "not all expressions can be replaced"): 1,
        ("RowDataSourceScanExec", "GPU does not currently support the operator class RowDataSourceScanExec"): 1,
    }
    assert plan.cpu_bridges() == {
        ("Cast", "try_cast is not supported on the GPU"): 1,
        ("UnixDate", "GPU does not currently support the operator class UnixDate"): 1,
    }


def test_coverage_is_the_share_of_operators() -> None:
    good, bad = Node("*", "Exec", "SortExec"), Node("!", "Exec", "WindowExec")
    reports = [TableReport("a.b", (Plan("build", (good, bad)), Plan("write", (good, good))))]
    assert coverage(reports) == 0.75
    assert coverage([TableReport("a.c", (), "not built yet")]) is None


@pytest.mark.parametrize(
    ("says", "code", "found"),
    [
        ("printf '0\\n1\\n'", 0, {"name": "gpu", "addresses": ["0", "1"]}),
        ("echo 0", 0, {"name": "gpu", "addresses": ["0"]}),
        ("true", 1, None),
        ("echo 'NVIDIA-SMI has failed with 9'; exit 9", 1, None),
    ],
)
def test_spark_is_told_which_gpus_there_are_and_of_none_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, code: int, found: object
) -> None:
    tools = os.environ["PATH"]
    smi(tmp_path, monkeypatch, says)
    script = [str(PROJECT / "deploy" / "gpu" / "find_gpus.sh")]
    done = subprocess.run(script, env={"PATH": f"{tmp_path}:{tools}"}, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout) if done.stdout else None) == (code, found)
