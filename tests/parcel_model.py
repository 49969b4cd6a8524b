"""The parcels' model as a module that another process can import. PREDICT_SECONDS makes predictions slow."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pandas as pd

from tests import parcels


def predict(fitted: Any, frame: pd.DataFrame) -> np.ndarray:
    time.sleep(float(os.environ.get("PREDICT_SECONDS", "0")))
    return parcels.predict(fitted, frame)


def __getattr__(name: str) -> Any:
    return getattr(parcels.change_model(), name)
