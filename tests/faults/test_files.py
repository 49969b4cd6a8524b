"""Files cut short, unfinished or delivered again: tables have the rows of good files, and bad files are on record."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from lakehouse.definitions.write_modes import Merge
from lakehouse.landing.manifest import Manifest
from lakehouse.landing.zone import LandingZone
from tests.faults.compare import assert_same, content
from tests.lakes import TestLake, items_csv, items_table, landed_items, payments_file, set_age
from tests.orders import clean, landed

Lakes = Callable[..., TestLake]
SHOP = (landed_items, items_table(), landed.payments, clean.payments)


def lines(first: int, last: int) -> list[str]:
    """Return rows of items with random values, which do not compress to almost nothing."""
    chance = random.Random(first)
    return [f"{number},1,{chance.randrange(10**6)}" for number in range(first, last)]


GOOD = items_csv(*lines(0, 50))
COMPRESSED = gzip.compress(items_csv(*lines(100, 2000)).encode(), mtime=0)
TWO_PARTS = gzip.compress(items_csv(*lines(2000, 2500)).encode()) + gzip.compress(
    "\n".join(lines(2500, 3000)).encode() + b"\n"
)
PAYMENTS = payments_file(*[(n, n, "2024-01-01", 1.0 + n) for n in range(500)])
CUT_GZIP = {
    f"cut_at_{at}.csv.gz": COMPRESSED[:at]
    for at in (0, 1, 9, 10, 200, len(COMPRESSED) // 2, len(COMPRESSED) - 8, len(COMPRESSED) - 1)
}
CUT_GZIP["second_part_cut.csv.gz"] = TWO_PARTS[:-20]
CUT_GZIP["bit_flipped.csv.gz"] = COMPRESSED[:-3000] + bytes([COMPRESSED[-3000] ^ 4]) + COMPRESSED[-2999:]
CUT_PARQUET = {f"cut_at_{at}.parquet": PAYMENTS[:at] for at in (0, 3, 4, 300, len(PAYMENTS) // 2, len(PAYMENTS) - 1)}
CUT_PARQUET["middle_missing.parquet"] = PAYMENTS[:500] + PAYMENTS[600:]


def test_cut_files_are_rejected_until_complete(make_lake: Lakes) -> None:
    undisturbed, lake = make_lake(*SHOP, name="undisturbed"), make_lake(*SHOP)
    for target in (undisturbed, lake):
        target.land("raw.items", "good.csv", GOOD)
        target.land("raw.payments", "good.parquet", payments_file((1000, 1, "2024-01-01", 1.0)))
    undisturbed.run()
    for name, cut in CUT_GZIP.items():
        lake.land("raw.items", name, cut)
    for name, cut in CUT_PARQUET.items():
        lake.land("raw.payments", name, cut)
    lake.run()
    # Rejected files have numbers, too.
    assert_same(lake, content(undisturbed, delivered=False), delivered=False)
    assert lake.rejected("raw.items").keys() == CUT_GZIP.keys()
    assert lake.rejected("raw.payments").keys() == CUT_PARQUET.keys()

    for target in (undisturbed, lake):
        target.land("raw.items", "cut_at_200.csv.gz", COMPRESSED)
        target.land("raw.items", "second_part_cut.csv.gz", TWO_PARTS)
        target.land("raw.payments", "cut_at_300.parquet", PAYMENTS)
        target.run()
    assert_same(lake, content(undisturbed, delivered=False), delivered=False)


UNFINISHED = {
    name: lines(first, first + 100)
    for first, name in zip(
        (1000, 2000, 3000, 4000), ("renamed.csv", "grows.csv", "pinned.csv", "read.csv"), strict=True
    )
}


def test_unfinished_files_are_read_once_complete(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file has half of its lines when a run begins. The lines are complete, so nothing shows that more will come.

    One file has a temporary name, and one has not settled. One grows after the run has pinned it, and one after the run
    has verified it.
    """
    settling = (replace(landed_items, settle_seconds=30), items_table())
    undisturbed = make_lake(*settling, name="undisturbed")
    lake = make_lake(*settling)
    for name, rows in UNFINISHED.items():
        land_settled(undisturbed, name, rows)
    undisturbed.run()
    expected = content(undisturbed, delivered=False)["clean.items"]

    for name in ("renamed.csv.part", "grows.csv", "pinned.csv", "read.csv"):
        land_settled(lake, name, UNFINISHED[name.removesuffix(".part")][:50])
    os.utime(lake.folder("raw.items") / "grows.csv")
    with monkeypatch.context() as changed:
        for moment, name in (("pin_batch", "pinned.csv"), ("verify_batch", "read.csv")):
            grow_after(changed, moment, lambda name=name: land_settled(lake, name, UNFINISHED[name]))
        lake.run()
    changed_reason = "changed while its batch was under way"
    assert lake.rejected("raw.items") == {"pinned.csv": changed_reason, "read.csv": changed_reason}
    assert [manifest.files for manifest in lake.history("raw.items")] == [()]
    (lake.folder("raw.items") / "renamed.csv.part").unlink()
    for name in ("renamed.csv", "grows.csv"):
        land_settled(lake, name, UNFINISHED[name])
    lake.run()
    assert content(lake, delivered=False)["clean.items"] == expected
    assert set(lake.run().statuses.values()) == {"unchanged"}


def land_settled(lake: TestLake, name: str, rows: Iterable[str]) -> None:
    set_age(lake.land("raw.items", name, items_csv(*rows)), 60)


def grow_after(changed: pytest.MonkeyPatch, method: str, grow: Callable[[], object]) -> None:
    """Let a file grow as soon as the landing zone's method returns."""
    original = getattr(LandingZone, method)

    def call_and_grow(*args: object) -> Manifest:
        manifest: Manifest = original(*args)
        grow()
        return manifest

    changed.setattr(LandingZone, method, call_and_grow)


@pytest.mark.parametrize("relanded", ["upsert", "replace"])
def test_redelivered_names_and_bytes_converge(make_lake: Lakes, relanded: str) -> None:
    """Compare with a lake that gets only the last deliveries, once, in one file."""
    tables = (replace(landed_items, on_redelivery=relanded), items_table(Merge()))
    undisturbed, lake = make_lake(*tables, name="undisturbed"), make_lake(*tables)
    remaining = [] if relanded == "replace" else ["3,1,1"]
    undisturbed.land("raw.items", "end.csv", items_csv("1,1,5", "2,1,1", *remaining, "4,1,1"))
    undisturbed.run()
    lake.land("raw.items", "a.csv", items_csv("1,1,1", "2,1,1", "3,1,1"))
    lake.land("raw.items", "b.csv", items_csv("4,1,1"))
    lake.run()
    lake.land("raw.items", "copy of b.csv", items_csv("4,1,1"))
    lake.land("raw.items", "a.csv", items_csv("1,1,9", "2,1,1"))  # Shorter.
    lake.run()
    lake.land("raw.items", "a.csv", items_csv("1,1,5", "2,1,1"))  # Of the same length.
    lake.run()
    assert content(lake, delivered=False)["clean.items"] == content(undisturbed, delivered=False)["clean.items"]
    assert set(lake.run().statuses.values()) == {"unchanged"}


def test_a_thousand_tiny_files_are_one_batch(make_lake: Lakes) -> None:
    tables = (landed_items, items_table())
    undisturbed, lake = make_lake(*tables, name="undisturbed"), make_lake(*tables)
    undisturbed.land("raw.items", "all.csv", items_csv(*lines(0, 1000)))
    undisturbed.run()
    for number, line in enumerate(lines(0, 1000)):
        lake.land("raw.items", f"{number % 10}/{number}.csv", items_csv(line))
    lake.run()
    assert lake.record("raw.items").files == 1000
    assert lake.open_log("raw.items").count_files() <= 2
    assert_same(lake, content(undisturbed, delivered=False), delivered=False)
