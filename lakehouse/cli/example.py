"""The command that belongs to the project's example. The setting `example` names the module that runs it."""

from __future__ import annotations

import importlib
from typing import Any

from lakehouse.cli.models import load_training_settings
from lakehouse.cli.terminal import console
from lakehouse.errors import SettingsError
from lakehouse.settings import Settings


def run_demo() -> None:
    """Run the example of the project from landing to scores. The setting `example` names its module."""
    settings = load_training_settings()
    load_example(settings).demo(settings, console)


def load_example(settings: Settings) -> Any:
    """Import the example's module.

    Raises:
        SettingsError: The project has no example.
    """
    if settings.example is None:
        raise SettingsError(
            "This project has no example. Set `example` in conf/base.yml to a module with the functions demo and land."
        )
    return importlib.import_module(settings.example)
