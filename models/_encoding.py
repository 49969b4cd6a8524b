"""Encoding of feature tables as network inputs: codes to embed, and standardised numbers.

An encoding is learned from a stream of rows and stored as a small JSON file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

DESCRIPTION = "network.json"
# Values are clipped at this many standard deviations from the mean: a delay of ten hours is no stranger than one of
# five.
MAX_DEVIATIONS = 5.0


class StoredDescription(BaseModel):
    """A JSON document that is rejected if any field is unknown, missing or of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Embedding(StoredDescription):
    """Columns with one code for their joined values: the position in the vocabulary from 1 on, 0 if unknown."""

    columns: tuple[str, ...] = Field(min_length=1)
    vocabulary: tuple[str, ...]

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        if len({*self.vocabulary}) < len(self.vocabulary):
            raise ValueError("a vocabulary names a value twice")
        return self


class NumberScale(StoredDescription):
    """The standardisation of a number.

    Attributes:
        has_gaps: the number is sometimes missing, which a second number of 0 or 1 encodes.
    """

    mean: FiniteFloat
    deviation: FiniteFloat = Field(gt=0)
    has_gaps: bool


class Encoding(StoredDescription):
    """The encoding of features, learned from the train rows."""

    features: tuple[str, ...] = Field(min_length=1)
    embedded: dict[str, Embedding]
    numbers: dict[str, NumberScale]

    @model_validator(mode="after")
    def _check_complete(self) -> Self:
        encoded = [*self.numbers, *(name for embedding in self.embedded.values() for name in embedding.columns)]
        if sorted(encoded) != sorted(self.features):
            raise ValueError(f"it encodes {', '.join(encoded)}, but the features are {', '.join(self.features)}")
        return self

    @property
    def width(self) -> int:
        """Return the count of numbers per row."""
        return len(self.numbers) + sum(number.has_gaps for number in self.numbers.values())

    @property
    def embeddings(self) -> list[tuple[int, int]]:
        """Return each embedding's codes and dimensions: four for ten values, some twenty for ten thousand."""
        sizes = [len(embedding.vocabulary) + 1 for embedding in self.embedded.values()]
        return [(size, round(2 * size**0.25)) for size in sizes]

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Encode the rows, in their order, as int64 codes (rows, embeddings) and float32 numbers (rows, `width`)."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        codes = np.zeros((rows.num_rows, len(self.embedded)), dtype=np.int64)
        for column, embedding in enumerate(self.embedded.values()):
            vocabulary = pa.array(embedding.vocabulary, pa.string())
            positions = pc.index_in(_join_values(rows, embedding.columns), value_set=vocabulary)
            codes[:, column] = pc.fill_null(positions, -1).to_numpy() + 1
        scales = self.numbers.values()
        standard = _stack_numbers(rows, self.numbers) - [scale.mean for scale in scales]
        standard /= [scale.deviation for scale in scales]
        missing = np.isnan(standard)
        standard = np.where(missing, 0, standard.clip(-MAX_DEVIATIONS, MAX_DEVIATIONS))
        gaps = missing[:, [scale.has_gaps for scale in scales]]
        return codes, np.concatenate((standard, gaps), axis=1, dtype=np.float32)

    def encode_frame(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Encode an input frame of `Model.predict`; see `encode`."""
        import pyarrow as pa

        return self.encode(pa.Table.from_pandas(frame[list(self.features)], preserve_index=False))


class Description(StoredDescription):
    """A fitted network without its weights. The width is bounded, so that no file can exhaust the memory."""

    encoding: Encoding
    width: int = Field(ge=1, le=4096)

    def save(self, folder: Path) -> None:
        (folder / DESCRIPTION).write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a description; pydantic raises a ValidationError, which is a ValueError, on an invalid one."""
        return cls.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))


def learn_encoding(
    batches: Iterable[pa.Table], features: tuple[str, ...], embedded: Mapping[str, tuple[str, ...]]
) -> Encoding:
    """Learn the encoding of ``features`` in one pass over the rows.

    Args:
        embedded: the columns of each embedding by its name; columns that are not features are left out.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    present = {name: tuple(column for column in group if column in features) for name, group in embedded.items()}
    groups = {name: columns for name, columns in present.items() if columns}
    names = [name for name in features if not any(name in columns for columns in groups.values())]
    values, moments = {name: pa.array([], pa.string()) for name in groups}, _Moments(len(names))
    for rows in batches:
        for name, columns in groups.items():
            values[name] = pc.unique(pa.chunked_array([values[name], *_join_values(rows, columns).chunks]))
        moments.add(_stack_numbers(rows, names))
    vocabularies = {name: tuple(sorted(pc.drop_null(texts).to_pylist())) for name, texts in values.items()}
    return Encoding(
        features=features,
        embedded={name: Embedding(columns=columns, vocabulary=vocabularies[name]) for name, columns in groups.items()},
        numbers=dict(zip(names, moments.scales(), strict=True)),
    )


class _Moments:
    """Running means and deviations of some columns of numbers, from parts of their rows."""

    def __init__(self, columns: int) -> None:
        import numpy as np

        self.rows, (self.count, self.mean, self.squares) = 0, np.zeros((3, columns))

    def add(self, numbers: np.ndarray) -> None:
        """Add the moments of another part: Chan, Golub and LeVeque, Updating Formulae (1979)."""
        import numpy as np

        count = (~np.isnan(numbers)).sum(axis=0)
        mean = np.nansum(numbers, axis=0) / np.maximum(count, 1)
        shift, share = mean - self.mean, count / np.maximum(self.count + count, 1)
        self.squares += np.nansum((numbers - mean) ** 2, axis=0) + shift**2 * self.count * share
        self.mean += shift * share
        self.count += count
        self.rows += len(numbers)

    def scales(self) -> list[NumberScale]:
        import numpy as np

        deviation = np.sqrt(self.squares / np.maximum(self.count, 1))
        deviation[deviation == 0] = 1  # a constant value, or none
        columns = (self.mean.tolist(), deviation.tolist(), (self.count < self.rows).tolist())
        return [NumberScale(mean=mean, deviation=by, has_gaps=gaps) for mean, by, gaps in zip(*columns, strict=True)]


def _join_values(rows: pa.Table, columns: Iterable[str]) -> pa.ChunkedArray:
    """Join the columns' texts by row; the result is missing where any of them is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(*(rows[name].cast(pa.string()) for name in columns), " ")


def _stack_numbers(rows: pa.Table, names: Iterable[str]) -> np.ndarray:
    """Stack the columns as float64, NaN where there is no finite number."""
    import numpy as np
    import pyarrow as pa

    columns = [rows[name].cast(pa.float64()).to_numpy() for name in names]
    numbers = np.stack(columns, axis=1) if columns else np.empty((rows.num_rows, 0))
    return np.where(np.isfinite(numbers), numbers, np.nan)
