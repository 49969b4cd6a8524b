"""The declared models, by name and by task."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from lakehouse.errors import ModelError, SettingsError
from lakehouse.ml.task import Model, Task
from lakehouse.settings import Settings


def load_models(settings: Settings) -> dict[str, Model]:
    """The modules of the declared models, by name.

    Raises:
        SettingsError: one cannot be imported, lacks what a model needs, or means something else by a task than another does.
    """
    found = {name: _load_model(name, module) for name, module in settings.models.items()}
    tasks: dict[str, tuple[str, Task]] = {}
    for name, model in found.items():
        first, task = tasks.setdefault(model.TASK.name, (name, model.TASK))
        if task != model.TASK:
            raise SettingsError(f"The models {first} and {name} mean different things by the task {task.name!r}.")
    return found


def _load_model(name: str, module: str) -> Model:
    try:
        model: Any = importlib.import_module(module)
    except Exception as error:  # whatever a mistake in its module raises
        said = f"{type(error).__name__}: {error}"
        raise SettingsError(f"The model {name} cannot be loaded from {module}: {said}") from error
    needed = [one for one in dir(Model) if not one.startswith("_")]
    if lacking := [one for one in needed if not hasattr(model, one)]:
        raise SettingsError(f"The model {name} ({module}) lacks {', '.join(lacking)}.")
    return cast("Model", model)


def choose_model(models: Mapping[str, Model], name: str | None) -> str:
    """The name of a declared model; the first one's, without a name.

    Raises:
        ModelError: no model has that name.
    """
    name = name or next(iter(models), "")
    if name not in models:
        raise ModelError(f"No model is called {name!r}; known are {', '.join(models) or 'none'} (conf/base.yml).")
    return name


def choose_task(models: Mapping[str, Model], name: str | None) -> Task:
    """The task of that name; the first model's, without a name.

    Raises:
        ModelError: no model learns a task of that name.
    """
    tasks = {model.TASK.name: model.TASK for model in models.values()}
    name = name or next(iter(tasks), "")
    if name not in tasks:
        raise ModelError(f"No model learns {name!r}; what is learned: {', '.join(tasks) or 'nothing'} (conf/base.yml).")
    return tasks[name]
