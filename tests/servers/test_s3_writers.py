"""Processes that write one Delta table on S3 at once lose nothing, whatever becomes of the store's answers."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.storage.preflight import require_conditional_put
from tests.s3 import SERVERS, Proxy, client, new_keys, proxy
from tests.sessions import small_s3_session

pytestmark = pytest.mark.timeout(1200)

WRITERS = 4
APPENDS = {"minio": 100, "seaweedfs": 10}
COMMIT = "/t/_delta_log/%020d.json"
TAKEN = "java.nio.file.FileAlreadyExistsException"


# --- what the writing processes do ----------------------------------------------------------------------------------


def begin(env: dict[str, str], log: Path) -> None:
    """Start the process's session: it finds the store and its keys in the environment."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(env)
    small_s3_session().sparkContext.setLogLevel("ERROR")


def carry_out(does: Callable[..., Any], *call: Any) -> Any:
    """Call it; what it raises is told as text, for Java's errors do not travel between processes."""
    try:
        return does(*call)
    except Exception as error:
        raise AssertionError("".join(traceback.format_exception(error))) from None


def spark() -> Any:
    from pyspark.sql import SparkSession

    return SparkSession.active()


def reach(bucket: str, endpoint: str) -> None:
    """Have this process find the bucket at another endpoint than the environment's, and send it in small parts."""
    hadoop = spark()._jsc.hadoopConfiguration()
    hadoop.set(f"fs.s3a.bucket.{bucket}.endpoint", endpoint)
    hadoop.set(f"fs.s3a.bucket.{bucket}.multipart.size", "5M")


def append(table: str, writer: int, numbers: range) -> int:
    """Append a row at a time; the number of appends that were acknowledged."""
    for number in numbers:
        rows = spark().range(number, number + 1, 1, 1).selectExpr(f"{writer}L AS writer", "id AS number")
        rows.write.format("delta").mode("append").save(table)
    return len(numbers)


def count_up(table: str, merges: int) -> tuple[int, int]:
    """Add one to each row's count, a merge at a time: merges acknowledged and conflicts met."""
    import delta.exceptions as typed
    import delta.exceptions.captured  # noqa: F401 (without it a conflict is one of Java's errors like any other)

    kinds = tuple(getattr(typed, name) for name in typed.__all__)  # they have no base of their own
    done = conflicts = 0
    for _ in range(merges):
        for _attempt in range(4):
            try:
                spark().sql(
                    f"MERGE INTO delta.`{table}` t USING (SELECT explode(sequence(0, 2)) AS id) s ON t.id = s.id "
                    "WHEN MATCHED THEN UPDATE SET count = t.count + 1"
                )
                done += 1
                break
            except kinds:
                conflicts += 1
                time.sleep(random.uniform(0, 1))
    return done, conflicts


def read(table: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in spark().read.format("delta").load(table).collect())


def commit(path: str, size: int) -> str:
    """Write a commit of that many bytes through the log store itself: what came of it."""
    from py4j.protocol import Py4JJavaError

    jvm, hadoop = spark()._jvm, spark()._jsc.hadoopConfiguration()
    store = jvm.lakehouse.ConditionalPutLogStore(hadoop)
    lines = jvm.java.util.List.of("x" * size).iterator()
    try:
        store.write(jvm.org.apache.hadoop.fs.Path(path), lines, False, hadoop)
    except Py4JJavaError as error:
        return str(error.java_exception.getClass().getName())
    return "committed"


def listed(path: str) -> list[str] | str:
    """The names that the log store lists from a path onwards, or the kind of its error."""
    from py4j.protocol import Py4JJavaError

    jvm, hadoop = spark()._jvm, spark()._jsc.hadoopConfiguration()
    try:
        found = jvm.lakehouse.ConditionalPutLogStore(hadoop).listFrom(jvm.org.apache.hadoop.fs.Path(path), hadoop)
    except Py4JJavaError as error:
        return str(error.java_exception.getClass().getName())
    names = []
    while found.hasNext():
        names.append(str(found.next().getPath().getName()))
    return names


def jars() -> str:
    """The jars that executors get."""
    return str(spark()._jsc.sc().listJars())


# --- stores and writers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    name: str
    endpoint: str
    env: dict[str, str]
    bucket: str

    @property
    def options(self) -> dict[str, str]:
        return {**self.env, "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true"}

    @property
    def client(self) -> Any:
        return client(self.endpoint, self.env)

    def table(self, name: str, bucket: str | None = None) -> str:
        return f"s3a://{bucket or self.bucket}/{name}"

    def rows(self, name: str, bucket: str | None = None) -> list[tuple[Any, ...]]:
        """A table's rows without Spark."""
        found = DeltaTable(f"s3://{bucket or self.bucket}/{name}", storage_options=self.options).to_pyarrow_table()
        return sorted(tuple(row.values()) for row in found.to_pylist())

    def versions(self, name: str, bucket: str | None = None) -> list[int]:
        """The versions that are in a table's log."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket or self.bucket, Prefix=f"{name}/_delta_log/"
        )
        keys = (Path(one["Key"]) for page in pages for one in page.get("Contents", []))
        return [int(key.stem) for key in keys if key.suffix == ".json"]

    def create(self, name: str, rows: dict[str, list[int]], bucket: str | None = None) -> None:
        """Make a table; writers only add to it."""
        table = pa.table({column: pa.array(values, pa.int64()) for column, values in rows.items()})
        write_deltalake(f"s3://{bucket or self.bucket}/{name}", table, storage_options=self.options, mode="append")


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return new_keys()


@pytest.fixture(scope="module")
def minio(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with SERVERS["minio"](tmp_path_factory.mktemp("minio") / "data", env) as (endpoint, told):
        store = Store("minio", endpoint, told, "lake")
        store.client.create_bucket(Bucket=store.bucket)
        yield store


@pytest.fixture(scope="module")
def writers(minio: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ProcessPoolExecutor]]:
    """Processes with a Spark session each, of the profile minio."""
    folder = tmp_path_factory.mktemp("writers")
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        yield [
            stack.enter_context(ProcessPoolExecutor(1, spawn, begin, (minio.env, folder / f"{number}.log")))
            for number in range(WRITERS)
        ]


@pytest.fixture(scope="module", params=SERVERS)
def store(
    request: pytest.FixtureRequest,
    minio: Store,
    writers: list[ProcessPoolExecutor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Store]:
    """Each kind of store in turn, found by all writers."""
    if request.param == minio.name:
        yield minio
        return
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param) / "data", minio.env) as (endpoint, told):
        store = Store(request.param, endpoint, told, request.param)
        store.client.create_bucket(Bucket=store.bucket)
        for writer in writers:
            writer.submit(carry_out, reach, store.bucket, endpoint).result()
        yield store


def at_once(writers: list[ProcessPoolExecutor], does: Callable[..., Any], *calls: tuple[Any, ...]) -> list[Any]:
    started = [writer.submit(carry_out, does, *call) for writer, call in zip(writers, calls, strict=False)]
    return [one.result() for one in started]


def once(standing: Proxy, method: str, part: str, answer: str, before: Callable[[], None] = lambda: None) -> None:
    """Have the proxy answer so to the first request of that kind."""
    left = [answer]

    def rule(asked: str, path: str) -> str:
        if not left or asked != method or part not in path:
            return "pass"
        left.clear()
        before()
        return answer

    standing.rule = rule


# --- the tests ------------------------------------------------------------------------------------------------------


def test_the_store_passes_the_check_and_nothing_stays_behind(store: Store) -> None:
    require_conditional_put(store.client, store.bucket, "checked")
    assert store.client.list_objects_v2(Bucket=store.bucket, Prefix="checked")["KeyCount"] == 0


def test_appends_of_four_processes_at_once_are_all_there(store: Store, writers: list[ProcessPoolExecutor]) -> None:
    each = APPENDS[store.name]
    store.create("appended", {"writer": [], "number": []})
    table = store.table("appended")
    acknowledged = at_once(writers, append, *((table, writer, range(each)) for writer in range(WRITERS)))
    assert sum(acknowledged) == WRITERS * each
    expected = [(writer, number) for writer in range(WRITERS) for number in range(each)]
    assert store.rows("appended") == expected
    assert writers[0].submit(carry_out, read, table).result() == expected
    assert store.versions("appended") == list(range(WRITERS * each + 1))


def test_merges_of_the_same_rows_at_once_end_one_after_the_other(
    store: Store, writers: list[ProcessPoolExecutor]
) -> None:
    store.create("counted", {"id": [0, 1, 2], "count": [0, 0, 0]})
    (one, met), (other, met_too) = at_once(writers, count_up, *[(store.table("counted"), 5)] * 2)
    assert met + met_too > 0, "the merges were to overlap"
    assert store.rows("counted") == [(row, one + other) for row in range(3)]


def test_a_commit_larger_than_a_part_is_made_once(store: Store, writers: list[ProcessPoolExecutor]) -> None:
    bucket = f"{store.name}-parts"
    store.client.create_bucket(Bucket=bucket)
    size = 6_000_000
    with proxy(store.endpoint) as standing:
        at_once(writers, reach, *[(bucket, standing.endpoint)] * 2)
        once(standing, "POST", "?uploadId=", "lose")
        assert writers[0].submit(carry_out, commit, f"s3a://{bucket}{COMMIT % 0}", size).result() == "committed"
        assert [status for method, path, status in standing.requests if method == "POST" and "=" in path] == [0, 412]
        assert writers[1].submit(carry_out, commit, f"s3a://{bucket}{COMMIT % 0}", size).result() == TAKEN
        raced = at_once(writers, commit, *[(f"s3a://{bucket}{COMMIT % 1}", size)] * 2)
        assert sorted(raced) == ["committed", TAKEN]
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=bucket), "what was refused is given up"


@pytest.mark.parametrize("another", [False, True], ids=["alone", "after another's"])
@pytest.mark.parametrize("answer", ["lose", "conflict"])
def test_a_commit_is_made_once_whatever_the_answer(
    minio: Store, writers: list[ProcessPoolExecutor], answer: str, another: bool
) -> None:
    bucket = f"{answer}-{another}".lower()
    minio.client.create_bucket(Bucket=bucket)
    minio.create("t", {"writer": [], "number": []}, bucket)

    def other() -> None:
        if another:
            minio.create("t", {"writer": [9], "number": [9]}, bucket)

    with proxy(minio.endpoint) as standing:
        writers[0].submit(carry_out, reach, bucket, standing.endpoint).result()
        once(standing, "PUT", COMMIT % 1, answer, other)
        assert writers[0].submit(carry_out, append, f"s3a://{bucket}/t", 0, range(1)).result() == 1
    answers = [status for method, path, status in standing.requests if method == "PUT" and path.endswith(COMMIT % 1)]
    assert answers == {"lose": [0, 412], "conflict": [409] if another else [409, 200]}[answer]
    assert minio.rows("t", bucket) == ([(0, 0), (9, 9)] if another else [(0, 0)])
    assert minio.versions("t", bucket) == ([0, 1, 2] if another else [0, 1])


def test_executors_get_the_log_store_and_the_packages(writers: list[ProcessPoolExecutor]) -> None:
    found = writers[0].submit(carry_out, jars).result()
    assert "conditional-put-logstore.jar" in found
    assert "hadoop-aws" in found
    assert "bundle" not in found
    assert "wildfly" not in found


def test_a_log_that_is_not_there_is_told_from_an_empty_one(minio: Store, writers: list[ProcessPoolExecutor]) -> None:
    assert (
        writers[0].submit(carry_out, listed, minio.table("nowhere") + COMMIT % 0).result()
        == "java.io.FileNotFoundException"
    )
    minio.create("listed", {"id": [1]})
    minio.create("listed", {"id": [2]})
    assert writers[0].submit(carry_out, listed, minio.table("listed/_delta_log/%020d.json") % 1).result() == [
        "00000000000000000001.json"
    ]
