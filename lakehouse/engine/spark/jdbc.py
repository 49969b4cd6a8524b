"""Sources kept in a database: what a run finds there becomes a file of the landing zone, and is ingested as one.

So a batch is pinned, finished after a crash, and made anew in a full refresh as that of any other source, whatever has become of
the database since. An extract by cursor has its bounds on record (manifests/<source>/extracts/<N>.json) before its rows are read:
one that was cut short is carried out again with the same bounds, into the same file.
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
from lakehouse.landing.zone import LandingZone, is_ignored
from lakehouse.storage import location
from lakehouse.storage.location import Location, to_spark_uri

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CONNECT_SECONDS = 10
# How long the database may send nothing: it looks through the whole table for a new value of the cursor.
READ_SECONDS = 600
LOCK_SECONDS = 60
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Extract:
    """Extract N of a source by cursor: the rows after one value of it (all without one), up to another, into one file."""

    number: int
    after: str | None
    until: str
    file: str


def extract(spark: SparkSession, source: Source, landing: LandingZone, scratches: Location, run: Run) -> None:
    """Bring what the database has and the landing zone has not into the source's landing folder.

    Raises:
        SourceError: the database cannot be read, or has rows that no extract by cursor would find.
        LockError: the lake may be another run's by now, and this extract with it.
    """
    assert source.database is not None
    asked = _DatabaseTable(spark, source, source.database)
    run.lease.check()
    location.remove(scratches)  # what runs that were cut short left behind
    scratch = scratches / run.id
    if source.database.cursor is None:
        there = [name for name in location.list_names(landing.folder) if not is_ignored(name)]
        before = landing.folder / there[-1] if there else None
        file = landing.folder / f"{_file_stem(source)}_{_today()}.parquet"
        with _write_extract(asked.read_rows(None), scratch) as part:
            if before is None or not _has_same_rows(part, before):
                run.lease.check()
                location.move(part, file)
        return
    folder = landing.manifest_folder / "extracts"
    last = _last_extract(folder)
    if last is not None and not _has_landed(landing, last):
        _land_extract(asked, landing, last, scratch, run)
    new = asked.next_extract(last)
    if new is not None:
        location.create(folder / f"{new.number:08d}.json", json.dumps(asdict(new), indent=1).encode())
        _land_extract(asked, landing, new, scratch, run)


@dataclass(frozen=True)
class _DatabaseTable:
    """A source's table in its database."""

    spark: SparkSession
    source: Source
    database: Database

    def next_extract(self, last: Extract | None) -> Extract | None:
        """The next extract; None where nothing is new."""
        assert self.database.cursor is not None
        cursor, settle = _quote_name(self.database.cursor), self.database.settle_seconds
        where = [f"{cursor} > {_quote_value(last.until)}"] if last else []
        if settle:
            where.append(f"{cursor} <= current_timestamp - interval '{settle:g} seconds'")
        table = _quote_name(self.database.table)
        found = self._read(
            f"SELECT CAST(max({cursor}) AS varchar(64)) AS until, "
            f"(SELECT count(*) FROM {table} WHERE {cursor} IS NULL) AS missing FROM {table}{_where_clause(where)}"
        ).first()
        assert found is not None
        if found["missing"]:
            raise SourceError(
                f"{self.source.name}: {found['missing']} rows of {self.database.table} have no {self.database.cursor}, so that no extract would "
                "find them. Give them one, or declare the source without a cursor."
            )
        if found["until"] is None:
            return None
        number = last.number + 1 if last else 1
        return Extract(
            number,
            last.until if last else None,
            found["until"],
            f"{_file_stem(self.source)}_{number:08d}_{_today()}.parquet",
        )

    def read_rows(self, extract: Extract | None) -> DataFrame:
        """The rows of an extract, or all, in the order of the key."""
        where = []
        if extract:
            cursor = _quote_name(str(self.database.cursor))
            where += [f"{cursor} > {_quote_value(extract.after)}"] if extract.after is not None else []
            where += [f"{cursor} <= {_quote_value(extract.until)}"]
        also = self.source.contract.new_column != "fail"
        named = "*" if also else ", ".join(map(_quote_name, self.source.columns))
        read = self._read(f"SELECT {named} FROM {_quote_name(self.database.table)}{_where_clause(where)}")
        self._check_columns(read.columns)
        others = [F.col(quote_identifier(name)) for name in read.columns if name not in self.source.columns]
        typed = read.select(
            *[F.col(f"`{name}`").cast(kind).alias(name) for name, kind in self.source.columns.items()], *others
        )
        return typed.coalesce(1).sortWithinPartitions(*self.database.key)

    def _check_columns(self, found: Sequence[str]) -> None:
        """
        Raises:
            SourceError: a column differs only in case from a declared one, for which Spark would take it.
        """
        declared = {name.lower(): name for name in self.source.columns}
        if odd := [name for name in found if declared.get(name.lower(), name) != name]:
            raise SourceError(
                f"{self.source.name}: {self.database.table} has a column {odd[0]}, declared as {declared[odd[0].lower()]}: "
                "declare it as it is there."
            )

    def _read(self, query: str) -> DataFrame:
        url = _VARIABLE.sub(lambda one: self._read_variable(one[1]), self.database.url)
        options = {
            "url": url, "driver": self.database.driver, "query": query, "fetchsize": "10000",
            "user": self._read_variable(self.database.user), "password": self._read_variable(self.database.password),
        }  # fmt: skip
        if url.startswith("jdbc:postgresql:"):  # other drivers count in milliseconds
            options |= {
                "connectTimeout": str(CONNECT_SECONDS), "loginTimeout": str(CONNECT_SECONDS), "socketTimeout": str(READ_SECONDS),
                "options": f"-c lock_timeout={LOCK_SECONDS}s", "tcpKeepAlive": "true",
            }  # fmt: skip
        return self.spark.read.format("jdbc").options(**options).load()

    def _read_variable(self, name: str) -> str:
        value = os.environ.get(name)
        if not value:
            raise SourceError(f"{self.source.name}: its database needs {name} in the environment or in .env.")
        return value


def _land_extract(table: _DatabaseTable, landing: LandingZone, planned: Extract, scratch: Location, run: Run) -> None:
    with _write_extract(table.read_rows(planned), scratch) as part:
        run.lease.check()
        # A file that lies there, put by whoever came between, may be in a table already.
        with suppress(FileExistsError):
            if not _has_landed(landing, planned):
                location.move_new(part, landing.folder / planned.file)


def explain_error(source: Source, error: Exception) -> SourceError | None:
    """An error that came from the database in words; None for any other."""
    database = source.database
    said = re.search(r"(?:org\.postgresql|java\.sql)[\w.]*Exception: ([^\n]+)", str(error))
    if database is None or said is None:
        return None
    names = [*_VARIABLE.findall(database.url), database.user, database.password]
    resolved = _VARIABLE.sub(lambda one: os.environ.get(one[1], one[0]), database.url)
    url = database.url if SECRET_IN_URL.search(resolved) else resolved
    return SourceError(
        f"{source.name}: its database ({url}) cannot be read: {said[1]} Check that it runs and that "
        f"{', '.join(names)} are right, then run again."
    )


@contextmanager
def _write_extract(rows: DataFrame, scratch: Location) -> Iterator[Location]:
    """The rows as one file, which is gone in the end."""
    try:
        rows.write.mode("overwrite").parquet(to_spark_uri(scratch))
        (part,) = [scratch / name for name in location.list_names(scratch) if name.endswith(".parquet")]
        yield part
    finally:
        location.remove(scratch)


def _has_same_rows(one: Location, other: Location) -> bool:
    """Whether two Parquet files hold the same rows in the same order; their bytes may differ from one JVM to the next."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with one.open("rb") as left, other.open("rb") as right:
            ours, theirs = pq.ParquetFile(left), pq.ParquetFile(right)
            if ours.schema_arrow != theirs.schema_arrow or ours.metadata.num_rows != theirs.metadata.num_rows:
                return False
            pairs = zip(ours.iter_batches(), theirs.iter_batches(), strict=True)
            # By their bytes, too: of numbers that are none (NaN) no two are equal.
            return all(mine.equals(yours) or mine.serialize() == yours.serialize() for mine, yours in pairs)
    except (pa.ArrowInvalid, OSError):  # what lies there is damaged: it is replaced
        return False


def _has_landed(landing: LandingZone, extract: Extract) -> bool:
    path = f"{landing.source.landing}/{extract.file}"
    taken = any(one.path == path for manifest in landing.read_history() for one in manifest.files)
    return taken or not isinstance(location.stat_files(landing.root, [path])[path], OSError)


def _last_extract(folder: Location) -> Extract | None:
    names = location.list_names(folder)
    return Extract(**json.loads((folder / names[-1]).read_text(encoding="utf-8"))) if names else None


def _file_stem(source: Source) -> str:
    return source.landing.rpartition("/")[2]


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _where_clause(conditions: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _quote_name(name: str) -> str:
    """A column, a table or schema.table as SQL says it, whatever the word means otherwise: user, order."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def _quote_value(value: str) -> str:
    """A value as SQL says it; the database compares it as what the column is."""
    return "'" + value.replace("'", "''") + "'"
