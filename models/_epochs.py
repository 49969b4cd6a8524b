"""How networks learn from rows that stream by: minibatches in an order drawn for each epoch, until they get no better."""

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

# Rows of so many weeks, drawn from all of the span, are in memory and shuffled together.
BUFFER_WEEKS = 8
# The share of the codes to learn from that are made 0, so that what was never seen has an embedding that was learned, too.
FORGOTTEN_SHARE = 0.05
# So many epochs without a better Brier score end the learning.
PATIENCE = 3
# How many rows go through a network at once where it does not learn from them.
PREDICTED_ROWS = 16_384


def import_package(package: str, extra: str) -> Any:
    """A package that only one of the project's extras installs.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(f"This model needs {package}: pip install 'lakehouse[{extra}]'") from error


class Batch(NamedTuple):
    """Rows as `Encoding.encode` makes them, and their float32 labels, 0 or 1."""

    codes: np.ndarray
    numbers: np.ndarray
    label: np.ndarray


class Learner(Protocol):
    """A network while it learns."""

    def learn(self, batch: Batch) -> float:
        """Take a step; returns the mean loss before it."""

    def probability(self, codes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The label's probability for each row."""

    def weights(self) -> Any:
        """A copy of what was learned so far."""


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
    """The weights after the epoch whose Brier score on ``choose`` was the lowest.

    Raises:
        ModelError: there is no such epoch, as the loss is not a number.
    """
    import numpy as np

    best, best_epoch, weights = np.inf, 0, None
    with tempfile.TemporaryDirectory() as folder:
        train_weeks, choose_weeks = (spool(rows, encoding, Path(folder)) for rows in (train, validation))
        for epoch in range(1, epochs + 1):
            batches = minibatches(train_weeks, batch_rows, seed, epoch)
            steps = [(learner.learn(batch), len(batch.label)) for batch in batches]
            errors = [learner.probability(week.codes, week.numbers) - week.label for week in map(_read, choose_weeks)]
            brier = float(np.mean(np.concatenate(errors, dtype=np.float64) ** 2))
            losses, rows = zip(*steps, strict=True)
            curve(epoch, {"validation_brier": brier, "train_loss": float(np.average(losses, weights=rows))})
            if brier < best:
                best, best_epoch, weights = brier, epoch, learner.weights()
            elif epoch >= best_epoch + PATIENCE:
                break
    if weights is None:
        raise ModelError("The network's loss is not a number: give it a lower learning_rate in CANDIDATES.")
    return weights


def predict_in_parts(
    probability: Callable[[np.ndarray, np.ndarray], np.ndarray], codes: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """The probabilities of many rows, of PREDICTED_ROWS at a time."""
    import numpy as np

    starts = range(0, len(codes), PREDICTED_ROWS)
    return np.concatenate(
        [probability(codes[at : at + PREDICTED_ROWS], numbers[at : at + PREDICTED_ROWS]) for at in starts]
    )


def spool(rows: LabelledRows, encoding: Encoding, folder: Path) -> list[Path]:
    """The rows encoded, a file of ``folder`` a week, some 300 bytes a row.

    To read a week from the lake can take as long as to read all of it, where its files are not sorted by day; each epoch reads
    all weeks.
    """
    import numpy as np

    files: list[Path] = []
    for table in rows.batches():
        codes, numbers = encoding.encode(table)
        label = table[rows.features.task.label_column].to_numpy().astype(np.float32)
        files.append(folder / f"{rows.span[0]}-{rows.span[1]}-{len(files)}.npz")
        np.savez(files[-1], codes=codes, numbers=numbers, label=label)
    return files


def minibatches(weeks: Sequence[Path], batch_rows: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Each row that was `spooled` once, in an order that follows from seed and epoch."""
    import numpy as np

    chance = np.random.default_rng((seed, epoch))
    order = [weeks[at] for at in chance.permutation(len(weeks))]
    for start in range(0, len(order), BUFFER_WEEKS):
        yield from _shuffled(order[start : start + BUFFER_WEEKS], batch_rows, chance)


def _shuffled(weeks: Sequence[Path], batch_rows: int, chance: np.random.Generator) -> Iterator[Batch]:
    import numpy as np

    codes, numbers, label = (np.concatenate(part) for part in zip(*map(_read, weeks), strict=True))
    codes[chance.random(codes.shape) < FORGOTTEN_SHARE] = 0
    order = chance.permutation(len(label))
    for at in range(0, len(order), batch_rows):
        taken = order[at : at + batch_rows]
        yield Batch(codes[taken], numbers[taken], label[taken])


def _read(week: Path) -> Batch:
    import numpy as np

    with np.load(week, allow_pickle=False) as stored:
        return Batch(stored["codes"], stored["numbers"], stored["label"])
