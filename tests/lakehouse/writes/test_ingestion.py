"""Files of every kind and name: each is read or rejected as a whole, and no file blocks the others."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakehouse.definitions.sources import source
from lakehouse.definitions.write_modes import Merge
from lakehouse.engine.deltars import writer
from lakehouse.engine.spark import engine
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.plan.steps import RunRequest
from lakehouse.quality.reconciliation import reconcile
from lakehouse.storage import location
from tests.lakes import (
    ITEM_TYPES,
    TestLake,
    items_csv,
    items_table,
    json_lines,
    landed_items,
    parquet,
    payments_file,
)
from tests.orders import landed

Lakes = Callable[..., TestLake]

NAMES = (
    "plain.csv",
    "no_extension",
    "UPPER.CSV",
    "with space.csv",
    " leading.csv",
    "trailing.csv ",
    "quote's.csv",
    'double"quote.csv',
    "per%cent.csv",
    "per%20cent.csv",
    "100%",
    "hash#tag.csv",
    "question?.csv",
    "star*.csv",
    "[ab].csv",
    "{a,b}.csv",
    "back\\slash.csv",
    "semi;colon,comma.csv",
    "a+b&c=d.csv",
    "blåbær 日本 😀.csv",
    "decomposed e\u0301.csv",
    "line\nbreak.csv",
    "dollar$caret^.csv",
    "pipe|<angle>`tick`.csv",
    "(round)!.csv",
    "tab\tbed.csv",
    "day=2024-01-01/part.csv",
    "day=2024-01-02/part.csv",
    "deep/er.dir/x.csv",
    "packed.csv.gz",
    "2024-01-01T00:00.csv",
    "-dash.csv",
    "tilde~1.csv",
    "@at.csv",
)
UNFINISHED = (
    "_hidden.csv",
    ".hidden.csv",
    "half.csv.tmp",
    "half.csv.part",
    "half.csv~",
    "_temporary/x.csv",
    ".git/x.csv",
)


def test_files_of_any_name_are_read_unless_unfinished(make_lake: Lakes) -> None:
    lake = make_lake(landed_items)
    for number, name in enumerate(NAMES):
        lake.land("raw.items", name, items_csv(f"{number},1,1", f"{number},2,1"))
    for name in UNFINISHED:
        lake.land("raw.items", name, items_csv("99,1,1"))
    results = lake.run()
    assert lake.rejected("raw.items") == {}
    assert results.counts("raw.items") == {"written": 2 * len(NAMES)}
    rows = lake.rows("raw.items", "id", "at", "_row", "_source_file", "_batch_id")
    expected = [(str(i), str(n), n, f"items/{name}", 1) for i, name in enumerate(NAMES) for n in (1, 2)]
    assert sorted(rows) == sorted(expected)
    ids = lake.rows("raw.items", "_file_id", "_source_file")
    assert len({number for number, _ in ids}) == len(set(ids)) == len(NAMES)
    assert len({at for (at,) in lake.rows("raw.items", "_ingested_at")}) == 1
    (lake.folder("raw.items") / "half.csv.tmp").rename(lake.folder("raw.items") / "half.csv")
    assert lake.run().counts("raw.items") == {"written": 1}


def broken_csv_files() -> dict[str, tuple[str | bytes, str]]:
    """Return broken files by name: the content, and a part of the reason for which each is rejected."""
    compressed = gzip.compress(items_csv(*[f"{n},1,{n * 7919 % 1000}" for n in range(100, 2000)]).encode())
    return {
        "empty.csv": ("", "empty"),
        "headless.csv": ("1,1,1\n", "no header"),
        "order.csv": ("id,value,at\n1,1,1\n", "another order"),
        "missing.csv": ("id,at\n1,1\n", "lacks column value"),
        "extra.csv": ("id,at,value,more\n1,1,1,1\n", "unknown column more"),
        "renamed.csv": ("id,at,values\n1,1,1\n", "lacks column value; has an unknown column values"),
        "latin1.csv": ("id,at,value\n1,1,caf\xe9\n".encode("latin-1"), "not UTF-8"),
        "cut.csv.gz": (compressed[: len(compressed) // 2], "ends before"),
        "not_packed.csv.gz": (b"id,at,value\n1,1,1\n", "cannot be read"),
        "binary.csv": (bytes(range(128, 256)), "not UTF-8"),
        "cut.csv": (items_csv("1,1,1", "2,1,1500")[:-3], "does not end with a line end"),
        "open_quote.csv": ('id,at,value\n1,1,1\n2,1,"2\n3,1,3\n', "a quote that is never closed, after line 2"),
    }


def test_broken_csv_files_are_rejected_until_corrected(make_lake: Lakes) -> None:
    lake, broken = make_lake(landed_items, items_table()), broken_csv_files()
    lake.land("raw.items", "good.csv", items_csv("1,1,1", "2,1,1"))
    lake.land("raw.items", "header_only.csv", items_csv())
    lake.land("raw.items", "byte_order_mark.csv", "\ufeff" + items_csv("3,1,1"))
    lake.land("raw.items", "crlf.csv", items_csv("4,1,1").replace("\n", "\r\n"))
    lake.land("raw.items", "quotes.csv", 'id,at,value\n"5","1","1"\n')
    lake.land("raw.items", "a_folder.csv/inner.csv", items_csv("6,1,1"))
    (lake.folder("raw.items") / "to_nowhere.csv").symlink_to("/nowhere/at/all")
    for name, (content, _) in broken.items():
        lake.land("raw.items", name, content.encode() if isinstance(content, str) else content)
    results = lake.run()
    rejected = lake.rejected("raw.items")
    assert "is a symbolic link" in rejected.pop("to_nowhere.csv")
    assert set(rejected) == set(broken)
    for name, (_, reason) in broken.items():
        assert reason in rejected[name], name
    outcome = results["raw.items"].outcome
    assert outcome is not None
    assert len(outcome.rejected_files) == len(broken) + 1
    assert lake.rows("clean.items", "id") == [(n,) for n in range(1, 7)]

    # The bytes identify a rejected file: a new time does not make a run read it again.
    version = lake.version("raw.items")
    os.utime(lake.folder("raw.items") / "empty.csv")
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert lake.version("raw.items") == version
    assert len(lake.history("raw.items")) == 1

    lake.land("raw.items", "missing.csv", items_csv("7,1,1"))
    assert lake.run().counts("raw.items") == {"written": 1}
    assert (7,) in lake.rows("clean.items", "id")
    more = source("raw.items", landing="items", columns=(*ITEM_TYPES, "more"))
    wider = lake.with_tables(more)
    assert [file.path for file in wider.plan()["raw.items"].files] == [
        f"items/{name}" for name in sorted([*broken, "to_nowhere.csv"]) if name != "missing.csv"
    ], "another declaration checks rejected files again"
    assert wider.run().counts("raw.items") == {"written": 1}
    assert wider.rows("raw.items", "id", "more")[-1:] == [("7", None)]
    assert ("1", "1") in wider.rows("raw.items", "id", "more")


def test_broken_parquet_files_are_rejected_whole(make_lake: Lakes) -> None:
    lake = make_lake(landed.payments)
    good = payments_file((1, 1, "2024-01-01", 1.0))
    fields = {"payment_id": pa.int64(), "order_id": pa.int64(), "paid_on": pa.date32(), "amount": pa.float64()}
    texts = pa.schema({**fields, "amount": pa.string()})
    damaged = bytearray(payments_file(*[(n, n * 31 % 97, "2024-01-01", float(n)) for n in range(1000)]))
    damaged[50:2000] = bytes(1950)
    files = {
        "cut.parquet": good[: len(good) // 2],
        "empty.parquet": b"",
        "text.parquet": b"payment_id,order_id,paid_on,amount\n",
        "missing.parquet": parquet([(1, 1)], pa.schema([("payment_id", pa.int64()), ("order_id", pa.int64())])),
        "typed.parquet": parquet([(2, 1, None, "ten")], texts),
        "damaged.parquet": bytes(damaged),
    }
    for name, content in files.items():
        lake.land("raw.payments", name, content)
    lake.land("raw.payments", "good.parquet", good)
    shuffled = pa.schema({name: fields[name] for name in reversed(fields)})
    lake.land("raw.payments", "order.parquet", parquet([(3.0, None, 1, 3)], shuffled))
    results = lake.attempt()
    assert not results.report.has_failed, results.errors
    assert set(lake.rejected("raw.payments")) == set(files)
    assert lake.rows("raw.payments", "payment_id", "amount") == [(1, 1.0), (3, 3.0)]


def test_broken_json_files_are_rejected_whole(make_lake: Lakes) -> None:
    lake = make_lake(landed.customers)
    lake.land("raw.customers", "empty.json", "")
    lake.land("raw.customers", "latin1.json", '{"name": "caf\xe9"}'.encode("latin-1"))
    renamed = json_lines({"customer_id": 1, "full_name": "a"}, {"customer_id": 2, "town": "b"})
    lake.land("raw.customers", "renamed.json", renamed)
    lake.land("raw.customers", "good.json", json_lines({"customer_id": 1}, {"name": "caf\xe9"}))
    lake.run()
    rejected = lake.rejected("raw.customers")
    assert set(rejected) == {"empty.json", "latin1.json", "renamed.json"}
    assert "unknown column full_name; has an unknown column town" in rejected["renamed.json"]
    assert lake.rows("raw.customers", "customer_id", "name") == [(1, None), (None, "caf\xe9")][::-1]


def test_redelivered_and_renamed_files(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(Merge()))
    lake.land("raw.items", "a.csv", items_csv("1,1,1", "2,1,1"))
    lake.run()
    # The same bytes under another name are another delivery, without new rows.
    lake.land("raw.items", "b.csv", items_csv("1,1,1", "2,1,1"))
    results = lake.run()
    assert results.counts("raw.items") == {"written": 2}
    assert results.counts("clean.items") == {"written": 0, "unchanged": 2, "superseded": 0, "quarantined": 0}
    # The same name with other bytes is another delivery. Rows that it lacks stay.
    lake.land("raw.items", "a.csv", items_csv("1,1,9"))
    results = lake.run()
    assert results.counts("clean.items") == {"written": 1, "unchanged": 0, "superseded": 0, "quarantined": 0}
    assert lake.rows("clean.items", "id", "value") == [(1, 9), (2, 1)]
    assert len(lake.rows("raw.items", "id")) == 5
    # The first bytes again are another delivery, too.
    lake.land("raw.items", "a.csv", items_csv("1,1,1", "2,1,1"))
    lake.run()
    assert lake.rows("clean.items", "id", "value") == [(1, 1), (2, 1)]
    files = [(file.path, file.file_id) for manifest in lake.history("raw.items") for file in manifest.files]
    assert files == [("items/a.csv", 1), ("items/b.csv", 2), ("items/a.csv", 3), ("items/a.csv", 4)]

    # The landing zone lacks an earlier delivery of a name, so the source cannot be rebuilt.
    failed = lake.attempt(request=RunRequest(frozenset({"raw.items"})))
    assert "a full refresh would lose rows" in failed.errors["raw.items"]
    assert "items/a.csv holds other bytes than delivery 3" in failed.errors["raw.items"]
    (lake.folder("raw.items") / "b.csv").unlink()
    failed = lake.attempt(request=RunRequest(frozenset({"raw.items"})))
    assert "items/b.csv is gone" in failed.errors["raw.items"]
    assert len(lake.rows("raw.items", "id")) == 7
    assert set(lake.run().statuses.values()) == {"unchanged"}, "missing files do not block a run"


def test_pinned_files_that_vanish_or_change(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(landed_items)
    for name in "abc":
        lake.land("raw.items", f"{name}.csv", items_csv(f"{ord(name)},1,1"))

    def killed(*args: object) -> None:
        raise OSError("killed after the manifest was written")

    with monkeypatch.context() as patched:
        patched.setattr(SparkEngine, "stage", killed)
        assert lake.attempt().report.has_failed
    assert lake.version("raw.items") is None
    (lake.folder("raw.items") / "a.csv").unlink()
    lake.land("raw.items", "b.csv", items_csv("1000,1,1", "1001,1,1"))
    lake.land("raw.items", "d.csv", items_csv("2000,1,1"))
    assert lake.plan()["raw.items"].reasons == ("batch 1 was left unfinished",)
    lake.run()
    assert lake.rows("raw.items", "id", "_batch_id") == [("99", 1)]
    reasons = lake.rejected("raw.items")
    assert "cannot be read" in reasons["a.csv"]
    assert "changed" in reasons["b.csv"]
    lake.run()
    assert lake.rows("raw.items", "id", "_batch_id") == [("1000", 2), ("1001", 2), ("2000", 2), ("99", 1)]


def test_an_unfinished_full_refresh_loses_no_missing_file(
    make_lake: Lakes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lake = make_lake(landed_items)
    lake.land("raw.items", "a.csv", items_csv("1,1,1"))
    lake.land("raw.items", "b.csv", items_csv("2,1,1"))
    lake.run()

    def killed(*args: object) -> None:
        raise OSError("killed after the manifest was written")

    with monkeypatch.context() as patched:
        patched.setattr(SparkEngine, "stage", killed)
        assert lake.attempt(request=RunRequest(frozenset({"raw.items"}))).report.has_failed
    shutil.move(lake.folder("raw.items") / "a.csv", tmp_path / "a.csv")
    lake.attempt()
    assert lake.rows("raw.items", "id") == [("1",), ("2",)], "the refresh fails, or the old rows stay"


def test_header_names_are_read_as_columns(make_lake: Lakes) -> None:
    lake = make_lake(source("raw.items", landing="items", columns=tuple(ITEM_TYPES), header_names={"id": "Order ID"}))
    lake.land("raw.items", "a.csv", "Order ID,at,value\n1,2,3\n")
    lake.land("raw.items", "b.csv", items_csv("4,5,6"))
    lake.run()
    assert lake.rejected("raw.items") == {}
    assert lake.rows("raw.items", *ITEM_TYPES) == [("1", "2", "3"), ("4", "5", "6")]
    lake.land("raw.items", "a.csv", "Order ID,at,value\n7,8,9\n")
    lake.run()
    assert lake.rows("raw.items", *ITEM_TYPES)[-1] == ("7", "8", "9")


def test_values_are_read_with_the_sources_options(make_lake: Lakes) -> None:
    """The separator, the quote and a doubled quote are the source's, also in the second delivery."""
    options = {"sep": ";", "quote": "'", "header": "true", "encoding": "UTF-8"}
    lake = make_lake(source("raw.notes", landing="notes", columns=("id", "note"), options=options))
    first = "id;note\n1;'a;b'\n2;'it''s'\n3;\"\n4;'two\nlines'\n"
    second = "'id';'note'\n5;c,d\n6;''\n"
    for name, text in (("1.csv", first), ("2.csv", second)):
        lake.land("raw.notes", name, text)
        lake.run()
    rows = [("1", "a;b"), ("2", "it's"), ("3", '"'), ("4", "two\nlines"), ("5", "c,d"), ("6", None)]
    assert lake.rows("raw.notes", "id", "note") == rows
    assert lake.rejected("raw.notes") == {}
    [account] = reconcile(lake.lake)
    assert (account.row_counts, account.differences, account.uncounted_files) == ({"files": 2, "rows": 6}, (), 0)


def test_a_backslash_escapes_where_declared(make_lake: Lakes) -> None:
    lake = make_lake(source("raw.notes", landing="notes", columns=("id", "note"), options={"escape": "\\"}))
    lake.land("raw.notes", "1.csv", 'id,note\n1,"a \\"quoted\\" word, then more"\n2,b\n')
    lake.run()
    assert lake.rows("raw.notes", "id", "note") == [("1", 'a "quoted" word, then more'), ("2", "b")]


def test_a_commit_of_another_writer_in_between_is_no_loss(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer commits between the reading of the log and the commit. The step is decided again."""
    lake = make_lake(landed_items)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.run()
    check = writer.check_fence

    def check_and_wait(*arguments: Any) -> None:
        check(*arguments)
        monkeypatch.setattr(writer, "check_fence", check)
        table = DeltaTable(str(lake.lake.get_path("raw.items")))
        table.delete("id = '1'")

    monkeypatch.setattr(engine, "CONFLICT_SECONDS", 0.01)
    monkeypatch.setattr(writer, "check_fence", check_and_wait)
    lake.land("raw.items", "2.csv", items_csv("2,1,1"))
    assert lake.run().counts("raw.items") == {"written": 1}
    assert lake.rows("raw.items", "id", "_batch_id") == [("2", 2)]
    assert [len(manifest.files) for manifest in lake.history("raw.items")] == [1, 1]
    assert set(lake.run().statuses.values()) == {"unchanged"}


def test_columns_come_from_the_names_of_folders(make_lake: Lakes) -> None:
    declared = source(
        "raw.sales",
        landing="sales",
        columns={"id": "bigint", "year": "int", "shop": "string"},
        format="json",
        path_columns=("year", "shop"),
        on_redelivery="replace",
    )
    lake = make_lake(declared)
    lake.land("raw.sales", "year=2024/shop=a%20b/1.json", json_lines({"id": 1}, {"id": 2}))
    lake.land("raw.sales", "year=x/shop=c/1.json", json_lines({"id": 3}))
    lake.run()
    columns = ("id", "year", "shop")
    assert lake.rows("raw.sales", *columns) == [(1, 2024, "a b"), (2, 2024, "a b")]
    assert [*lake.rejected("raw.sales")] == ["year=x/shop=c/1.json"]
    lake.land("raw.sales", "year=2024/shop=a%20b/1.json", json_lines({"id": 4}))
    lake.land("raw.sales", "year=2025/shop=__HIVE_DEFAULT_PARTITION__/1.json", json_lines({"id": 5}))
    lake.run()
    assert lake.rows("raw.sales", *columns) == [(4, 2024, "a b"), (5, 2025, None)]
    assert set(lake.run().statuses.values()) == {"unchanged"}


def test_each_landed_file_is_opened_once(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_unlinked = list[str](), location.open_unlinked

    def open_and_note(root: Any, path: str) -> Any:
        opened.append(path)
        return open_unlinked(root, path)

    monkeypatch.setattr(location, "open_unlinked", open_and_note)
    lake = make_lake(landed_items)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.land("raw.items", "2.csv.gz", items_csv("2,1,1"))
    lake.land("raw.items", "broken.csv", items_csv('3,"1,1'))
    lake.run()
    assert sorted(opened) == ["items/1.csv", "items/2.csv.gz", "items/broken.csv"]
