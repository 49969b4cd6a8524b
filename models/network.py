"""A small neural network of PyTorch: embeddings of carrier, route and aircraft beside the numbers. It never holds all rows."""

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
    """What `lakehouse tune` looks through. So many epochs are the most: `learn` ends when they do no good any more."""
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
        """The probability that each flight is late."""
        import torch

        self.layers.eval()
        with torch.inference_mode():
            return torch.sigmoid(self.logits(codes, numbers)).double().cpu().numpy()

    def logits(self, codes: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        import torch

        code, number = (torch.from_numpy(part).to(_device()) for part in (codes, numbers))
        embedded = [layer(code[:, at]) for at, layer in enumerate(self.layers["embeddings"].children())]
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
    """The network at its best epoch, on a GPU where there is one.

    Raises:
        ModelError: PyTorch is not installed, or the network does not learn.
    """
    import_package("torch", "torch")
    train, validation = (replace(rows, columns=features) for rows in (train, validation))
    encoding = learn_encoding(train.batches(), features, EMBEDDED)
    described = Description(encoding=encoding, width=params["width"])
    with _deterministic(seed):
        network = Network(described, _layers(described, params["dropout"]).to(_device()))
        learner = _Learner(network, params["learning_rate"], params["weight_decay"])
        rows, epochs = params["batch_rows"], params["epochs"]
        best = learn(learner, train, validation, encoding, batch_rows=rows, epochs=epochs, seed=seed, curve=curve)
        network.layers.load_state_dict(best)
    return network


def _layers(described: Description, dropout: float = 0) -> torch.nn.ModuleDict:
    from torch import nn

    encoding, width = described.encoding, described.width
    embeddings = [nn.Embedding(*size) for size in encoding.embeddings]
    for layer in embeddings:
        nn.init.xavier_uniform_(
            layer.weight
        )  # the default's ones are so large that a rare aircraft stays what it began as
    inputs = encoding.width + sum(layer.embedding_dim for layer in embeddings)
    layers = nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout),
        nn.Linear(width, width // 2), nn.SiLU(), nn.Dropout(dropout),
        nn.Linear(width // 2, 1),
    )  # fmt: skip
    return nn.ModuleDict({"embeddings": nn.ModuleList(embeddings), "layers": layers})


def _device() -> torch.device:
    """Where all of it is computed; on a GPU the same numbers every time, also by what was only loaded before another is fitted."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first product of matrices
    return torch.device("cuda")


def _mixed_precision() -> AbstractContextManager[Any]:
    """Where a GPU can, products of matrices have 16 bits while the network learns (bfloat16, whose exponents are those of 32 bits, so that
    no gradient vanishes); what is learned, sums and predictions keep 32. On a CPU all have 32."""
    import torch

    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast("cuda", torch.bfloat16) if able else nullcontext()


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """The same numbers for the same seed meanwhile, and afterwards everything about PyTorch as it was before."""
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
    """The probability that each flight is late."""
    return predict_in_parts(fitted.probability, *fitted.description.encoding.encode_frame(frame))


def input_columns(fitted: Network) -> tuple[str, ...]:
    return fitted.description.encoding.features


def save(fitted: Network, folder: Path) -> None:
    """The weights as safetensors, the rest as JSON."""
    from safetensors.torch import save_file

    save_file(fitted.layers.state_dict(), folder / WEIGHTS)
    fitted.description.save(folder)


def load(folder: Path) -> Network:
    """What `save` wrote.

    Raises:
        ModelError: PyTorch is not installed.
        ValueError, RuntimeError, OSError, safetensors.SafetensorError: the files are damaged or do not fit together.
    """
    import_package("torch", "torch")
    from safetensors.torch import load_file

    described = Description.load(folder)
    layers = _layers(described)
    layers.load_state_dict(load_file(folder / WEIGHTS))
    return Network(described, layers.to(_device()))
