"""Estimators by name. Another library may replace one for this process, such as one that trains on a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_REPLACEMENTS: dict[str, str] = {}


def load_estimator(name: str) -> Any:
    """Import an estimator's class, or the class that replaces it in this process.

    Args:
        name: Dotted name, such as pyspark.ml.regression.RandomForestRegressor.
    """
    module, _, attribute = _REPLACEMENTS.get(name, name).rpartition(".")
    return getattr(import_module(module), attribute)


def replace_estimator(name: str, replacement: str) -> None:
    """Have `load_estimator` import the replacement in this process; it must take the same parameters."""
    _REPLACEMENTS[name] = replacement
