"""The network of models/network.py in Keras, on TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models._encoding import Description, learn_encoding
from models._epochs import Batch, import_package, learn, predict_in_parts
from models.late_arrival import BASELINE_FEATURES, EMBEDDED, TASK
from models.network import CANDIDATES, CODE, FEATURES, space

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.task import Curve

__all__ = ["BASELINE_FEATURES", "CANDIDATES", "CODE", "FEATURES", "TASK", "space"]
REQUIREMENTS = ("tensorflow", "keras", "numpy", "pyarrow", "pydantic")
ON_SPARK = False
WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class Network:
    """A network, fitted or in training."""

    description: Description
    layers: Any  # keras.Model

    def learn(self, batch: Batch) -> float:
        self.layers.reset_metrics()  # otherwise the loss is the mean of all steps
        return float(self.layers.train_on_batch((batch.codes, batch.numbers), batch.label))

    def probability(self, codes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(self.layers((codes, numbers), training=False))[:, 0].astype(float)

    def weights(self) -> list[np.ndarray]:
        weights: list[np.ndarray] = self.layers.get_weights()
        return weights


def fit(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    features: tuple[str, ...],
    params: Mapping[str, Any],
    seed: int,
    curve: Curve,
) -> Network:
    """Train a network up to its best epoch. TensorFlow's operations stay deterministic, which cannot be reset.

    Raises:
        ModelError: TensorFlow is not installed, or the network does not learn.
    """
    keras = _import_keras()
    import_package("tensorflow", "keras").config.experimental.enable_op_determinism()
    train, validation = (replace(rows, columns=features) for rows in (train, validation))
    encoding = learn_encoding(train.read_batches(), features, EMBEDDED)
    description = Description(encoding=encoding, width=params["width"])
    network = Network(description, _build_layers(description, params["dropout"], seed))
    optimiser = keras.optimizers.AdamW(params["learning_rate"], weight_decay=params["weight_decay"])
    network.layers.compile(optimiser, "binary_crossentropy")
    rows, epochs = params["batch_rows"], params["epochs"]
    best = learn(network, train, validation, encoding, batch_rows=rows, epochs=epochs, seed=seed, curve=curve)
    network.layers.set_weights(best)
    return network


def _import_keras() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow otherwise prints its plugins to the console
    return import_package("tensorflow", "keras").keras


def _build_layers(description: Description, dropout: float = 0, seed: int = 0) -> Any:
    """Build the model by this code, because Keras's own loader runs stored code."""
    keras, encoding = _import_keras(), description.encoding
    layers, initializer = keras.layers, keras.initializers.GlorotUniform(seed)
    codes, numbers = keras.Input((len(encoding.embedded),), dtype="int64"), keras.Input((encoding.width,))
    embedded = [
        layers.Embedding(*size, embeddings_initializer=initializer)(codes[:, column])
        for column, size in enumerate(encoding.embeddings)
    ]
    output = layers.Concatenate()([*embedded, numbers])
    for width in (description.width, description.width // 2):
        output = layers.Dense(width, "silu", kernel_initializer=initializer)(output)
        output = layers.Dropout(dropout, seed=seed)(output)
    return keras.Model((codes, numbers), layers.Dense(1, "sigmoid", kernel_initializer=initializer)(output))


def predict(fitted: Network, frame: pd.DataFrame) -> np.ndarray:
    """Return the probability that each flight is late."""
    return predict_in_parts(fitted.probability, *fitted.description.encoding.encode_frame(frame))


def get_input_columns(fitted: Network) -> tuple[str, ...]:
    return fitted.description.encoding.features


def save(fitted: Network, folder: Path) -> None:
    """Save the weights as NumPy arrays, the rest as JSON."""
    import numpy as np

    np.savez(folder / WEIGHTS, *fitted.weights())
    fitted.description.save(folder)


def load(folder: Path) -> Network:
    """Load the files of `save`.

    Raises:
        ModelError: TensorFlow is not installed.
        ValueError, OSError: the files are damaged or do not fit together.
    """
    import numpy as np

    _import_keras()
    description = Description.load(folder)
    network = Network(description, _build_layers(description))
    with np.load(folder / WEIGHTS, allow_pickle=False) as stored:
        network.layers.set_weights([stored[name] for name in stored.files])
    return network
