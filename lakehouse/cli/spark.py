"""The command that writes Spark's configuration."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lakehouse import api
from lakehouse.cli.terminal import console
from lakehouse.settings import PREFIX


def write_properties(
    profile: Annotated[str | None, typer.Option(help="The profile. By default that of LAKEHOUSE_PROFILE.")] = None,
) -> None:
    """Write the profile's Spark properties to a file for spark-submit --properties-file, and print its path."""
    if profile is not None:
        os.environ[f"{PREFIX}PROFILE"] = profile
    console.print(str(api.write_spark_properties(api.load_settings())), markup=False, highlight=False, soft_wrap=True)
