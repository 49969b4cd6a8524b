"""Reconciliation of lakes with damaged logs and missing files."""

from __future__ import annotations

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from tests.lakehouse.quality.test_reconciliation import differences
from tests.lakes import TestLake, items_csv


def test_written_rejects_and_unnamed_deliveries_are_reported(reconciled: TestLake) -> None:
    quarantine = str(reconciled.lake.get_quarantine_path("clean.items"))
    row = DeltaTable(quarantine).to_pyarrow_table().slice(0, 1)
    row = row.set_column(row.schema.get_field_index("_row"), "_row", pa.array([5], pa.int64()))
    write_deltalake(quarantine, row, mode="append")
    assert "has 1 rows that are in its quarantine, too, such as 1/5" in differences(reconciled)
    (reconciled.root / "manifests" / "raw.items" / "00000002.json").unlink()
    assert "has 3 rows of delivery 2, which no manifest names" in differences(reconciled, "raw.items")


def test_a_damaged_log_blocks_no_other_table(reconciled: TestLake) -> None:
    for file in reconciled.lake.get_path("clean.items").glob("_delta_log/*.json"):
        file.write_text("{")
    assert "cannot be reconciled: " in differences(reconciled)
    assert "the Delta log cannot be read" in differences(reconciled)
    assert differences(reconciled, "raw.items") == ""


def test_a_missing_file_blocks_no_other_table(reconciled: TestLake) -> None:
    reconciled.land("raw.items", "3.csv", items_csv(f"6,1,{'9' * 200_000}"))
    reconciled.run()
    assert differences(reconciled, "raw.items") == ""
    for file in reconciled.lake.get_path("clean.items").glob("*.parquet"):
        file.unlink()
    assert "cannot be reconciled: " in differences(reconciled)
    assert differences(reconciled, "raw.items") == ""
