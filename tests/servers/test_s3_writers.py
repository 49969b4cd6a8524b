"""Concurrent writers of one Delta table on S3: no commit is lost, even if answers of the store are."""

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
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.deltalog.commit_record import Record
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.errors import CommitConflictError
from lakehouse.storage.preflight import require_conditional_put
from lakehouse.storage.s3 import S3Path
from tests.s3 import SERVERS, Proxy, make_client, new_keys, proxy
from tests.sessions import small_s3_session

pytestmark = pytest.mark.timeout(1200)

WRITERS = 4
APPENDS = 100  # of each writer
COMMIT = "/t/_delta_log/%020d.json"
EXISTS = "java.nio.file.FileAlreadyExistsException"


# --- functions of the writing processes -----------------------------------------------------------------------------


def begin(env: dict[str, str], log: Path) -> None:
    """Start the process's session, which reads the store's address and keys from the environment."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(env)
    small_s3_session().sparkContext.setLogLevel("ERROR")


def carry_out(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function and raise its errors as text. Java's errors cannot be sent to another process."""
    try:
        return function(*arguments)
    except Exception as error:
        raise AssertionError("".join(traceback.format_exception(error))) from None


def spark() -> Any:
    from pyspark.sql import SparkSession

    return SparkSession.active()


def reach(bucket: str, endpoint: str) -> None:
    """Set another endpoint for the bucket than the environment's, and small parts."""
    hadoop = spark()._jsc.hadoopConfiguration()
    hadoop.set(f"fs.s3a.bucket.{bucket}.endpoint", endpoint)
    hadoop.set(f"fs.s3a.bucket.{bucket}.multipart.size", "5M")


def append(table: str, writer: int, numbers: range) -> int:
    """Append one row per commit; return the number of acknowledged commits."""
    for number in numbers:
        rows = spark().range(number, number + 1, 1, 1).selectExpr(f"{writer}L AS writer", "id AS number")
        rows.write.format("delta").mode("append").save(table)
    return len(numbers)


def count_up(table: str, merges: int) -> tuple[int, int]:
    """Add one to each row's count with every merge.

    Returns:
        The numbers of acknowledged merges and of conflicts.
    """
    import delta.exceptions as delta_errors
    import delta.exceptions.captured  # noqa: F401 (without it a conflict is a plain error of Java)

    kinds = tuple(getattr(delta_errors, name) for name in delta_errors.__all__)  # they share no base class
    merged = conflicts = 0
    for _ in range(merges):
        for _attempt in range(4):
            try:
                spark().sql(
                    f"MERGE INTO delta.`{table}` t USING (SELECT explode(sequence(0, 2)) AS id) s ON t.id = s.id "
                    "WHEN MATCHED THEN UPDATE SET count = t.count + 1"
                )
                merged += 1
                break
            except kinds:
                conflicts += 1
                time.sleep(random.uniform(0, 1))
    return merged, conflicts


def read(table: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in spark().read.format("delta").load(table).collect())


def commit(path: str, size: int) -> str:
    """Write a commit of ``size`` bytes with the log store.

    Returns:
        "committed", or the class of the error.
    """
    from py4j.protocol import Py4JJavaError

    jvm, hadoop = spark()._jvm, spark()._jsc.hadoopConfiguration()
    store = jvm.lakehouse.ConditionalPutLogStore(hadoop)
    lines = jvm.java.util.List.of("x" * size).iterator()
    try:
        store.write(jvm.org.apache.hadoop.fs.Path(path), lines, False, hadoop)
    except Py4JJavaError as error:
        return str(error.java_exception.getClass().getName())
    return "committed"


def list_names(path: str) -> list[str] | str:
    """List the names from a path onwards with the log store, or return the class of its error."""
    from py4j.protocol import Py4JJavaError

    jvm, hadoop = spark()._jvm, spark()._jsc.hadoopConfiguration()
    try:
        entries = jvm.lakehouse.ConditionalPutLogStore(hadoop).listFrom(jvm.org.apache.hadoop.fs.Path(path), hadoop)
    except Py4JJavaError as error:
        return str(error.java_exception.getClass().getName())
    names = []
    while entries.hasNext():
        names.append(str(entries.next().getPath().getName()))
    return names


def list_jars() -> str:
    """Return the jars that executors get."""
    return str(spark()._jsc.sc().listJars())


def set_environment(env: dict[str, str]) -> None:
    os.environ.update(env)


def append_without_spark(table: str, writer: int, numbers: range) -> int:
    """Append one row per commit by delta-rs; return the number of conflicts. Each is decided again."""
    target, conflicts = Target(f"writer_{writer}", S3Path.parse(table), ("number",)), 0
    for number in numbers:
        rows = pa.table({"writer": [writer], "number": [number]})
        record = Record(f"run {writer}", number + 1, 1, {}, {"written": 1}, "", "", "2024-01-31T00:00:00")
        while True:
            try:
                DeltaRsTables().append(rows, target, Commit(target.name, record))
                break
            except CommitConflictError:
                conflicts += 1
    return conflicts


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
        return make_client(self.endpoint, self.env)

    def table(self, name: str, bucket: str | None = None) -> str:
        return f"s3a://{bucket or self.bucket}/{name}"

    def rows(self, name: str, bucket: str | None = None) -> list[tuple[Any, ...]]:
        """Read a table's rows without Spark."""
        rows = DeltaTable(f"s3://{bucket or self.bucket}/{name}", storage_options=self.options).to_pyarrow_table()
        return sorted(tuple(row.values()) for row in rows.to_pylist())

    def versions(self, name: str, bucket: str | None = None) -> list[int]:
        """List the versions in a table's log."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket or self.bucket, Prefix=f"{name}/_delta_log/"
        )
        keys = (Path(entry["Key"]) for page in pages for entry in page.get("Contents", []))
        return [int(key.stem) for key in keys if key.suffix == ".json"]

    def create(self, name: str, rows: dict[str, list[int]], bucket: str | None = None) -> None:
        """Create a table, or append to it."""
        table = pa.table({column: pa.array(values, pa.int64()) for column, values in rows.items()})
        write_deltalake(f"s3://{bucket or self.bucket}/{name}", table, storage_options=self.options, mode="append")


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return new_keys()


@pytest.fixture(scope="module")
def minio(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with SERVERS["minio"](tmp_path_factory.mktemp("minio") / "data", env) as (endpoint, client_env):
        store = Store("minio", endpoint, client_env, "lake")
        store.client.create_bucket(Bucket=store.bucket)
        yield store


@pytest.fixture(scope="module")
def writers(minio: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ProcessPoolExecutor]]:
    """Start processes that each have a Spark session."""
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
    """Run each kind of store in turn, with its address in all writers."""
    if request.param == minio.name:
        yield minio
        return
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param) / "data", minio.env) as (endpoint, client_env):
        store = Store(request.param, endpoint, client_env, request.param)
        store.client.create_bucket(Bucket=store.bucket)
        for writer in writers:
            writer.submit(carry_out, reach, store.bucket, endpoint).result()
        yield store


def call_at_once(
    writers: list[ProcessPoolExecutor], function: Callable[..., Any], *calls: tuple[Any, ...]
) -> list[Any]:
    futures = [writer.submit(carry_out, function, *call) for writer, call in zip(writers, calls, strict=False)]
    return [future.result() for future in futures]


def answer_once(between: Proxy, method: str, part: str, answer: str, before: Callable[[], None] = lambda: None) -> None:
    """Have the proxy give an answer to the first request with that method and part of a path."""
    answers = iter([answer])

    def rule(request_method: str, path: str) -> str:
        if request_method != method or part not in path or (first := next(answers, None)) is None:
            return "pass"
        before()
        return first

    between.rule = rule


# --- the tests ------------------------------------------------------------------------------------------------------


def test_the_store_passes_the_test_without_leftovers(store: Store) -> None:
    require_conditional_put(store.client, store.bucket, "checked")
    assert store.client.list_objects_v2(Bucket=store.bucket, Prefix="checked")["KeyCount"] == 0


def test_no_concurrent_append_is_lost(store: Store, writers: list[ProcessPoolExecutor]) -> None:
    store.create("appended", {"writer": [], "number": []})
    table = store.table("appended")
    acknowledged = call_at_once(writers, append, *((table, writer, range(APPENDS)) for writer in range(WRITERS)))
    assert sum(acknowledged) == WRITERS * APPENDS
    expected = [(writer, number) for writer in range(WRITERS) for number in range(APPENDS)]
    assert store.rows("appended") == expected
    assert writers[0].submit(carry_out, read, table).result() == expected
    assert store.versions("appended") == list(range(WRITERS * APPENDS + 1))


def test_no_concurrent_append_without_spark_is_lost(store: Store) -> None:
    """Two processes make 400 commits at once. None is lost, and none is made twice."""
    spawn, variables = multiprocessing.get_context("spawn"), {**store.env, "AWS_ENDPOINT_URL": store.endpoint}
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawn, set_environment, (variables,))) for _ in range(2)]
        table = f"s3://{store.bucket}/without_spark"
        conflicts = call_at_once(pools, append_without_spark, *((table, writer, range(200)) for writer in range(2)))
    assert sum(conflicts) > 0, "the writers must overlap"
    assert store.rows("without_spark") == [(writer, number) for writer in range(2) for number in range(200)]
    assert sorted(store.versions("without_spark")) == list(range(400))


def test_no_concurrent_merge_is_lost(store: Store, writers: list[ProcessPoolExecutor]) -> None:
    store.create("counted", {"id": [0, 1, 2], "count": [0, 0, 0]})
    counts = call_at_once(writers, count_up, *[(store.table("counted"), 5)] * 2)
    merged, conflicts = map(sum, zip(*counts, strict=True))
    assert conflicts > 0, "the merges must overlap"
    assert store.rows("counted") == [(row, merged) for row in range(3)]


def test_a_commit_in_parts_is_made_once(store: Store, writers: list[ProcessPoolExecutor]) -> None:
    bucket = f"{store.name}-parts"
    store.client.create_bucket(Bucket=bucket)
    size = 6_000_000
    with proxy(store.endpoint) as between:
        call_at_once(writers, reach, *[(bucket, between.endpoint)] * 2)
        answer_once(between, "POST", "?uploadId=", "lose")
        assert writers[0].submit(carry_out, commit, f"s3a://{bucket}{COMMIT % 0}", size).result() == "committed"
        assert [status for method, path, status in between.requests if method == "POST" and "=" in path] == [0, 412]
        assert writers[1].submit(carry_out, commit, f"s3a://{bucket}{COMMIT % 0}", size).result() == EXISTS
        outcomes = call_at_once(writers, commit, *[(f"s3a://{bucket}{COMMIT % 1}", size)] * 2)
        assert sorted(outcomes) == ["committed", EXISTS]
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=bucket), "a refused upload must be aborted"


@pytest.mark.parametrize("another", [False, True], ids=["alone", "after another"])
@pytest.mark.parametrize("answer", ["lose", "conflict"])
def test_a_commit_is_made_once_for_any_answer(
    minio: Store, writers: list[ProcessPoolExecutor], answer: str, another: bool
) -> None:
    bucket = f"{answer}-{another}".lower()
    minio.client.create_bucket(Bucket=bucket)
    minio.create("t", {"writer": [], "number": []}, bucket)

    def commit_another() -> None:
        if another:
            minio.create("t", {"writer": [9], "number": [9]}, bucket)

    with proxy(minio.endpoint) as between:
        writers[0].submit(carry_out, reach, bucket, between.endpoint).result()
        answer_once(between, "PUT", COMMIT % 1, answer, commit_another)
        assert writers[0].submit(carry_out, append, f"s3a://{bucket}/t", 0, range(1)).result() == 1
    answers = [status for method, path, status in between.requests if method == "PUT" and path.endswith(COMMIT % 1)]
    assert answers == {"lose": [0, 412], "conflict": [409] if another else [409, 200]}[answer]
    assert minio.rows("t", bucket) == ([(0, 0), (9, 9)] if another else [(0, 0)])
    assert minio.versions("t", bucket) == ([0, 1, 2] if another else [0, 1])


@pytest.mark.parametrize("another", [False, True], ids=["alone", "after another"])
@pytest.mark.parametrize("answer", ["lose", "conflict"])
def test_a_commit_without_spark_is_made_once_for_any_answer(store: Store, answer: str, another: bool) -> None:
    bucket = f"{store.name}-{answer}-{another}-rs".lower()
    store.client.create_bucket(Bucket=bucket)
    store.create("t", {"writer": [], "number": []}, bucket)

    def commit_another() -> None:
        if another:
            store.create("t", {"writer": [9], "number": [9]}, bucket)

    with proxy(store.endpoint) as between:
        answer_once(between, "PUT", COMMIT % 1, answer, commit_another)
        variables = {**store.env, "AWS_ENDPOINT_URL": between.endpoint}
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, set_environment, (variables,)) as pool:
            pool.submit(carry_out, append_without_spark, f"s3://{bucket}/t", 0, range(1)).result()
    assert store.rows("t", bucket) == ([(0, 0), (9, 9)] if another else [(0, 0)])
    assert store.versions("t", bucket) == ([0, 1, 2] if another else [0, 1])


def test_no_commit_of_both_writers_at_once_is_lost(store: Store, writers: list[ProcessPoolExecutor]) -> None:
    store.create("by_both", {"writer": [], "number": []})
    variables = {**store.env, "AWS_ENDPOINT_URL": store.endpoint}
    writers[0].submit(carry_out, append, store.table("by_both"), 1, range(1)).result()  # Spark is slow at first.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), set_environment, (variables,)) as pool:
        without = pool.submit(carry_out, append_without_spark, f"s3://{store.bucket}/by_both", 0, range(60))
        writers[0].submit(carry_out, append, store.table("by_both"), 1, range(1, 20)).result()
        without.result()
    assert store.rows("by_both") == [*((0, number) for number in range(60)), *((1, number) for number in range(20))]
    assert sorted(store.versions("by_both")) == list(range(81))
    history = DeltaTable(f"s3://{store.bucket}/by_both", storage_options=store.options).history()
    by_spark = ["Spark" in entry.get("engineInfo", "") for entry in history]
    assert sum(one != other for one, other in pairwise(by_spark)) > 4, "the writers must overlap"


def test_executors_get_the_log_store_and_the_packages(writers: list[ProcessPoolExecutor]) -> None:
    names = writers[0].submit(carry_out, list_jars).result()
    assert "conditional-put-logstore.jar" in names
    assert "hadoop-aws" in names
    assert "bundle" not in names
    assert "wildfly" not in names


def test_a_missing_log_differs_from_an_empty_one(minio: Store, writers: list[ProcessPoolExecutor]) -> None:
    assert (
        writers[0].submit(carry_out, list_names, minio.table("nowhere") + COMMIT % 0).result()
        == "java.io.FileNotFoundException"
    )
    minio.create("listed", {"id": [1]})
    minio.create("listed", {"id": [2]})
    assert writers[0].submit(carry_out, list_names, minio.table("listed/_delta_log/%020d.json") % 1).result() == [
        "00000000000000000001.json"
    ]
