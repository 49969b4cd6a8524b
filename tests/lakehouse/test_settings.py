"""Settings are read once, and every mistake is reported by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from lakehouse import settings as settings_module
from lakehouse.engine.spark.session import LOG_STORE, read_properties
from lakehouse.errors import SettingsError
from lakehouse.settings import load
from tests.paths import CONF, PROJECT


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's variables, and ignore .env."""
    for name in [name for name in os.environ if name.startswith(("LAKEHOUSE_", "MLFLOW_", "SPARK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(settings_module, "load_dotenv", lambda file: False)


def test_variables_override_profile_and_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    (conf / "spark").mkdir(parents=True)
    for name, content in {
        "base": {"root": "base", "spark": "a.conf", "declarations": ["one", "two"], "parallel_tables": 2},
        "local": {"profile": "local"},
        "other": {"profile": "other", "root": "other", "parallel_tables": 3},
    }.items():
        (conf / f"{name}.yml").write_text(yaml.safe_dump(content))
    (conf / "spark" / "a.conf").touch()
    monkeypatch.chdir(conf)
    assert load().root == tmp_path / "base"
    monkeypatch.setenv("LAKEHOUSE_PROFILE", "other")
    assert (load().root, load().parallel_tables, load().profile) == (tmp_path / "other", 3, "other")
    monkeypatch.setenv("LAKEHOUSE_ROOT", str(tmp_path / "mine"))
    monkeypatch.setenv("LAKEHOUSE_DECLARATIONS", '["tests.orders"]')
    settings = load()
    assert (settings.root, settings.lake, settings.declarations) == (
        tmp_path / "mine",
        tmp_path / "mine" / "lake",
        ("tests.orders",),
    )
    assert load(parallel_tables=5).parallel_tables == 5

    (conf / "other.yml").write_text("root: [unclosed\n")
    with pytest.raises(SettingsError):
        load()
    (conf / "other.yml").write_text("profile: other\nrooot: typo\nroot: x\n")
    with pytest.raises(SettingsError, match="rooot: unknown setting; allowed: project, profile, root"):
        load()
    (conf / "other.yml").write_text("profile: other\n")
    (conf / "base.yml").write_text("declarations: [one]\n")
    monkeypatch.delenv("LAKEHOUSE_ROOT")
    with pytest.raises(SettingsError) as raised:
        load()
    assert "root: missing; set it in conf/base.yml or LAKEHOUSE_ROOT" in str(raised.value)
    assert "spark: missing" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LAKEHOUSE_ROOOT", "x", "Unknown setting LAKEHOUSE_ROOOT; allowed: LAKEHOUSE_DASK, LAKEHOUSE_DECLARATIONS"),
        ("LAKEHOUSE_", "x", "Unknown setting LAKEHOUSE_;"),
        ("LAKEHOUSE_PROFILE", "produktion", "'produktion' is not a profile; conf/ has: "),
        ("LAKEHOUSE_PARALLEL_TABLES", "many", "parallel_tables='many'"),
        ("LAKEHOUSE_PARALLEL_TABLES", "0", "parallel_tables='0'"),
        ("LAKEHOUSE_LOCK_WAIT_SECONDS", "-1", "lock_wait_seconds='-1'"),
        ("LAKEHOUSE_SPARK", "mine.conf", "not one of the files in conf/spark: "),
        ("LAKEHOUSE_DECLARATIONS", "bronze", "declarations"),
        ("LAKEHOUSE_DECLARATIONS", '["bronze; import os"]', "declarations.0='bronze; import os'"),
        ("LAKEHOUSE_DECLARATIONS", '["../bronze"]', "declarations.0='../bronze'"),
        ("LAKEHOUSE_DECLARATIONS", '["bronze\\n"]', "declarations.0='bronze\\n'"),
        ("LAKEHOUSE_ROOT", "data/[1] 20%", "the path has % [ ], which readers of Delta tables interpret"),
        ("LAKEHOUSE_EXAMPLE", "jobs/example", "example='jobs/example'"),
        ("LAKEHOUSE_MODELS", '{"it\'s": "models.late_arrival"}', "models.it's"),
        ("LAKEHOUSE_MODELS", '{"late": "models late"}', "models.late='models late'"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load()
    assert expected in str(raised.value)


def test_several_wrong_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PARALLEL_TABLES", "99")
    monkeypatch.setenv("LAKEHOUSE_SPARK", "none.conf")
    with pytest.raises(SettingsError) as raised:
        load()
    assert "parallel_tables='99'" in str(raised.value)
    assert "spark='none.conf'" in str(raised.value)


def test_a_bucket_needs_log_folder_and_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ROOT", "s3://acme-data/lake/")
    with pytest.raises(
        SettingsError, match="needs log_folder, a local folder, and mlflow, the address of a tracking server"
    ):
        load()
    monkeypatch.setenv("LAKEHOUSE_LOG_FOLDER", "data/logs")
    monkeypatch.setenv("LAKEHOUSE_MLFLOW", "http://127.0.0.1:5000")
    settings = load()
    assert (str(settings.landing), str(settings.lake)) == ("s3://acme-data/lake/landing", "s3://acme-data/lake/lake")
    assert settings.logs == PROJECT / "data/logs"
    assert (settings.tracking_uri, settings.artifacts) == ("http://127.0.0.1:5000", "")


def test_schemes_of_a_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_LOG_FOLDER", "data/logs")
    monkeypatch.setenv("LAKEHOUSE_MLFLOW", "http://127.0.0.1:5000")
    monkeypatch.setenv("LAKEHOUSE_ROOT", "s3a://acme-data/lake")
    assert str(load().root) == "s3://acme-data/lake"
    monkeypatch.setenv("LAKEHOUSE_ROOT", "gs://acme-data/lake")
    with pytest.raises(SettingsError, match="a lake must be in a folder or in s3://bucket/prefix"):
        load()


@pytest.mark.parametrize("file", sorted((CONF / "spark").glob("*.conf")), ids=lambda file: file.stem)
def test_profiles_use_utc_and_the_log_store(file: Path) -> None:
    # A GPU's properties extend a profile's.
    base = read_properties(CONF / "spark" / "local.conf") if file.stem.startswith("gpu") else {}
    properties = base | read_properties(file)
    options = {name: value for name, value in properties.items() if name.endswith(".extraJavaOptions")}
    assert options
    assert all("-Duser.timezone=UTC -Dfile.encoding=UTF-8" in value for value in options.values())
    assert properties["spark.sql.session.timeZone"] == "UTC"
    assert properties["spark.sql.parquet.outputTimestampType"] == "TIMESTAMP_MICROS"
    assert not {name for name in properties if name.startswith("spark.hadoop.fs.s3a") and "performance" in name}
    assert properties.get("spark.delta.logStore.s3a.impl", LOG_STORE) == LOG_STORE


def test_an_error_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ROOT", "s3://acme-data/lake")
    monkeypatch.setenv("LAKEHOUSE_MLFLOW", "https://me:canary@mlflow.example")
    with pytest.raises(SettingsError, match="needs log_folder") as raised:
        load()
    assert "canary" not in str(raised.value)
    monkeypatch.setenv("LAKEHOUSE_SPARK", "https://me:canary@mlflow.example")
    with pytest.raises(SettingsError, match="spark=") as raised:
        load()
    assert "canary" not in str(raised.value)


def test_a_profile_names_its_missing_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PROFILE", "minio")
    with pytest.raises(SettingsError, match="minio.yml needs MLFLOW_TRACKING_URI in the environment or in .env"):
        load()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5001")
    assert load().tracking_uri == "http://127.0.0.1:5001"


def test_an_overridden_setting_needs_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PROFILE", "cluster")
    monkeypatch.setenv("LAKEHOUSE_SPARK_MASTER", "k8s://https://kubernetes.default.svc")
    monkeypatch.setenv("LAKEHOUSE_MLFLOW", "https://mlflow.example")
    settings = load()
    assert (settings.spark_master, settings.spark) == ("k8s://https://kubernetes.default.svc", "cluster.conf")


def test_the_shipped_profiles_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("SPARK_MASTER_PORT", "7077")
    for file in CONF.glob("*.yml"):
        if file.stem != "base":
            monkeypatch.setenv("LAKEHOUSE_PROFILE", file.stem)
            assert load().profile == file.stem
