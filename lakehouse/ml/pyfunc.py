"""MLflow's loader of a registered model (`mlflow models serve`): this file is stored as code, no pickle is read.

The project itself loads models by `lakehouse.ml.mlflow_client.load_version`, which runs no stored code.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

LEARNER_FILE = "learner.json"  # as in lakehouse.ml.mlflow_client, which this file must not import


class PackagedModel(PythonModel):
    """A model of MLflow that predicts the label's probability for each row."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        self.module = importlib.import_module(json.loads((folder / LEARNER_FILE).read_text())["module"])
        self.fitted = self.module.load(folder)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads type hints as a schema
        return self.module.predict(self.fitted, model_input)


set_model(PackagedModel())
