"""The command that lands files, and landed files that no source reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

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


ODD_NAMES = {
    "\x1b[2J\x1b]0;title\x07.csv": r"\x1b[2J\x1b]0;title\x07.csv",
    "\x9b2J.csv": r"\x9b2J.csv",
    "\u2028line.csv": r"\u2028line.csv",
    "\u202egpj.csv": r"\u202egpj.csv",
    "\u2066isolated.csv": r"\u2066isolated.csv",
    ":warning:.csv": ":warning:.csv",
    "[/x].csv": "[/x].csv",
    "[link=https:x].csv": "[link=https:x].csv",
    "[red]markup.csv": "[red]markup.csv",
    os.fsdecode(b"latin-\xe9.csv"): r"latin-\udce9.csv",
    "return\r.csv": r"return\r.csv",
    "two\nlines.csv": r"two\nlines.csv",
}


def test_names_of_files_are_printed_as_text(lakehouse: Command) -> None:
    for number, name in enumerate(ODD_NAMES):
        lakehouse.lake.land("raw.orders", name, f"{number}{name}no header\n".encode("utf-8", "replace"))
    for command in ("plan", "run", "status"):
        output = lakehouse(command)
        assert output.replace("\n", "").isprintable(), command
        shown = [name for name in ODD_NAMES.values() if f"orders/{name}: " in " ".join(output.split())]
        assert len(shown) == (5 if command == "plan" else len(ODD_NAMES)), command
    assert lakehouse("reconcile").replace("\n", "").isprintable()
    document = lakehouse("status", "--json")
    assert document.replace("\n", "").isprintable()
    [entry] = [entry for entry in json.loads(document) if entry["table"] == "raw.orders"]
    assert [file["path"] for file in entry["rejected_files"]] == sorted(f"orders/{name}" for name in ODD_NAMES)


def test_land_prints_names_as_text(lakehouse: Command, tmp_path: Path) -> None:
    name = "two\nlines[red]\x1b.csv"
    refusal = lakehouse("land", "raw.orders", str(tmp_path / name), exit_code=2)
    assert r"two\nlines[red]\x1b.csv is not a file" in refusal
    (tmp_path / name).write_text(orders_csv())
    delivered = lakehouse("land", "raw.orders", str(tmp_path / name)).strip()
    assert delivered == r"landing/orders/two\nlines[red]\x1b.csv"
    assert (lakehouse.lake.folder("raw.orders") / name).is_file()


def test_commands_name_suites_that_are_not_used(lakehouse: Command) -> None:
    problem = "check suite gold/airport_daily.json: no table has this name, so it is not used"
    for command in ("plan", "run", "status"):
        assert problem in lakehouse(command)


def test_settings_limit_how_far_a_file_unpacks(lakehouse: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was rejected is read again when the limits change."""
    monkeypatch.setenv("LAKEHOUSE_MAX_UNPACKED_RATIO", "10")
    lakehouse.lake.land("raw.orders", "1.csv.gz", orders_csv(*["1,1,2024-01-01,2024-01-01 08:00:00,NEW,5"] * 100_000))
    assert "unpacks to more than 1,048,576 bytes" in lakehouse("run", "-s", "raw.orders")
    assert lakehouse.lake.version("raw.orders") is None
    assert lakehouse.entries("plan", "-s", "raw.orders")["raw.orders"]["action"] == "none"
    monkeypatch.setenv("LAKEHOUSE_MAX_UNPACKED_RATIO", "10000")
    assert "100,000 written" in lakehouse("run", "-s", "raw.orders")
    assert len(lakehouse.lake.rows("raw.orders", "_row")) == 100_000
