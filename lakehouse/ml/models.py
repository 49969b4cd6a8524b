"""The declared models, by name and by task."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from lakehouse.errors import ModelError, SettingsError
from lakehouse.extras import explain_missing_package
from lakehouse.ml.task import Model, Task
from lakehouse.settings import Settings


def load_models(settings: Settings) -> dict[str, Model]:
    """Import the modules of the declared models, by name.

    Raises:
        SettingsError: a module cannot be imported or lacks part of a model, or two models declare a task differently.
        MissingExtraError: a module needs a package that is not installed.
    """
    models = {name: _load_model(name, module) for name, module in settings.models.items()}
    tasks: dict[str, tuple[str, Task]] = {}
    for name, model in models.items():
        first, task = tasks.setdefault(model.TASK.name, (name, model.TASK))
        if task != model.TASK:
            raise SettingsError(
                f"The models {first} and {name} declare the task {task.name!r} differently. Give both the same Task."
            )
    return models


def _load_model(name: str, module: str) -> Model:
    try:
        model: Any = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        if missing_package := explain_missing_package(error):
            raise missing_package from error
        reason = f"{type(error).__name__}: {error}"
        raise SettingsError(f"The model {name} cannot be loaded from {module}: {reason}") from error
    required = [attribute for attribute in dir(Model) if not attribute.startswith("_")]
    if missing := [attribute for attribute in required if not hasattr(model, attribute)]:
        raise SettingsError(f"The model {name} ({module}) lacks {', '.join(missing)}.")
    return cast("Model", model)


def choose_model(models: Mapping[str, Model], name: str | None) -> str:
    """Return the name of a declared model, by default the first one's.

    Raises:
        ModelError: no model has that name.
    """
    name = name or next(iter(models), "")
    if name not in models:
        raise ModelError(f"No model is called {name!r}; known are {', '.join(models) or 'none'} (conf/base.yml).")
    return name


def choose_task(models: Mapping[str, Model], name: str | None) -> Task:
    """Return the task of that name, by default the first model's.

    Raises:
        ModelError: no model learns a task of that name.
    """
    tasks = {model.TASK.name: model.TASK for model in models.values()}
    name = name or next(iter(tasks), "")
    if name not in tasks:
        raise ModelError(f"No model learns {name!r}; declared tasks: {', '.join(tasks) or 'none'} (conf/base.yml).")
    return tasks[name]
