"""Rows of a table as a dataset of pyarrow that verifies the checksums of pages, and names a damaged file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds

from lakehouse.errors import DamagedFileError
from lakehouse.storage.location import build_delta_options

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from lakehouse.storage.location import Location

# In the text of each library that reads by pyarrow, DuckDB among them.
_MISMATCH = "CRC checksum verification failed"


class VerifiedDataset(ds.FileSystemDataset):  # type: ignore[misc]  # pyarrow has no types
    """The files of a table at one version.

    Pages that their writer gave no checksum are read as they are.
    """

    def __init__(self, table: Location, dataset: ds.FileSystemDataset) -> None:
        parquet = dataset.format
        parquet.default_fragment_scan_options = ds.ParquetFragmentScanOptions(
            pre_buffer=True, page_checksum_verification=True
        )
        super().__init__(dataset.get_fragments(), dataset.schema, parquet, dataset.filesystem)
        self.table = table

    def to_table(self, *arguments: Any, **options: Any) -> pa.Table:
        """Read the rows as `pyarrow.dataset.Dataset.to_table` does.

        Raises:
            DamagedFileError: A page of a file is damaged.
        """
        with name_damaged_file(self):
            return super().to_table(*arguments, **options)

    def to_batches(self, *arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        """Read the rows as `pyarrow.dataset.Dataset.to_batches` does.

        Raises:
            DamagedFileError: A page of a file is damaged.
        """
        with name_damaged_file(self):
            yield from super().to_batches(*arguments, **options)

    def head(self, *arguments: Any, **options: Any) -> pa.Table:
        """Read the first rows as `pyarrow.dataset.Dataset.head` does.

        Raises:
            DamagedFileError: A page of a file is damaged.
        """
        with name_damaged_file(self):
            return super().head(*arguments, **options)

    def count_rows(self, *arguments: Any, **options: Any) -> int:
        """Count the rows as `pyarrow.dataset.Dataset.count_rows` does.

        Raises:
            DamagedFileError: A page of a file is damaged.
        """
        with name_damaged_file(self):
            return int(super().count_rows(*arguments, **options))

    def find_damaged_file(self) -> str | None:
        """Read all files until one has a damaged page. Return its path below the table's folder."""
        for fragment in self.get_fragments():
            try:
                for _ in fragment.to_batches():
                    pass
            except OSError as error:
                if _MISMATCH in str(error):
                    return str(fragment.path)
        return None


@contextmanager
def name_damaged_file(*datasets: VerifiedDataset) -> Iterator[None]:
    """Name the file with a damaged page. Neither pyarrow nor DuckDB names it.

    Args:
        datasets: The datasets that are read.

    Raises:
        DamagedFileError: A page of a file is damaged.
    """
    try:
        yield
    except Exception as error:  # Each library has its own types.
        if _MISMATCH not in str(error):
            raise
        for dataset in datasets:
            if path := dataset.find_damaged_file():
                raise DamagedFileError(
                    f"{dataset.table}: the file {path} is damaged: the checksum of a page does not match. "
                    "Restore the file.",
                    str(dataset.table / path),
                ) from error
        raise


def open_dataset(location: Location, table: DeltaTable) -> VerifiedDataset:
    """Open the rows of a table. Files are skipped by their statistics."""
    try:
        dataset = table.to_pyarrow_dataset()
    except (OverflowError, ValueError):
        dataset = _open_without_statistics(location, table)
    return VerifiedDataset(location, dataset)


def _open_without_statistics(location: Location, table: DeltaTable) -> ds.FileSystemDataset:
    """Open the rows where a statistic is a date that delta-rs cannot hand to Python, such as one of year 10000."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    files = PyFileSystem(DeltaStorageHandler(str(location), build_delta_options(location)))
    parquet = ds.ParquetFileFormat()
    paths = pa.table(table.get_add_actions(flatten=True))["path"].to_pylist()
    fragments = [parquet.make_fragment(unquote(path), files) for path in paths]
    return ds.FileSystemDataset(fragments, pa.schema(table.schema()), parquet, files)
