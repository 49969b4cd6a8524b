"""Files of every name and kind in the landing zone: each is ingested once, rejected with a reason, or ignored."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from tests.faults.compare import content
from tests.lakes import TestLake, items_csv, items_table, landed_items

TABLES = (landed_items, items_table())
# Names beside those of test_landing. Some are patterns that other names match.
INGESTED = (
    "a.csv",
    "b.csv",
    "1.csv",
    "a..b.csv",
    "dots../in/a..folder/x.csv",
    "ends in dots..",
    "[!z].csv",
    "**.csv",
    "?.csv",
    "*",
    "{1..3}.csv",
    "{a,b}",
    "[a-b]*/x.csv",
    "%2e%2e%2fx.csv",
    "%2F.csv",
    "%00.csv",
    "50%25.csv",
    "%.csv",
    "%zz.csv",
    "a%5Cb.csv",
    "carriage\rreturn.csv",
    "two\n\nlines.csv",
    "'; DROP TABLE x; --.csv",
    '"',
    "'",
    "`",
    "\\",
    "\\*.csv",
    "$HOME.csv",
    "${spark.master}.csv",
    "#",
    "x#y?z=1&w=[2].csv",
    "a=b/c=d/e=__HIVE_DEFAULT_PARTITION__/x.csv",
    "id=7/x.csv",
    "\u00e9.csv",
    "e\u0301.csv",
    "Case.csv",
    "case.csv",
    "CASE.CSV",
    "\u202etfel-ot-thgir.csv",
    "\u00a0no break\u00a0.csv",
    "zero\u200bwidth.csv",
    "\u3000wide\u2003.csv",
    "\x85next\u2028line.csv",
    "\x7fdelete.csv",
    "\ufeffmark.csv",
    "👩‍👩‍👧.csv",
    "n" * 230 + ".csv",
    "/".join(["deep"] * 40) + "/x.csv",
    "x.csv.tmp.csv",
    "part-00000.csv",
    "a_b.csv",
    "~x.csv",
    "12:30.csv",
    "file:/etc/passwd",
)
IGNORED = (
    "..csv",
    "...csv",
    "..x/x.csv",
    "._x.csv",
    "_x.csv",
    "__x.csv",
    "_SUCCESS",
    "_delta_log/x.csv",
    "a/_b/c.csv",
    "a/.b/c.csv",
    ".x.csv.crc",
    "x.csv.tmp",
    "x.temp",
    "x.csv.partial",
    "x.inprogress",
    "x.crdownload",
    "x~",
    "folder.tmp/x.csv",
)
REJECTED = {
    "x.csv.zip": "its name ends in .zip, but it is not compressed so",
    "x.csv.zst": "its name ends in .zst, but it is not compressed so",
    os.fsdecode(b"latin\xe9.csv"): "not UTF-8",
}
# By name the target, empty for a good file elsewhere.
LINKS = {
    "link.csv": "",
    "link to a folder": "/tmp",
    "link to itself.csv": "link to itself.csv",
    "loop": "..",
    "link to nothing.csv": "nothing.csv",
}


def test_files_of_any_name_are_ingested_once(make_lake: Callable[..., TestLake], tmp_path: Path) -> None:
    undisturbed, lake = make_lake(*TABLES, name="undisturbed"), make_lake(*TABLES)
    for number, name in enumerate(INGESTED):
        undisturbed.land("raw.items", f"{number:03}.csv", items_csv(f"{number},1,1"))
        lake.land("raw.items", name, items_csv(f"{number},1,1"))
    for number, name in enumerate((*IGNORED, *REJECTED)):
        lake.land("raw.items", name, items_csv(f"{1000 + number},1,1"))
    folder = lake.folder("raw.items")
    linked = tmp_path / "elsewhere" / "linked to.csv"
    linked.parent.mkdir()
    linked.write_text(items_csv("500,1,1"))
    for name, target in LINKS.items():
        (folder / name).symlink_to(target or linked)
    os.mkfifo(folder / "pipe.csv")
    (folder / "empty folder.csv").mkdir()
    undisturbed.run()
    lake.run()
    reasons, rejected = lake.rejected("raw.items"), REJECTED | dict.fromkeys(LINKS, "a symbolic link")
    assert reasons.keys() == rejected.keys()
    assert [name for name, reason in rejected.items() if reason not in reasons[name]] == []
    paths = {path for (path,) in lake.rows("raw.items", "_source_file")}
    assert paths == {f"items/{name}" for name in INGESTED}
    assert content(lake, delivered=False) == content(undisturbed, delivered=False)
    assert set(lake.run().statuses.values()) == {"unchanged"}


@pytest.mark.parametrize("name", ["a lake's (own) folder", "..lake", "_lake.tmp"])
def test_a_lake_works_in_any_folder(spark: SparkSession, tmp_path: Path, name: str) -> None:
    lake = TestLake(spark, Catalog(graph.build(TABLES), tmp_path / name))
    for number in range(2):
        lake.land("raw.items", f"{number}.csv", items_csv("1,1,1", f"2,{number},{number}"))
        lake.run()
    assert content(lake)["clean.items"] != []
    assert lake.rows("clean.items") == [(1, 1, 1), (2, 1, 1)]
