"""A small neural network in PyTorch: embeddings of carrier, route and aircraft beside the numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models._encoding import Description, learn_encoding
from models._epochs import Batch, import_package, learn, predict_in_parts
from models.late_arrival import BASELINE_FEATURES, EMBEDDED, TASK
from models.late_arrival import FEATURES as SHARED

if TYPE_CHECKING:
    import numpy as np
    import optuna
    import pandas as pd
    import torch

    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.task import Curve

__all__ = ["BASELINE_FEATURES", "TASK"]
FEATURES = (*SHARED, "tailnum")
REQUIREMENTS = ("torch", "safetensors", "numpy", "pyarrow", "pydantic")
CODE = ("models", "flights")
ON_SPARK = False
WEIGHTS = "weights.safetensors"
CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {"width": 128, "dropout": 0.2, "learning_rate": 1e-3, "weight_decay": 1e-2, "batch_rows": 512, "epochs": 20},
)


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Draw parameters for `lakehouse tune`. The epochs are a maximum: `learn` stops early."""
    return {
        "width": trial.suggest_int("width", 32, 256, step=32),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        "batch_rows": trial.suggest_categorical("batch_rows", (256, 512, 1024)),
        "epochs": 20,
    }


@dataclass(frozen=True)
class Network:
    description: Description
    layers: torch.nn.ModuleDict

    def probability(self, codes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the probability that each flight is late."""
        import torch

        self.layers.eval()
        with torch.inference_mode():
            return torch.sigmoid(self.logits(codes, numbers)).double().cpu().numpy()

    def logits(self, codes: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        import torch

        code, number = (torch.from_numpy(part).to(_device()) for part in (codes, numbers))
        embedded = [layer(code[:, column]) for column, layer in enumerate(self.layers["embeddings"].children())]
        logits: torch.Tensor = self.layers["layers"](torch.cat((*embedded, number), dim=1))
        return logits.squeeze(1)


class _Learner:
    """A network while it learns."""

    def __init__(self, network: Network, learning_rate: float, weight_decay: float) -> None:
        import torch

        self.network, self.probability = network, network.probability
        self.optimiser = torch.optim.AdamW(network.layers.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def learn(self, batch: Batch) -> float:
        import torch

        self.network.layers.train()
        with _mixed_precision():
            logits = self.network.logits(batch.codes, batch.numbers)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(batch.label).to(logits.device)
            )
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.item()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.network.layers.state_dict().items()}


def fit(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    features: tuple[str, ...],
    params: Mapping[str, Any],
    seed: int,
    curve: Curve,
) -> Network:
    """Train a network up to its best epoch, on a GPU if there is one.

    Raises:
        ModelError: PyTorch is not installed, or the network does not learn.
    """
    import_package("torch", "torch")
    train, validation = (replace(rows, columns=features) for rows in (train, validation))
    encoding = learn_encoding(train.read_batches(), features, EMBEDDED)
    description = Description(encoding=encoding, width=params["width"])
    with _deterministic_torch(seed):
        network = Network(description, _build_layers(description, params["dropout"]).to(_device()))
        learner = _Learner(network, params["learning_rate"], params["weight_decay"])
        rows, epochs = params["batch_rows"], params["epochs"]
        best = learn(learner, train, validation, encoding, batch_rows=rows, epochs=epochs, seed=seed, curve=curve)
        network.layers.load_state_dict(best)
    return network


def _build_layers(description: Description, dropout: float = 0) -> torch.nn.ModuleDict:
    from torch import nn

    encoding, width = description.encoding, description.width
    embeddings = [nn.Embedding(*size) for size in encoding.embeddings]
    for layer in embeddings:
        # PyTorch's default weights are so large that the embedding of a rare aircraft hardly changes.
        nn.init.xavier_uniform_(layer.weight)
    inputs = encoding.width + sum(layer.embedding_dim for layer in embeddings)
    hidden = (nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout))
    narrower = (nn.Linear(width, width // 2), nn.SiLU(), nn.Dropout(dropout))
    layers = nn.Sequential(*hidden, *narrower, nn.Linear(width // 2, 1))
    return nn.ModuleDict({"embeddings": nn.ModuleList(embeddings), "layers": layers})


def _device() -> torch.device:
    """Return the device of all networks; a GPU is set to reproducible products before its first use."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first matrix product
    return torch.device("cuda")


def _mixed_precision() -> AbstractContextManager[Any]:
    """Use bfloat16 for matrix products during training, if the GPU supports it.

    bfloat16 has the exponents of 32 bits, so no gradient vanishes. Weights, sums and predictions keep 32 bits. On a CPU
    all numbers have 32 bits.
    """
    import torch

    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast("cuda", torch.bfloat16) if has_bfloat16 else nullcontext()


@contextmanager
def _deterministic_torch(seed: int) -> Iterator[None]:
    """Make PyTorch's numbers reproducible for a seed, and restore its settings and random state afterwards."""
    import torch

    cuda = torch.cuda.is_available()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng([torch.cuda.current_device()] if cuda else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def predict(fitted: Network, frame: pd.DataFrame) -> np.ndarray:
    """Return the probability that each flight is late."""
    return predict_in_parts(fitted.probability, *fitted.description.encoding.encode_frame(frame))


def get_input_columns(fitted: Network) -> tuple[str, ...]:
    return fitted.description.encoding.features


def save(fitted: Network, folder: Path) -> None:
    """Save the weights as safetensors, the rest as JSON."""
    from safetensors.torch import save_file

    save_file(fitted.layers.state_dict(), folder / WEIGHTS)
    fitted.description.save(folder)


def load(folder: Path) -> Network:
    """Load the files of `save`.

    Raises:
        ModelError: PyTorch is not installed.
        ValueError, RuntimeError, OSError, safetensors.SafetensorError: the files are damaged or do not fit together.
    """
    import_package("torch", "torch")
    from safetensors.torch import load_file

    description = Description.load(folder)
    layers = _build_layers(description)
    layers.load_state_dict(load_file(folder / WEIGHTS))
    return Network(description, layers.to(_device()))
