"""An error about a missing package names the extra that installs it."""

from __future__ import annotations

import tomllib

import pytest

from lakehouse import extras
from lakehouse.extras import explain_missing_package
from tests.paths import PROJECT


def make_error(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {package!r}", name=package)


@pytest.mark.parametrize(("package", "extra"), [("pyspark.sql", "spark"), ("mlflow", "ml"), ("botocore.config", "s3")])
def test_a_missing_package_names_its_extra(package: str, extra: str) -> None:
    explained = explain_missing_package(make_error(package))
    name = package.partition(".")[0]
    assert str(explained) == f"The package {name} is not installed. Run pip install 'lakehouse-medallion[{extra}]'."


def test_the_cause_of_an_error_counts() -> None:
    error = RuntimeError("it failed")
    error.__cause__ = make_error("torch")
    assert "lakehouse-medallion[torch]" in str(explain_missing_package(error))


@pytest.mark.parametrize("error", [make_error("someone_else"), ImportError("no name"), ValueError("pyspark")])
def test_other_errors_are_not_explained(error: Exception) -> None:
    assert explain_missing_package(error) is None


def test_every_extra_is_declared() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["name"] == extras.DISTRIBUTION
    assert extras._PACKAGES.keys() <= project["optional-dependencies"].keys()
