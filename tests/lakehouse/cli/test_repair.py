"""The command that rebuilds missing manifests."""

from __future__ import annotations

import os
import shutil

from tests.lakehouse.cli.conftest import Command
from tests.lakehouse.cli.test_landing import ODD_NAMES
from tests.lakes import orders_csv

ORDERS = ("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5", "2,10,2024-02-01,2024-01-01 08:00:00,NEW,-1")


def test_repair_shows_first_and_writes_with_yes(lakehouse: Command) -> None:
    lake = lakehouse.lake
    assert lakehouse("repair") == "Nothing is missing.\n"
    lake.land("raw.orders", "[b] 1.csv", orders_csv(*ORDERS))
    lake.run("raw.orders", "clean.orders")
    manifest = lake.root / "manifests" / "raw.orders" / "00000001.json"
    manifest.unlink()
    for command in ("plan", "status"):
        assert f"raw.orders: committed batches lack their manifests: {manifest}." in lakehouse(command, exit_code=2)
    shown = f"rebuild {manifest}: 1 file\n"
    assert lakehouse("repair") == f"{shown}Nothing was changed. `lakehouse repair --yes` writes 1 manifest.\n"
    assert not manifest.exists()
    assert lakehouse("repair", "--yes") == f"{shown}1 manifest written.\n"
    assert lakehouse("repair") == "Nothing is missing.\n"
    assert lakehouse.entries("plan")["raw.orders"]["action"] == "none"
    (lake.folder("raw.orders") / "[b] 1.csv").unlink()
    manifest.unlink()
    assert "  landing/orders/[b] 1.csv is gone. If it lands again, it is a new delivery.\n" in lakehouse("repair")


def test_repair_names_what_it_cannot_rebuild(lakehouse: Command) -> None:
    lake = lakehouse.lake
    lake.land("raw.orders", "1.csv", orders_csv(*ORDERS))
    lake.run("raw.orders", "clean.orders")
    path = lake.lake.get_quarantine_path("clean.orders")
    shutil.rmtree(path)
    assert f"missing {path}: the quarantine of clean.orders cannot be rebuilt. Restore" in lakehouse(
        "repair", exit_code=1
    )
    for command in (("plan",), ("status",), ("quarantine", "list"), ("quarantine", "show", "clean.orders")):
        assert "lacks the rejects of batch 1" in lakehouse(*command, exit_code=2)


def test_a_repair_prints_names_as_text(lakehouse: Command) -> None:
    lake = lakehouse.lake
    names = {name: shown for name, shown in ODD_NAMES.items() if "latin" not in name}  # that file is rejected
    files = [lake.land("raw.orders", name, orders_csv(*ORDERS)) for name in names]
    lakehouse("run", "--select", "raw.orders")
    (lake.root / "manifests" / "raw.orders" / "00000001.json").unlink()
    for number, file in enumerate(files):
        if number % 3 == 0:
            file.unlink()
        elif number % 3 == 1:
            file.write_text("other\n")
        else:
            os.utime(file, (4e9, 4e9))
    output = lakehouse("repair", exit_code=1)
    assert output.replace("\n", "").isprintable()
    texts = ("is gone", "has other records than batch 1 read", "was modified after batch 1 had read it")
    for number, shown in enumerate(names.values()):
        assert f"  landing/orders/{shown} {texts[number % 3]}" in output
