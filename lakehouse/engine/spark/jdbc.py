"""Sources in a database: a run writes new rows to a file in the landing zone, and ingests it as any other file.

So a batch is pinned, finished after a crash and rebuilt in a full refresh as that of any other source, without the
database. The bounds of an extract by cursor are recorded (manifests/<source>/extracts/<N>.json) before its rows are
read. An interrupted extract is repeated with the same bounds, into the same file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.definitions.identifiers import quote_identifier
from lakehouse.definitions.sources import SECRET_IN_URL, Database, Source
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import SourceError
from lakehouse.landing.paths import is_ignored
from lakehouse.landing.zone import LandingZone
from lakehouse.storage import location
from lakehouse.storage.location import Location, to_spark_uri

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CONNECT_SECONDS = 10
# Longest silence of the database: it scans the whole table for a new value of the cursor.
READ_SECONDS = 600
LOCK_SECONDS = 60
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Extract:
    """Extract number N of a source by cursor: the rows between two values of the cursor, in one file.

    Attributes:
        after: The rows have greater values than this one. None in the first extract.
        until: The greatest value of the rows.
    """

    number: int
    after: str | None
    until: str
    file: str


def extract(spark: SparkSession, source: Source, landing: LandingZone, scratches: Location, run: Run) -> None:
    """Write the database's new rows to a file in the source's landing folder.

    Raises:
        SourceError: The database cannot be read, or has rows that an extract by cursor would miss.
        LockError: The run's lease on the lake expired; another run may hold it and repeat this extract.
    """
    assert source.database is not None
    table = _DatabaseTable(spark, source, source.database)
    run.lease.check()
    location.remove(scratches)  # files of interrupted runs
    scratch = scratches / run.id
    if source.database.cursor is None:
        _land_snapshot(table, landing, scratch, run)
        return
    folder = landing.manifest_folder / "extracts"
    last = _read_last_extract(folder)
    if last is not None and not _has_landed(landing, last):
        _land_extract(table, landing, last, scratch, run)
    new = table.plan_extract(last)
    if new is not None:
        location.create(folder / f"{new.number:08d}.json", json.dumps(asdict(new), indent=1).encode())
        _land_extract(table, landing, new, scratch, run)


@dataclass(frozen=True)
class _DatabaseTable:
    """Table of a source in its database."""

    spark: SparkSession
    source: Source
    database: Database

    def plan_extract(self, last: Extract | None) -> Extract | None:
        """Plan the next extract. Return None if the table has no new rows."""
        assert self.database.cursor is not None
        cursor, settle = _quote_name(self.database.cursor), self.database.settle_seconds
        where = [f"{cursor} > {_quote_value(last.until)}"] if last else []
        if settle:
            where.append(f"{cursor} <= current_timestamp - interval '{settle:g} seconds'")
        table = _quote_name(self.database.table)
        bounds = self._read(
            f"SELECT CAST(max({cursor}) AS varchar(64)) AS until, "
            f"(SELECT count(*) FROM {table} WHERE {cursor} IS NULL) AS missing FROM {table}{_build_where_clause(where)}"
        ).first()
        assert bounds is not None
        if bounds["missing"]:
            column = self.database.cursor
            raise SourceError(
                f"{self.source.name}: {bounds['missing']} rows of {self.database.table} have no {column}: "
                f"an extract by cursor would miss them. Set {column} in every row, "
                "or declare the source without a cursor."
            )
        if bounds["until"] is None:
            return None
        number = last.number + 1 if last else 1
        file = f"{_get_file_stem(self.source)}_{number:08d}_{_format_today()}.parquet"
        return Extract(number, last.until if last else None, bounds["until"], file)

    def read_rows(self, extract: Extract | None) -> DataFrame:
        """Read the rows of an extract in the order of the key.

        Args:
            extract: Without it all rows of the table are read.
        """
        where = []
        if extract:
            cursor = _quote_name(str(self.database.cursor))
            where += [f"{cursor} > {_quote_value(extract.after)}"] if extract.after is not None else []
            where += [f"{cursor} <= {_quote_value(extract.until)}"]
        takes_new_columns = self.source.contract.new_column != "fail"
        columns = "*" if takes_new_columns else ", ".join(map(_quote_name, self.source.columns))
        rows = self._read(f"SELECT {columns} FROM {_quote_name(self.database.table)}{_build_where_clause(where)}")
        self._check_columns(rows.columns)
        declared = [F.col(f"`{name}`").cast(kind).alias(name) for name, kind in self.source.columns.items()]
        others = [F.col(quote_identifier(name)) for name in rows.columns if name not in self.source.columns]
        return rows.select(*declared, *others).coalesce(1).sortWithinPartitions(*self.database.key)

    def _check_columns(self, columns: Sequence[str]) -> None:
        """Check that the columns have the declared case.

        Raises:
            SourceError: A column differs only in case from a declared one. Spark would read it as the declared one.
        """
        declared = {name.lower(): name for name in self.source.columns}
        for name in columns:
            if (declared_name := declared.get(name.lower(), name)) != name:
                raise SourceError(
                    f"{self.source.name}: {self.database.table} has a column {name}, declared as {declared_name}. "
                    f"Declare the column as {name}."
                )

    def _read(self, query: str) -> DataFrame:
        url = _VARIABLE.sub(lambda match: self._read_variable(match[1]), self.database.url)
        options = {
            "url": url,
            "driver": self.database.driver,
            "query": query,
            "fetchsize": "10000",
            "user": self._read_variable(self.database.user),
            "password": self._read_variable(self.database.password),
        }
        if url.startswith("jdbc:postgresql:"):  # other drivers count in milliseconds
            options |= {
                "connectTimeout": str(CONNECT_SECONDS),
                "loginTimeout": str(CONNECT_SECONDS),
                "socketTimeout": str(READ_SECONDS),
                "options": f"-c lock_timeout={LOCK_SECONDS}s",
                "tcpKeepAlive": "true",
            }
        return self.spark.read.format("jdbc").options(**options).load()

    def _read_variable(self, name: str) -> str:
        value = os.environ.get(name)
        if not value:
            raise SourceError(
                f"{self.source.name}: the database needs {name}. Set {name} in the environment or in .env."
            )
        return value


def _land_snapshot(table: _DatabaseTable, landing: LandingZone, scratch: Location, run: Run) -> None:
    """Land all rows of the table, unless the last file has the same rows."""
    files = [name for name in location.list_names(landing.folder) if not is_ignored(name)]
    last = f"{landing.source.landing}/{files[-1]}" if files else None
    file = landing.folder / f"{_get_file_stem(table.source)}_{_format_today()}.parquet"
    with _write_extract(table.read_rows(None), scratch) as part:
        if last is None or not _has_same_rows(part, landing.root, last):
            run.lease.check()
            location.move(part, file)


def _land_extract(table: _DatabaseTable, landing: LandingZone, planned: Extract, scratch: Location, run: Run) -> None:
    with _write_extract(table.read_rows(planned), scratch) as part:
        run.lease.check()
        # Never replace a file that another run landed meanwhile: a table may have its rows.
        with suppress(FileExistsError):
            if not _has_landed(landing, planned):
                location.move_new(part, landing.folder / planned.file)


def explain_error(source: Source, error: Exception) -> SourceError | None:
    """Return an error of the database as a SourceError, or None for any other error."""
    database = source.database
    match = re.search(r"(?:org\.postgresql|java\.sql)[\w.]*Exception: ([^\n]+)", str(error))
    if database is None or match is None:
        return None
    names = [*_VARIABLE.findall(database.url), database.user, database.password]
    resolved = _VARIABLE.sub(lambda variable: os.environ.get(variable[1], variable[0]), database.url)
    url = database.url if SECRET_IN_URL.search(resolved) else resolved
    return SourceError(
        f"{source.name}: the database ({url}) cannot be read: {match[1]} Check that the database runs and that "
        f"{', '.join(names)} are right, then run again."
    )


@contextmanager
def _write_extract(rows: DataFrame, scratch: Location) -> Iterator[Location]:
    """Write the rows to one temporary file, and delete it in the end."""
    try:
        rows.write.mode("overwrite").parquet(to_spark_uri(scratch))
        (part,) = [scratch / name for name in location.list_names(scratch) if name.endswith(".parquet")]
        yield part
    finally:
        location.remove(scratch)


def _has_same_rows(extract: Location, landing: Location, path: str) -> bool:
    """Return True if an extract holds the same rows in the same order as a landed Parquet file.

    The bytes of the files may differ from one JVM to the next.

    Args:
        landing: The landing zone. A link in it is not followed: such a file has other rows.
        path: The path of the landed file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with extract.open("rb") as new_file, location.open_unlinked(landing, path) as landed_file:
            left, right = pq.ParquetFile(new_file), pq.ParquetFile(landed_file)
            if left.schema_arrow != right.schema_arrow or left.metadata.num_rows != right.metadata.num_rows:
                return False
            pairs = zip(left.iter_batches(), right.iter_batches(), strict=True)
            # The bytes are compared too, because NaN does not equal NaN.
            return all(a.equals(b) or a.serialize() == b.serialize() for a, b in pairs)
    except (pa.ArrowInvalid, OSError):  # a damaged file is replaced
        return False


def _has_landed(landing: LandingZone, extract: Extract) -> bool:
    path = f"{landing.source.landing}/{extract.file}"
    is_ingested = any(file.path == path for manifest in landing.read_history() for file in manifest.files)
    return is_ingested or not isinstance(location.stat_files(landing.root, [path])[path], OSError)


def _read_last_extract(folder: Location) -> Extract | None:
    names = location.list_names(folder)
    return Extract(**json.loads((folder / names[-1]).read_text(encoding="utf-8"))) if names else None


def _get_file_stem(source: Source) -> str:
    return source.landing.rpartition("/")[2]


def _format_today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _build_where_clause(conditions: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _quote_name(name: str) -> str:
    """Quote a column, a table or schema.table for SQL, also where the name is a keyword (user, order)."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def _quote_value(value: str) -> str:
    """Quote a value for SQL. The database compares it by the column's type."""
    return "'" + value.replace("'", "''") + "'"
