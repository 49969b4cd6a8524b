"""The command that prints Spark's configuration."""

from __future__ import annotations

from lakehouse import settings as settings_module
from lakehouse.cli.terminal import console


def print_properties() -> None:
    """Print the profile's Spark properties for spark-submit --properties-file. LAKEHOUSE_GPU adds those of a GPU."""
    from lakehouse.engine.spark.session import compose_properties

    for name, value in compose_properties(settings_module.load()).items():
        console.print(f"{name} {value}", markup=False, highlight=False, soft_wrap=True)
