"""The command that lands files, and landed files that no source reads."""

from __future__ import annotations

from pathlib import Path

from tests.lakehouse.cli.conftest import Command
from tests.lakes import orders_csv


def test_land_delivers_a_file_with_a_space(lakehouse: Command, tmp_path: Path) -> None:
    file = tmp_path / "orders 1.csv"
    file.write_text(orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    assert lakehouse("land", "raw.orders", str(file)).strip() == "landing/orders/orders 1.csv"
    lakehouse.lake.land("raw.orders", "[bold].csv", "[/x],not a header\n")
    entry = lakehouse.entries("plan", "--select", "raw.orders")["raw.orders"]
    assert entry["files"] == ["orders/[bold].csv", "orders/orders 1.csv"]


def test_plan_and_status_list_unread_folders(lakehouse: Command) -> None:
    for name in ("ordres", "orders", ".hidden"):
        (lakehouse.lake.root / "landing" / name).mkdir(parents=True)
    for command in ("plan", "status"):
        output = lakehouse(command)
        assert "unread landing/ordres: no source reads this" in output
        assert "landing/orders" not in output
        assert "hidden" not in output


def test_plan_and_status_name_links_before_a_run(lakehouse: Command, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the first line of another file\n")
    lakehouse.lake.folder("raw.orders").mkdir(parents=True)
    (lakehouse.lake.folder("raw.orders") / "link.csv").symlink_to(tmp_path / "secret")
    for command in ("plan", "status", "run", "status"):
        output = " ".join(lakehouse(command).split())
        assert "orders/link.csv: is a symbolic link, which is not followed; deliver the file itself" in output
        assert "the first line" not in output
    assert "orders/link.csv" not in lakehouse("plan"), "it is on record"
