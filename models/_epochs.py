"""Training loop of networks on streamed rows: minibatches in a new order each epoch, with early stopping."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lakehouse.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.task import Curve
    from models._encoding import Encoding

# The weeks in memory, drawn from the whole span and shuffled together.
BUFFER_WEEKS = 8
# The share of codes set to 0 while learning, which trains the embedding of unknown values.
FORGOTTEN_SHARE = 0.05
# The epochs without a better Brier score that end the learning.
PATIENCE = 3
# The rows of one prediction step.
PREDICTED_ROWS = 16_384


def import_package(package: str, extra: str) -> Any:
    """Import a package that only one of the project's extras installs.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(f"This model needs {package}: pip install 'lakehouse-medallion[{extra}]'") from error


class Batch(NamedTuple):
    """Rows encoded by `Encoding.encode`, and their float32 labels, 0 or 1."""

    codes: np.ndarray
    numbers: np.ndarray
    label: np.ndarray


class Learner(Protocol):
    """A network while it learns."""

    def learn(self, batch: Batch) -> float:
        """Take a step, and return the mean loss before it."""

    def probability(self, codes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the label's probability for each row."""

    def weights(self) -> Any:
        """Return a copy of the current weights."""


def learn(
    learner: Learner,
    train: LabelledRows,
    validation: LabelledRows,
    encoding: Encoding,
    *,
    batch_rows: int,
    epochs: int,
    seed: int,
    curve: Curve,
) -> Any:
    """Train a network, and return its weights after the epoch with the lowest Brier score on ``validation``.

    Raises:
        ModelError: the loss is not a number.
    """
    import numpy as np

    best, best_epoch, weights = np.inf, 0, None
    with tempfile.TemporaryDirectory() as folder:
        train_weeks, validation_weeks = (spool(rows, encoding, Path(folder)) for rows in (train, validation))
        for epoch in range(1, epochs + 1):
            batches = minibatches(train_weeks, batch_rows, seed, epoch)
            steps = [(learner.learn(batch), len(batch.label)) for batch in batches]
            weeks = map(_read, validation_weeks)
            errors = [learner.probability(week.codes, week.numbers) - week.label for week in weeks]
            brier = float(np.mean(np.concatenate(errors, dtype=np.float64) ** 2))
            losses, rows = zip(*steps, strict=True)
            curve(epoch, {"validation_brier": brier, "train_loss": float(np.average(losses, weights=rows))})
            if brier < best:
                best, best_epoch, weights = brier, epoch, learner.weights()
            elif epoch >= best_epoch + PATIENCE:
                break
    if weights is None:
        raise ModelError("The network's loss is not a number. Set a lower learning_rate in CANDIDATES.")
    return weights


def predict_in_parts(
    probability: Callable[[np.ndarray, np.ndarray], np.ndarray], codes: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Predict the probabilities of many rows, PREDICTED_ROWS at a time."""
    import numpy as np

    parts = [slice(start, start + PREDICTED_ROWS) for start in range(0, len(codes), PREDICTED_ROWS)]
    return np.concatenate([probability(codes[part], numbers[part]) for part in parts])


def spool(rows: LabelledRows, encoding: Encoding, folder: Path) -> list[Path]:
    """Write the encoded rows to ``folder``, one file per week, some 300 bytes a row.

    Each epoch reads all weeks. Reading one week from the lake can take as long as reading the whole table if its files
    are not sorted by day.
    """
    import numpy as np

    files: list[Path] = []
    for table in rows.read_batches():
        codes, numbers = encoding.encode(table)
        label = table[rows.features.task.label_column].to_numpy().astype(np.float32)
        files.append(folder / f"{rows.span[0]}-{rows.span[1]}-{len(files)}.npz")
        np.savez(files[-1], codes=codes, numbers=numbers, label=label)
    return files


def minibatches(weeks: Sequence[Path], batch_rows: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Read each row of the files of `spool` once, in an order that follows from seed and epoch."""
    import numpy as np

    random = np.random.default_rng((seed, epoch))
    order = [weeks[index] for index in random.permutation(len(weeks))]
    for start in range(0, len(order), BUFFER_WEEKS):
        yield from _shuffle(order[start : start + BUFFER_WEEKS], batch_rows, random)


def _shuffle(weeks: Sequence[Path], batch_rows: int, random: np.random.Generator) -> Iterator[Batch]:
    import numpy as np

    codes, numbers, label = (np.concatenate(part) for part in zip(*map(_read, weeks), strict=True))
    codes[random.random(codes.shape) < FORGOTTEN_SHARE] = 0
    order = random.permutation(len(label))
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        yield Batch(codes[rows], numbers[rows], label[rows])


def _read(week: Path) -> Batch:
    import numpy as np

    with np.load(week, allow_pickle=False) as stored:
        return Batch(stored["codes"], stored["numbers"], stored["label"])
