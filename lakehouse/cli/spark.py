"""The command that prints Spark's configuration."""

from __future__ import annotations

from lakehouse import api
from lakehouse.cli.terminal import console


def print_properties() -> None:
    """Print the profile's Spark properties for spark-submit --properties-file. LAKEHOUSE_GPU adds those of a GPU."""
    for name, value in api.compose_spark_properties(api.load_settings()).items():
        console.print(f"{name} {value}", markup=False, highlight=False, soft_wrap=True)
