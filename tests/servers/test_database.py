"""Sources kept in PostgreSQL, airlines by a cursor and planes as snapshots: nothing lost, nothing doubled, whatever happens."""

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
from lakehouse.storage.lease import Hold
from silver.airlines import airlines as silver_airlines
from silver.planes import planes as silver_planes
from tests.lakes import TestLake
from tests.sources import AIRLINES, URL, airlines, fill, planes
from tests.stack import Running, running_servers

TODAY = "2024-02-29"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_servers("postgres") as made:
        yield made


@pytest.fixture
def database(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """The example's airlines and planes in PostgreSQL, which the run is told of by its environment."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"):
        monkeypatch.setenv(name, running.values[name])
    with psycopg.connect(dbname="sources", autocommit=True) as connection:
        fill(connection)
        yield connection


@pytest.fixture
def lake(lake_of: Callable[..., TestLake], database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> TestLake:
    monkeypatch.setattr(jdbc, "_today", lambda: TODAY)
    return lake_of(airlines, planes, silver_airlines, silver_planes)


def test_what_is_new_is_taken_once(lake: TestLake, database: psycopg.Connection) -> None:
    done = lake.run()
    assert (done.counts("bronze.airlines")["written"], done.counts("bronze.planes")["written"]) == (16, 3322)
    assert done.counts("silver.airlines") == {"written": 16, "unchanged": 0, "superseded": 0, "quarantined": 0}
    assert done.counts("silver.planes")["written"] == 3322
    assert location.names(lake.folder("bronze.planes")) == [f"planes_{TODAY}.parquet"]
    assert location.names(lake.folder("bronze.airlines")) == [f"airlines_00000001_{TODAY}.parquet"]
    assert location.names(lake.root / "extracts" / "bronze.planes") == []
    assert ("9E", "Endeavor Air Inc.") in lake.rows("bronze.airlines", *AIRLINES)
    assert None in {year for (year,) in lake.rows("bronze.planes", "year")}

    versions = lake.versions()
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert lake.versions() == versions

    database.execute("UPDATE airlines SET name = 'Renamed', changed = DEFAULT WHERE carrier = '9E'")
    database.execute("INSERT INTO airlines (carrier, name) VALUES ('ZZ', 'New')")
    database.execute("UPDATE planes SET seats = '1' WHERE tailnum = 'N10156'")
    database.execute("DELETE FROM planes WHERE tailnum = 'N102UW'")
    done = lake.run()
    assert done.counts("bronze.airlines") == {"written": 2}
    second = [row[:2] for row in lake.rows("bronze.airlines", *AIRLINES, "_file_id") if row[2] == 2]
    assert second == [("9E", "Renamed"), ("ZZ", "New")]
    assert ("9E", "Renamed") in lake.rows("silver.airlines", "carrier", "name")
    assert len(lake.rows("silver.airlines")) == 17
    there = lake.rows("bronze.planes", "tailnum", "seats")
    assert len(there) == 3321, "a snapshot of the same day takes the place of the one before"
    assert ("N10156", "1") in there


def test_an_extract_that_was_cut_short_is_carried_out_with_its_bounds(
    lake: TestLake, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise OSError("power")

    with monkeypatch.context() as changed:
        changed.setattr(jdbc.location, "move_new", cut)
        assert lake.attempt("bronze.airlines").report.failed
    assert location.names(lake.root / "manifests" / "bronze.airlines" / "extracts") == ["00000001.json"]
    database.execute("INSERT INTO airlines (carrier) VALUES ('LATER')")
    assert lake.run("bronze.airlines").counts("bronze.airlines")["written"] == 17
    assert location.names(lake.folder("bronze.airlines")) == [
        f"airlines_00000001_{TODAY}.parquet",
        f"airlines_00000002_{TODAY}.parquet",
    ]
    assert [row[0] for row in lake.rows("bronze.airlines", "carrier", "_file_id") if row[1] == 2] == ["LATER"]


def test_a_row_without_its_cursor_is_told_and_none_is_taken(lake: TestLake, database: psycopg.Connection) -> None:
    database.execute("ALTER TABLE airlines ALTER changed DROP NOT NULL")
    database.execute("INSERT INTO airlines (carrier, changed) VALUES ('LOST', NULL)")
    said = lake.attempt("bronze.airlines").errors["bronze.airlines"]
    assert said.startswith("bronze.airlines: 1 rows of airlines have no changed, so that no extract would find them.")
    assert lake.version("bronze.airlines") is None


def test_columns_that_are_not_declared_follow_the_contract(lake: TestLake, database: psycopg.Connection) -> None:
    contract = Contract(new_column="add")
    lenient = lake.declaring(replace(airlines, contract=contract))
    database.execute("ALTER TABLE airlines ADD hub text DEFAULT 'JFK'")
    lenient.run()
    assert {hub for (hub,) in lenient.rows("bronze.airlines", "hub")} == {"JFK"}
    database.execute('ALTER TABLE airlines RENAME name TO "Name"')
    database.execute("INSERT INTO airlines (carrier) VALUES ('ZZ')")
    said = lenient.attempt().errors["bronze.airlines"]
    assert said.startswith("bronze.airlines: airlines has a column Name, declared as name: declare it as it is there.")
    database.execute('ALTER TABLE airlines RENAME "Name" TO name')
    assert lenient.run().counts("bronze.airlines") == {"written": 1}, "it goes on once that is mended"


def test_the_landed_extracts_make_the_table_anew_whatever_became_of_the_database(
    lake: TestLake, database: psycopg.Connection
) -> None:
    lake.run("bronze.airlines")
    before = lake.rows("bronze.airlines", *AIRLINES)
    database.execute("DELETE FROM airlines")
    lake.run("bronze.airlines", full_refresh=True)
    assert lake.rows("bronze.airlines", *AIRLINES) == before


def test_a_database_that_cannot_be_read_is_told_in_bounded_time_without_the_password(
    lake: TestLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("PGPASSWORD", "canary-of-the-database")
        said = lake.attempt("bronze.planes").errors["bronze.planes"]
        assert "password authentication failed" in said
        assert f"jdbc:postgresql://127.0.0.1:{os.environ['PGPORT']}/sources" in said
        assert "PGHOST, PGPORT, PGUSER, PGPASSWORD are right" in said
        assert "canary" not in said
    with monkeypatch.context() as changed:
        changed.setenv("PGPORT", "9")
        said = lake.attempt("bronze.planes").errors["bronze.planes"]
        assert "refused" in said
    with monkeypatch.context() as changed:
        changed.delenv("PGUSER")
        assert "its database needs PGUSER" in lake.attempt("bronze.planes").errors["bronze.planes"]
    assert lake.run("bronze.planes").counts("bronze.planes")["written"] == 3322


def test_a_database_that_hangs_is_not_waited_for_forever(
    lake: TestLake, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.run("bronze.planes")  # its connections are warm: what hangs then is the query
    monkeypatch.setattr(jdbc, "SILENT_SECONDS", 3)
    members = running.processes()["postgres"]
    for one in members:
        one.suspend()
    try:
        began = time.monotonic()
        said = lake.attempt("bronze.planes").errors["bronze.planes"]
        assert time.monotonic() - began < 60
    finally:
        for one in members:
            one.resume()
    assert "its database (jdbc:postgresql:" in said
    assert lake.run("bronze.planes").statuses == {"bronze.planes": "unchanged"}


def test_a_run_that_lost_the_lake_lands_nothing(lake: TestLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.run("bronze.airlines")
    (file,) = lake.folder("bronze.airlines").iterdir()
    file.unlink()
    with monkeypatch.context() as changed:
        changed.setattr(
            Hold, "check", lost_after(2)
        )  # asked as the table's turn comes, as its extract begins and as it lands
        changed.setattr(jdbc, "_has_landed", lambda landing, one: False)  # as it was when the run fell asleep
        assert "lost the lake" in lake.attempt("bronze.airlines").errors["bronze.airlines"]
        assert not file.exists()
    file.write_bytes(b"of a successor")  # which landed it between the last look and the landing
    with monkeypatch.context() as changed:
        changed.setattr(jdbc, "_has_landed", lambda landing, one: False)
        lake.attempt("bronze.airlines")
    assert file.read_bytes() == b"of a successor"


def lost_after(checks: int) -> Callable[[Hold], None]:
    left = iter(range(checks))

    def check(hold: Hold) -> None:
        if next(left, None) is None:
            raise LockError("lost the lake")

    return check


def test_names_that_mean_something_in_sql_are_names(
    lake_of: Callable[..., TestLake], database: psycopg.Connection
) -> None:
    database.execute('DROP TABLE IF EXISTS "Order"')
    database.execute('CREATE TABLE "Order" ("user" text, "order" bigserial, "TailNum" text)')
    database.execute("""INSERT INTO "Order" ("user", "TailNum") VALUES ('Ada', 'N1')""")
    orders = source(
        "bronze.orders", landing="orders", columns={"user": "string", "order": "bigint", "TailNum": "string"}, format="parquet",
        database=Database(URL, "public.Order", key=("order",), cursor="order"),
    )  # fmt: skip
    lake = lake_of(orders)
    lake.run()
    assert lake.rows("bronze.orders") == [("Ada", 1, "N1")]


def test_a_row_whose_transaction_ends_late_is_taken_once_it_has_settled(
    lake_of: Callable[..., TestLake], database: psycopg.Connection
) -> None:
    database.execute("DROP TABLE IF EXISTS changes")
    database.execute("CREATE TABLE changes (id bigint, changed timestamptz DEFAULT clock_timestamp())")
    changes = source(
        "bronze.changes", landing="changes", columns={"id": "bigint", "changed": "timestamp"}, format="parquet",
        database=Database(URL, "changes", key=("id",), cursor="changed", settle_seconds=2),
    )  # fmt: skip
    lake = lake_of(changes)
    with psycopg.connect(dbname="sources") as slow:
        slow.execute("INSERT INTO changes VALUES (1)")
        database.execute("INSERT INTO changes VALUES (2)")
        assert lake.run().statuses == {"bronze.changes": "unchanged"}, "2 is too young: 1 may still come before it"
    time.sleep(2.1)
    database.execute("INSERT INTO changes VALUES (3)")
    lake.run()
    assert [row[0] for row in lake.rows("bronze.changes")] == [1, 2]
    time.sleep(2.1)
    lake.run()
    assert [row[0] for row in lake.rows("bronze.changes")] == [1, 2, 3]


def test_a_connection_that_is_cut_while_rows_are_read_lands_nothing(
    lake: TestLake, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGAPPNAME", "the test's own")
    database.execute("ALTER TABLE planes RENAME TO all_planes")
    database.execute(
        "CREATE VIEW planes AS SELECT p.* FROM all_planes p, LATERAL (SELECT pg_sleep(0.01) WHERE p.tailnum > '') s"
    )
    reading = "FROM pg_stat_activity WHERE application_name LIKE 'PostgreSQL JDBC%' AND query LIKE '%seats%' AND state = 'active'"
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
    said = lake.attempt("bronze.planes").errors["bronze.planes"]
    ended.set()
    cutting.join()
    assert "its database" in said
    assert "terminating connection" in said
    assert location.names(lake.folder("bronze.planes")) == []
    database.execute("DROP VIEW planes")
    database.execute("ALTER TABLE all_planes RENAME TO planes")
    assert lake.run("bronze.planes").counts("bronze.planes")["written"] == 3322


def test_a_batch_that_is_pinned_is_finished_before_the_next_extract(
    lake: TestLake, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr("lakehouse.engine.spark.bronze.read_batch", lambda *_: 1 / 0)
        assert lake.attempt("bronze.planes").report.failed
    database.execute("UPDATE planes SET seats = '1' WHERE tailnum = 'N10156'")
    lake.run("bronze.planes")
    assert len(lake.rows("bronze.planes")) == 3322
    assert lake.rejected("bronze.planes") == {}
    lake.run("bronze.planes")
    assert ("N10156", "1") in lake.rows("bronze.planes", "tailnum", "seats")
    assert len(lake.rows("bronze.planes")) == 3322


def test_a_database_that_is_restarted_loses_nothing(lake: TestLake, running: Running) -> None:
    running.command("down")
    try:
        began = time.monotonic()
        errors = lake.attempt("bronze.airlines", "bronze.planes").errors
        assert time.monotonic() - began < 60
    finally:
        running.command("up")
    assert {"bronze.airlines", "bronze.planes"} == {*errors}
    assert all("refused" in said and "PGHOST" in said for said in errors.values())
    assert not lake.folder("bronze.planes").exists()
    done = lake.run()
    assert (done.counts("bronze.airlines")["written"], done.counts("bronze.planes")["written"]) == (16, 3322)
