"""A table of features as arrays that a network takes: codes to embed, and standardised numbers.

The encoding is learned as the rows stream by, and what is learned fits into a small JSON file.
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
# Further from the mean, in standard deviations, is not told apart: a delay of ten hours is no stranger than one of five.
MAX_DEVIATIONS = 5.0


class StoredDescription(BaseModel):
    """What is written as JSON, and refused where anything is unknown, missing or of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Embedding(StoredDescription):
    """Columns whose values together have a code: their place in the vocabulary from 1 on, or 0 where they are not in it."""

    columns: tuple[str, ...] = Field(min_length=1)
    vocabulary: tuple[str, ...]

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        if len({*self.vocabulary}) < len(self.vocabulary):
            raise ValueError("a vocabulary names a value twice")
        return self


class NumberScale(StoredDescription):
    """How a number is standardised, and whether it is sometimes missing, which is then a number of its own: 0 or 1."""

    mean: FiniteFloat
    deviation: FiniteFloat = Field(gt=0)
    has_gaps: bool


class Encoding(StoredDescription):
    """What the rows to train on taught about the features."""

    features: tuple[str, ...] = Field(min_length=1)
    embedded: dict[str, Embedding]
    numbers: dict[str, NumberScale]

    @model_validator(mode="after")
    def _check_complete(self) -> Self:
        encoded = [*self.numbers, *(name for one in self.embedded.values() for name in one.columns)]
        if sorted(encoded) != sorted(self.features):
            raise ValueError(f"it encodes {', '.join(encoded)}, but the features are {', '.join(self.features)}")
        return self

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return len(self.numbers) + sum(number.has_gaps for number in self.numbers.values())

    @property
    def embeddings(self) -> list[tuple[int, int]]:
        """Each embedding's number of codes and of dimensions: four for ten values, some twenty for ten thousand."""
        codes = [len(one.vocabulary) + 1 for one in self.embedded.values()]
        return [(size, round(2 * size**0.25)) for size in codes]

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """The rows, in their order: int64 codes (rows, embeddings) and float32 numbers (rows, `width`)."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        codes = np.zeros((rows.num_rows, len(self.embedded)), dtype=np.int64)
        for place, one in enumerate(self.embedded.values()):
            at = pc.index_in(_values(rows, one.columns), value_set=pa.array(one.vocabulary, pa.string()))
            codes[:, place] = pc.fill_null(at, -1).to_numpy() + 1
        known = self.numbers.values()
        standard = _numbers(rows, self.numbers) - [number.mean for number in known]
        standard /= [number.deviation for number in known]
        missing = np.isnan(standard)
        standard = np.where(missing, 0, standard.clip(-MAX_DEVIATIONS, MAX_DEVIATIONS))
        gaps = missing[:, [number.has_gaps for number in known]]
        return codes, np.concatenate((standard, gaps), axis=1, dtype=np.float32)

    def encode_frame(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """`encode` for a frame as `Model.predict` takes it."""
        import pyarrow as pa

        return self.encode(pa.Table.from_pandas(frame[list(self.features)], preserve_index=False))


class Description(StoredDescription):
    """All of a fitted network but its weights. The width has a bound, so that no file makes the memory run out."""

    encoding: Encoding
    width: int = Field(ge=1, le=4096)

    def save(self, folder: Path) -> None:
        (folder / DESCRIPTION).write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises pydantic's ValidationError, a ValueError, on what it does not know."""
        return cls.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))


def learn_encoding(
    batches: Iterable[pa.Table], features: tuple[str, ...], embedded: Mapping[str, tuple[str, ...]]
) -> Encoding:
    """The encoding of ``features``, from one pass over the rows.

    ``embedded`` says by an embedding's name which columns it is of; columns that are not features are left out of it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    present = {name: tuple(one for one in of if one in features) for name, of in embedded.items()}
    columns = {name: of for name, of in present.items() if of}
    names = [name for name in features if not any(name in of for of in columns.values())]
    seen, moments = {name: pa.array([], pa.string()) for name in columns}, _Moments(len(names))
    for rows in batches:
        for name, of in columns.items():
            seen[name] = pc.unique(pa.chunked_array([seen[name], *_values(rows, of).chunks]))
        moments.add(_numbers(rows, names))
    vocabularies = {name: tuple(sorted(pc.drop_null(values).to_pylist())) for name, values in seen.items()}
    return Encoding(
        features=features,
        embedded={name: Embedding(columns=of, vocabulary=vocabularies[name]) for name, of in columns.items()},
        numbers=dict(zip(names, moments.numbers(), strict=True)),
    )


class _Moments:
    """Means and deviations of some columns of numbers, from parts of their rows."""

    def __init__(self, columns: int) -> None:
        import numpy as np

        self.rows, (self.known, self.mean, self.squares) = 0, np.zeros((3, columns))

    def add(self, numbers: np.ndarray) -> None:
        """Put another part's together with those so far: Chan, Golub and LeVeque, Updating Formulae (1979)."""
        import numpy as np

        known = (~np.isnan(numbers)).sum(axis=0)
        mean = np.nansum(numbers, axis=0) / np.maximum(known, 1)
        apart, share = mean - self.mean, known / np.maximum(self.known + known, 1)
        self.squares += np.nansum((numbers - mean) ** 2, axis=0) + apart**2 * self.known * share
        self.mean += apart * share
        self.known += known
        self.rows += len(numbers)

    def numbers(self) -> list[NumberScale]:
        import numpy as np

        deviation = np.sqrt(self.squares / np.maximum(self.known, 1))
        deviation[deviation == 0] = 1  # one and the same value, or none
        columns = (self.mean.tolist(), deviation.tolist(), (self.known < self.rows).tolist())
        return [NumberScale(mean=mean, deviation=by, has_gaps=gaps) for mean, by, gaps in zip(*columns, strict=True)]


def _values(rows: pa.Table, columns: Iterable[str]) -> pa.ChunkedArray:
    """The columns' texts joined by row; missing where one of them is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(*(rows[name].cast(pa.string()) for name in columns), " ")


def _numbers(rows: pa.Table, names: Iterable[str]) -> np.ndarray:
    """The columns side by side as float64, NaN where there is no finite number."""
    import numpy as np
    import pyarrow as pa

    columns = [rows[name].cast(pa.float64()).to_numpy() for name in names]
    numbers = np.stack(columns, axis=1) if columns else np.empty((rows.num_rows, 0))
    return np.where(np.isfinite(numbers), numbers, np.nan)
