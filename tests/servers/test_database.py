"""Sources in PostgreSQL, suppliers by cursor and products as snapshots: no row is lost or duplicated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event, Thread

import psycopg
import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Database, source
from lakehouse.engine.spark import jdbc
from lakehouse.errors import LockError
from lakehouse.storage import location
from lakehouse.storage.lease import Lease
from tests.lakes import TestLake
from tests.sources import PRODUCTS, SUPPLIERS, URL, clean_products, clean_suppliers, fill, products, suppliers
from tests.stack import RunningServers, running_servers

TODAY = "2024-02-29"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServers]:
    with running_servers("postgres") as servers:
        yield servers


@pytest.fixture
def database(running: RunningServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """Fill PostgreSQL with suppliers and products, and set its address in the environment."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"):
        monkeypatch.setenv(name, running.values[name])
    with psycopg.connect(dbname="sources", autocommit=True) as connection:
        fill(connection)
        yield connection


@pytest.fixture
def lake(make_lake: Callable[..., TestLake], database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> TestLake:
    monkeypatch.setattr(jdbc, "_format_today", lambda: TODAY)
    return make_lake(suppliers, products, clean_suppliers, clean_products)


def test_every_row_is_extracted_once(lake: TestLake) -> None:
    results = lake.run()
    assert (results.counts("raw.suppliers"), results.counts("raw.products")) == ({"written": 4}, {"written": 5})
    assert results.counts("clean.suppliers") == {"written": 4, "unchanged": 0, "superseded": 0, "quarantined": 0}
    assert results.counts("clean.products")["written"] == 5
    assert location.list_names(lake.folder("raw.products")) == [f"products_{TODAY}.parquet"]
    assert location.list_names(lake.folder("raw.suppliers")) == [f"suppliers_00000001_{TODAY}.parquet"]
    assert location.list_names(lake.root / "extracts" / "raw.products") == []
    assert {*lake.rows("raw.suppliers", "code", "name")} == {*SUPPLIERS}
    assert {*lake.rows("raw.products")} == {*PRODUCTS}, "a null stays a null"


def test_changed_rows_alone_are_extracted_again(lake: TestLake, database: psycopg.Connection) -> None:
    lake.run()
    versions = lake.versions()
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert lake.versions() == versions
    database.execute("UPDATE suppliers SET name = 'Renamed', changed = DEFAULT WHERE code = 'AB'")
    database.execute("INSERT INTO suppliers (code, name) VALUES ('ZZ', 'New')")
    database.execute("UPDATE products SET stock = '9' WHERE sku = 'P1'")
    database.execute("DELETE FROM products WHERE sku = 'P2'")
    assert lake.run().counts("raw.suppliers") == {"written": 2}
    second = [row[:2] for row in lake.rows("raw.suppliers", "code", "name", "_file_id") if row[2] == 2]
    assert second == [("AB", "Renamed"), ("ZZ", "New")]
    assert ("AB", "Renamed") in lake.rows("clean.suppliers", "code", "name")
    assert len(lake.rows("clean.suppliers")) == 5
    snapshot = lake.rows("raw.products", "sku", "stock")
    assert snapshot == [("P1", "9"), ("P3", None), ("P4", "2"), ("P5", "1")], "it replaces the snapshot of the same day"


def test_an_interrupted_extract_is_finished_within_its_bounds(
    lake: TestLake, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise OSError("power")

    with monkeypatch.context() as changed:
        changed.setattr(jdbc.location, "move_new", cut)
        assert lake.attempt("raw.suppliers").report.has_failed
    assert location.list_names(lake.root / "manifests" / "raw.suppliers" / "extracts") == ["00000001.json"]
    database.execute("INSERT INTO suppliers (code) VALUES ('LATER')")
    assert lake.run("raw.suppliers").counts("raw.suppliers")["written"] == 5
    assert location.list_names(lake.folder("raw.suppliers")) == [
        f"suppliers_00000001_{TODAY}.parquet",
        f"suppliers_00000002_{TODAY}.parquet",
    ]
    assert [row[0] for row in lake.rows("raw.suppliers", "code", "_file_id") if row[1] == 2] == ["LATER"]


def test_a_row_without_its_cursor_stops_the_extract(lake: TestLake, database: psycopg.Connection) -> None:
    database.execute("ALTER TABLE suppliers ALTER changed DROP NOT NULL")
    database.execute("INSERT INTO suppliers (code, changed) VALUES ('LOST', NULL)")
    error = lake.attempt("raw.suppliers").errors["raw.suppliers"]
    assert error.startswith("raw.suppliers: 1 rows of suppliers have no changed: an extract by cursor would miss them.")
    assert lake.version("raw.suppliers") is None


def test_undeclared_columns_follow_the_contract(lake: TestLake, database: psycopg.Connection) -> None:
    contract = Contract(new_column="add")
    lenient = lake.with_tables(replace(suppliers, contract=contract))
    database.execute("ALTER TABLE suppliers ADD country text DEFAULT 'NO'")
    lenient.run()
    assert lenient.rows("raw.suppliers", "country") == [("NO",)] * 4
    database.execute('ALTER TABLE suppliers RENAME name TO "Name"')
    database.execute("INSERT INTO suppliers (code) VALUES ('ZZ')")
    error = lenient.attempt().errors["raw.suppliers"]
    assert error.startswith("raw.suppliers: suppliers has a column Name, declared as name. Declare the column as Name.")
    database.execute('ALTER TABLE suppliers RENAME "Name" TO name')
    assert lenient.run().counts("raw.suppliers") == {"written": 1}, "the next run continues with the mended column"


def test_landed_extracts_rebuild_the_table_without_the_database(lake: TestLake, database: psycopg.Connection) -> None:
    lake.run("raw.suppliers")
    before = lake.rows("raw.suppliers", "code", "name")
    database.execute("DELETE FROM suppliers")
    lake.run("raw.suppliers", full_refresh=True)
    assert lake.rows("raw.suppliers", "code", "name") == before


def test_an_unreadable_database_is_reported_without_the_password(
    lake: TestLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("PGPASSWORD", "canary-of-the-database")
        error = lake.attempt("raw.products").errors["raw.products"]
        assert "password authentication failed" in error
        assert f"jdbc:postgresql://127.0.0.1:{os.environ['PGPORT']}/sources" in error
        assert "PGHOST, PGPORT, PGUSER, PGPASSWORD are right" in error
        assert "canary" not in error
    with monkeypatch.context() as changed:
        changed.setenv("PGPORT", "9")
        error = lake.attempt("raw.products").errors["raw.products"]
        assert "refused" in error
    with monkeypatch.context() as changed:
        changed.delenv("PGUSER")
        assert "the database needs PGUSER" in lake.attempt("raw.products").errors["raw.products"]
    assert lake.run("raw.products").counts("raw.products")["written"] == 5


def test_a_hanging_database_ends_the_run_in_time(
    lake: TestLake, running: RunningServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.run("raw.products")  # opens the connections: the next run hangs in its query
    monkeypatch.setattr(jdbc, "READ_SECONDS", 3)
    members = running.processes()["postgres"]
    for process in members:
        process.suspend()
    try:
        began = time.monotonic()
        error = lake.attempt("raw.products").errors["raw.products"]
        assert time.monotonic() - began < 60
    finally:
        for process in members:
            process.resume()
    assert "the database (jdbc:postgresql:" in error
    assert lake.run("raw.products").statuses == {"raw.products": "unchanged"}


def test_a_run_without_its_lease_lands_nothing(lake: TestLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.run("raw.suppliers")
    (file,) = lake.folder("raw.suppliers").iterdir()
    file.unlink()
    with monkeypatch.context() as changed:
        # The lease is checked before the table, before its extract and before the file lands.
        changed.setattr(Lease, "check", expire_after(2))
        changed.setattr(jdbc, "_has_landed", lambda landing, extract: False)  # as before the run fell asleep
        assert "lost the lake" in lake.attempt("raw.suppliers").errors["raw.suppliers"]
        assert not file.exists()
    file.write_bytes(b"of a successor")  # it landed the file after this run's last check
    with monkeypatch.context() as changed:
        changed.setattr(jdbc, "_has_landed", lambda landing, extract: False)
        lake.attempt("raw.suppliers")
    assert file.read_bytes() == b"of a successor"


def expire_after(checks: int) -> Callable[[Lease], None]:
    valid_checks = iter(range(checks))

    def check(hold: Lease) -> None:
        if next(valid_checks, None) is None:
            raise LockError("lost the lake")

    return check


def test_reserved_words_of_sql_can_be_names(make_lake: Callable[..., TestLake], database: psycopg.Connection) -> None:
    database.execute('DROP TABLE IF EXISTS "Order"')
    database.execute('CREATE TABLE "Order" ("user" text, "order" bigserial, "TailNum" text)')
    database.execute("""INSERT INTO "Order" ("user", "TailNum") VALUES ('Ada', 'N1')""")
    orders = source(
        "raw.orders",
        landing="orders",
        columns={"user": "string", "order": "bigint", "TailNum": "string"},
        format="parquet",
        database=Database(URL, "public.Order", key=("order",), cursor="order"),
    )
    lake = make_lake(orders)
    lake.run()
    assert lake.rows("raw.orders") == [("Ada", 1, "N1")]


def test_a_row_committed_late_is_extracted_once_settled(
    make_lake: Callable[..., TestLake], database: psycopg.Connection
) -> None:
    database.execute("DROP TABLE IF EXISTS changes")
    database.execute("CREATE TABLE changes (id bigint, changed timestamptz DEFAULT clock_timestamp())")
    changes = source(
        "raw.changes",
        landing="changes",
        columns={"id": "bigint", "changed": "timestamp"},
        format="parquet",
        database=Database(URL, "changes", key=("id",), cursor="changed", settle_seconds=2),
    )
    lake = make_lake(changes)
    with psycopg.connect(dbname="sources") as slow:
        slow.execute("INSERT INTO changes VALUES (1)")
        database.execute("INSERT INTO changes VALUES (2)")
        assert lake.run().statuses == {"raw.changes": "unchanged"}, "row 2 is too young: row 1 may still come before it"
    time.sleep(2.1)
    database.execute("INSERT INTO changes VALUES (3)")
    lake.run()
    assert [row[0] for row in lake.rows("raw.changes")] == [1, 2]
    time.sleep(2.1)
    lake.run()
    assert [row[0] for row in lake.rows("raw.changes")] == [1, 2, 3]


def test_a_connection_lost_while_reading_lands_nothing(
    lake: TestLake, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGAPPNAME", "the test's own")
    # Enough rows for a second, 0.01 seconds each.
    database.execute("INSERT INTO products SELECT 'P' || n, 'Bulk', '1' FROM generate_series(6, 3000) AS n")
    database.execute("ALTER TABLE products RENAME TO all_products")
    database.execute(
        "CREATE VIEW products AS SELECT p.* FROM all_products p, LATERAL (SELECT pg_sleep(0.01) WHERE p.sku > '') s"
    )
    reading = (
        "FROM pg_stat_activity WHERE application_name LIKE 'PostgreSQL JDBC%' "
        "AND query LIKE '%stock%' AND state = 'active'"
    )
    ended = Event()

    def cut() -> None:
        with psycopg.connect(dbname="sources", autocommit=True) as other:
            while not ended.wait(0.05):
                if other.execute(
                    f"SELECT pg_terminate_backend(pid) {reading} AND now() - query_start > '1 s'"
                ).rowcount:
                    return

    cutting = Thread(target=cut)
    cutting.start()
    error = lake.attempt("raw.products").errors["raw.products"]
    ended.set()
    cutting.join()
    assert "the database" in error
    assert "terminating connection" in error
    assert location.list_names(lake.folder("raw.products")) == []
    database.execute("DROP VIEW products")
    database.execute("ALTER TABLE all_products RENAME TO products")
    assert lake.run("raw.products").counts("raw.products")["written"] == 3000


def test_a_pinned_batch_is_finished_before_the_next(
    lake: TestLake, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr("lakehouse.engine.spark.engine.SparkEngine.stage", lambda *_: 1 / 0)
        assert lake.attempt("raw.products").report.has_failed
    database.execute("UPDATE products SET stock = '9' WHERE sku = 'P1'")
    lake.run("raw.products")
    assert len(lake.rows("raw.products")) == 5
    assert lake.rejected("raw.products") == {}
    lake.run("raw.products")
    assert ("P1", "9") in lake.rows("raw.products", "sku", "stock")
    assert len(lake.rows("raw.products")) == 5


def test_a_restarted_database_loses_nothing(lake: TestLake, running: RunningServers) -> None:
    running.command("down")
    try:
        began = time.monotonic()
        errors = lake.attempt("raw.suppliers", "raw.products").errors
        assert time.monotonic() - began < 60
    finally:
        running.command("up")
    assert {"raw.suppliers", "raw.products"} == {*errors}
    assert all("refused" in error and "PGHOST" in error for error in errors.values())
    assert not lake.folder("raw.products").exists()
    results = lake.run()
    assert (results.counts("raw.suppliers")["written"], results.counts("raw.products")["written"]) == (4, 5)
