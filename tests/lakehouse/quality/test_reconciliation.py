"""Reconciliation recounts the rows of a lake and names every difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.write_modes import Append, History, Merge
from lakehouse.errors import DeclarationError
from lakehouse.quality.reconciliation import Reconciliation, reconcile
from tests.lakes import TestLake, items_csv, items_table, landed_items

Lakes = Callable[..., TestLake]


def reconcile_tables(lake: TestLake) -> dict[str, Reconciliation]:
    return {result.table: result for result in reconcile(lake.lake)}


def differences(lake: TestLake, table: str = "clean.items") -> str:
    return "; ".join(reconcile_tables(lake)[table].differences)


@pytest.fixture
def reconciled(make_lake: Lakes) -> TestLake:
    lake = make_lake(landed_items, items_table(rules=(Rule("value_is_small", "value < 10"),)))
    lake.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50", "", "3,1,x", "1,2,6", '4,1,"7"'))
    lake.run()
    lake.land("raw.items", "2.csv.gz", items_csv("1,3,7", "1,1,5", "5,1,1"))
    lake.run()
    return lake


def test_every_landed_row_is_counted(reconciled: TestLake) -> None:
    assert reconcile_tables(reconciled) == {
        "raw.items": Reconciliation("raw.items", 8, {"files": 2, "rows": 8}),
        "clean.items": Reconciliation("clean.items", 8, {"kept": 3, "duplicates": 3, "quarantined": 2}),
    }
    reconciled.run(full_refresh=True)
    assert [result.differences for result in reconcile_tables(reconciled).values()] == [(), ()]
    (reconciled.folder("raw.items") / "1.csv").write_text(items_csv("9,9,9"))
    assert reconcile_tables(reconciled)["raw.items"] == Reconciliation("raw.items", 8, {"files": 2, "rows": 8}, (), 1)


@pytest.mark.parametrize(
    "write", [Append(), Merge(newest_by=("at",)), History(effective_column="at")], ids=lambda w: type(w).__name__
)
@pytest.mark.parametrize("redelivery", ["upsert", "replace"])
def test_every_write_mode_adds_up(make_lake: Lakes, write: Any, redelivery: str) -> None:
    if isinstance(write, Append) and redelivery == "replace":
        with pytest.raises(DeclarationError, match="Append never removes a row"):
            make_lake(replace(landed_items, on_redelivery=redelivery), items_table(write, key=()))
        return
    more = {"key": ()} if isinstance(write, Append) else {}
    lake = make_lake(replace(landed_items, on_redelivery=redelivery), items_table(write, **more))
    for lines in (["1,1,5", "2,1,x"], ["1,1,5", "1,2,6", "3,1,1"], ["3,2,2"]):
        lake.land("raw.items", "same.csv", items_csv(*lines))
        lake.run()
        assert [result.differences for result in reconcile_tables(lake).values()] == [(), ()]


def test_lost_duplicate_and_foreign_rows_are_named(reconciled: TestLake) -> None:
    clean, raw = str(reconciled.lake.get_path("clean.items")), str(reconciled.lake.get_path("raw.items"))
    DeltaTable(clean).delete("id = 4")
    text = differences(reconciled)
    assert "was changed by another writer: version 2, DELETE" in text
    assert "has 2 rows, but its commits left 3" in text
    expected = "lacks 1 rows: 8 landed rows less 2 kept and 2 in quarantine leave 4 duplicates, but the runs counted 3"
    assert expected in text
    rows = DeltaTable(clean).to_pyarrow_table()
    write_deltalake(clean, rows.slice(0, 1), mode="append")
    assert "has 1 keys (id) more than once, such as 1" in differences(reconciled)
    stranger = rows.slice(0, 1).set_column(rows.schema.get_field_index("_row"), "_row", pa.array([99], pa.int64()))
    write_deltalake(clean, stranger, mode="append")
    assert "has 1 rows that come from no landed row, such as 2/99" in differences(reconciled)
    stranger = stranger.set_column(rows.schema.get_field_index("_row"), "_row", pa.array([98], pa.int64()))
    write_deltalake(clean, stranger, mode="append")
    expected = (
        "has 1 rows too many: 8 landed rows less 4 kept and 2 in quarantine leave 2 duplicates, but the runs counted 3"
    )
    assert expected in differences(reconciled)

    write_deltalake(raw, DeltaTable(raw).to_pyarrow_table().slice(0, 1), mode="append")
    assert "has duplicate rows of" in differences(reconciled, "raw.items")
    assert "but its file has" in differences(reconciled, "raw.items")


def test_maintenance_is_no_difference(reconciled: TestLake) -> None:
    clean = DeltaTable(str(reconciled.lake.get_path("clean.items")))
    clean.optimize.compact()
    clean.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert differences(reconciled) == ""
    for file in sorted(reconciled.lake.get_path("clean.items").glob("_delta_log/*.json"))[:1]:
        DeltaTable(str(reconciled.lake.get_path("clean.items"))).create_checkpoint()
        file.unlink()  # as when a log is cleaned up
    assert differences(reconciled) == ""
