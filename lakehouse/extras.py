"""Extras of the distribution, by the packages that they install. An error about a missing package names its extra."""

from __future__ import annotations

from collections.abc import Iterator

from lakehouse.errors import MissingExtraError

DISTRIBUTION = "lakehouse-medallion"
# Packages as they are imported.
_PACKAGES = {
    "spark": ("pyspark", "delta", "py4j", "great_expectations", "openlineage"),
    "ml": ("mlflow", "sklearn", "skops", "optuna", "matplotlib", "scipy", "packaging", "pandas"),
    "torch": ("torch", "safetensors"),
    "keras": ("keras", "tensorflow"),
    "dask": ("distributed", "dask"),
    "serving": ("fastapi", "starlette", "uvicorn", "prometheus_client", "requests", "h11"),
    "app": ("streamlit", "altair"),
    "s3": ("boto3", "botocore", "smart_open"),
    "postgres": ("psycopg",),
    "gpu": ("cudf", "cuml", "spark_rapids_ml"),
    "notebooks": ("ipykernel", "jupyterlab"),
    "testing": ("chispa", "pytest"),
}
_EXTRA_OF = {package: extra for extra, packages in _PACKAGES.items() for package in packages}


def explain_missing_package(error: BaseException) -> MissingExtraError | None:
    """Return the error that names the extra of a missing package; None where no such package is missing."""
    for cause in _walk_causes(error):
        if isinstance(cause, MissingExtraError):
            return cause
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            package = cause.name.partition(".")[0]
            if package in _EXTRA_OF:
                return build_missing_package_error(package)
    return None


def build_missing_package_error(package: str) -> MissingExtraError:
    """Build the error of a package that an extra would install."""
    return MissingExtraError(
        f"The package {package} is not installed. Run pip install '{DISTRIBUTION}[{_EXTRA_OF[package]}]'."
    )


def _walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
