"""The landing zone without Spark: new files, damaged files, manifests."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lakehouse.definitions.sources import Source, source
from lakehouse.engine.spark.landed_files import split_into_chunks
from lakehouse.errors import LandingError
from lakehouse.landing.delivery import deliver
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.landing.zone import LandingZone
from lakehouse.storage import location

ITEMS = source("raw.items", landing="items", columns=("id", "value"))
GOOD = b"id,value\n1,1\n"


@pytest.fixture
def landing(tmp_path: Path) -> LandingZone:
    return create_zone(tmp_path, ITEMS)


def create_zone(root: Path, declared: Source) -> LandingZone:
    (root / "landing" / declared.landing).mkdir(parents=True, exist_ok=True)
    return LandingZone(declared, root / "landing", root / "manifests")


def put(landing: LandingZone, name: str, content: bytes = GOOD, hours_ago: float = 1) -> Path:
    file = landing.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    modified = time.time() - hours_ago * 3600
    os.utime(file, (modified, modified))
    return file


def pending(landing: LandingZone, definition: str = "one") -> list[str]:
    return [file.path for file in landing.find_new_files(landing.read_history(), definition)]


def take(landing: LandingZone, definition: str = "one") -> Manifest:
    history = landing.read_history()
    return landing.write_manifest(len(history) + 1, definition, history, landing.find_new_files(history, definition))


def test_a_missing_folder_lists_nothing(tmp_path: Path) -> None:
    landing = LandingZone(ITEMS, tmp_path / "landing", tmp_path / "manifests")
    assert (landing.list_files(), landing.read_history(), pending(landing)) == ([], [], [])


def test_files_are_taken_once_by_path(landing: LandingZone) -> None:
    for name in ("b.csv", "a.csv", "sub/c.csv", "_x.csv", ".x.csv", "x.csv.tmp", "x.csv.crdownload", "_sub/x.csv"):
        put(landing, name)
    first = take(landing)
    assert [(file.path, file.file_id) for file in first.files] == [
        ("items/a.csv", 1),
        ("items/b.csv", 2),
        ("items/sub/c.csv", 3),
    ]
    assert pending(landing) == []
    put(landing, "d.csv")
    put(landing, "a.csv", GOOD + b"2,2\n")
    assert pending(landing) == ["items/a.csv", "items/d.csv"]
    second = take(landing)
    assert [(file.path, file.file_id) for file in second.files] == [("items/a.csv", 4), ("items/d.csv", 5)]
    assert landing.read_history() == [first, second]


def test_rejected_files_stay_until_redelivered_or_removed(landing: LandingZone) -> None:
    put(landing, "mended.csv", b"")
    withdrawn = put(landing, "withdrawn.csv", b"")
    put(landing, "broken.csv", b"")
    take(landing)

    def rejected() -> list[str]:
        return [file.path for file in landing.find_rejected_files(landing.read_history())]

    assert rejected() == ["items/broken.csv", "items/mended.csv", "items/withdrawn.csv"]
    put(landing, "mended.csv")
    withdrawn.unlink()
    take(landing)
    assert rejected() == ["items/broken.csv"]


def test_new_bytes_with_same_size_and_time(landing: LandingZone) -> None:
    file = put(landing, "a.csv", hours_ago=0)
    take(landing)
    stat = file.stat()
    file.write_bytes(GOOD.replace(b"1,1", b"2,2"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert pending(landing) == ["items/a.csv"]


def test_a_touched_file_is_no_new_delivery(landing: LandingZone) -> None:
    put(landing, "a.csv")
    take(landing)
    os.utime(landing.folder / "a.csv")
    assert pending(landing) == []


def test_new_bytes_or_declaration_retry_rejected_files(landing: LandingZone) -> None:
    put(landing, "a.csv", b"wrong\n")
    manifest = take(landing)
    assert [file.path for file in manifest.rejected_files] == ["items/a.csv"]
    assert manifest.files == ()
    assert pending(landing) == []
    assert pending(landing, "two") == ["items/a.csv"]
    put(landing, "a.csv")
    assert pending(landing) == ["items/a.csv"]
    assert [file.file_id for file in take(landing).files] == [1]


def test_a_file_returns_damaged_then_unchanged(landing: LandingZone) -> None:
    put(landing, "a.csv")
    take(landing)
    put(landing, "a.csv", b"")
    assert take(landing).rejected_files[0].reason.startswith("is empty")
    put(landing, "a.csv")
    assert pending(landing) == [], "the table already has these bytes"
    assert take(landing).files == ()


def test_a_settling_file_is_ignored(tmp_path: Path) -> None:
    landing = create_zone(tmp_path, replace(ITEMS, settle_seconds=60.0))
    put(landing, "new.csv", hours_ago=0)
    put(landing, "old.csv", hours_ago=1)
    assert pending(landing) == ["items/old.csv"]


def test_a_named_pipe_is_ignored(landing: LandingZone) -> None:
    put(landing, "a.csv")
    os.mkfifo(landing.folder / "pipe.csv")
    assert pending(landing) == ["items/a.csv"]


IS_LINK = "is a symbolic link, which is not followed; deliver the file itself"


def test_links_are_rejected_and_never_read(landing: LandingZone, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("a.csv", "secret.csv"):
        (outside / name).write_bytes(GOOD)
    put(landing, "a.csv")
    targets = {
        "absolute.csv": outside / "secret.csv",
        "relative.csv": "../../outside/secret.csv",
        "beside.csv": "a.csv",
        "folder": outside,
        "above": landing.root.parent,
        "itself": "itself",
        "nothing.csv": "nothing",
        "null.csv": "/dev/null",
    }
    (landing.folder / "sub").mkdir()
    for name, target in targets.items():
        (landing.folder / "sub" / name).symlink_to(target)
    (landing.folder / "_ignored.csv").symlink_to(outside / "a.csv")
    links = {f"items/sub/{name}": IS_LINK for name in targets}
    previews = landing.preview_files(landing.list_files())
    assert {path: reason for path, reason, _ in previews} == {"items/a.csv": None, **links}
    manifest = take(landing)
    assert [file.path for file in manifest.files] == ["items/a.csv"]
    assert {file.path: file.reason for file in manifest.rejected_files} == links
    assert {file.path for file in landing.find_rejected_files(landing.read_history())} == links.keys()
    assert pending(landing) == []
    for name in targets:
        (landing.folder / "sub" / name).unlink()
    put(landing, "sub/absolute.csv")
    assert pending(landing) == ["items/sub/absolute.csv"]
    assert [file.path for file in take(landing).files] == ["items/sub/absolute.csv"]
    assert landing.find_rejected_files(landing.read_history()) == []


@pytest.mark.parametrize("link", ["shop", "shop/items"])
def test_a_linked_source_folder_is_not_read(tmp_path: Path, link: str) -> None:
    declared = source("raw.items", landing="shop/items", columns=("id", "value"))
    outside = create_zone(tmp_path / "outside", declared)
    put(outside, "a.csv")
    landing = LandingZone(declared, tmp_path / "landing", tmp_path / "manifests")
    landing.root.joinpath(link).parent.mkdir(parents=True)
    landing.root.joinpath(link).symlink_to(outside.root / link)
    assert {file.path: file.reason for file in take(landing).rejected_files} == {link: IS_LINK}
    with pytest.raises(LandingError, match=f"nothing was delivered: landing/{link} is a symbolic link"):
        deliver(landing.root, declared, [outside.folder / "a.csv"])
    landing.root.joinpath(link).unlink()
    put(landing, "a.csv")
    assert [file.path for file in take(landing).files] == ["shop/items/a.csv"]
    assert landing.find_rejected_files(landing.read_history()) == []


def test_a_pinned_file_replaced_by_a_link_is_rejected(landing: LandingZone, tmp_path: Path) -> None:
    file, folder = put(landing, "a.csv"), put(landing, "sub/b.csv").parent
    manifest = take(landing)
    stat = file.stat()
    file.rename(tmp_path / "same.csv")
    folder.rename(tmp_path / "sub")
    file.symlink_to("/" * (stat.st_size - len(str(tmp_path / "same.csv"))) + str(tmp_path / "same.csv"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns), follow_symlinks=False)
    folder.symlink_to(tmp_path / "sub")
    verified = landing.verify_manifest(manifest, "one")
    assert verified.files == ()
    reasons = {file.path: file.reason for file in verified.rejected_files}
    below = "is below the symbolic link items/sub, which is not followed; deliver the file itself"
    assert reasons == {"items/a.csv": IS_LINK, "items/sub/b.csv": below}
    with pytest.raises(LandingError, match="items/a.csv is a symbolic link, which is not followed"):
        landing.check_refresh([manifest])


def test_a_delivery_replaces_a_link(tmp_path: Path) -> None:
    landing = create_zone(tmp_path, ITEMS)
    good = tmp_path / "a.csv"
    good.write_bytes(GOOD)
    (landing.folder / "a.csv").symlink_to(good)
    deliver(landing.root, ITEMS, [good])
    assert not (landing.folder / "a.csv").is_symlink()
    assert (landing.folder / "a.csv").read_bytes() == GOOD


def test_a_manifest_is_written_once(landing: LandingZone) -> None:
    put(landing, "a.csv")
    take(landing)
    with pytest.raises(LandingError, match="another run created this manifest"):
        landing.write_manifest(1, "one", [], landing.list_files())
    assert not [p for p in landing.manifest_folder.iterdir() if p.suffix != ".json"]


def test_a_damaged_manifest_is_named(landing: LandingZone) -> None:
    put(landing, "a.csv")
    take(landing)
    file = landing.manifest_folder / "00000001.json"
    for text in ("", "[]", '{"source": "raw.items"}'):
        file.write_text(text)
        with pytest.raises(LandingError, match=r"00000001\.json: not a manifest"):
            landing.read_history()


def test_pinned_files_that_change_are_rejected(landing: LandingZone) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        put(landing, name)
    manifest = take(landing)
    (landing.folder / "a.csv").unlink()
    put(landing, "b.csv", b"id,value\n9,9\n", hours_ago=0)
    os.utime(landing.folder / "c.csv")
    verified = landing.verify_manifest(manifest, "one")
    assert [file.path for file in verified.files] == ["items/c.csv"]
    assert landing.read_history() == [verified]
    assert landing.verify_manifest(verified, "one") == verified
    assert [(file.path, file.reason[:14]) for file in verified.rejected_files] == [
        ("items/a.csv", "cannot be read"),
        ("items/b.csv", "changed while "),
    ]
    (landing.folder / "c.csv").unlink()
    assert landing.verify_manifest(verified, "one").files == ()
    assert len(landing.read_history()[0].rejected_files) == 3
    assert pending(landing) == ["items/b.csv"]


@pytest.mark.parametrize("redelivery", ["upsert", "replace"])
def test_check_refresh_names_lost_files(tmp_path: Path, redelivery: str) -> None:
    landing = create_zone(
        tmp_path, source("raw.items", landing="items", columns=("id", "value"), on_redelivery=redelivery)
    )
    for name in ("a.csv", "b.csv"):
        put(landing, name)
    take(landing)
    put(landing, "a.csv", GOOD * 2)
    take(landing)
    if redelivery == "replace":
        landing.check_refresh(landing.read_history())
    else:
        with pytest.raises(LandingError, match=r"would lose rows.*items/a\.csv holds other bytes than delivery 1"):
            landing.check_refresh(landing.read_history())
    (landing.folder / "b.csv").unlink()
    with pytest.raises(LandingError, match=r"items/b\.csv is gone"):
        landing.check_refresh(landing.read_history())


def test_a_full_refresh_must_not_lose_files(landing: LandingZone) -> None:
    put(landing, "a.csv")
    take(landing)
    wider = create_zone(
        landing.root.parent, replace(ITEMS, columns={"id": "string", "value": "string", "more": "string"})
    )
    with pytest.raises(LandingError, match=r"items/a\.csv lacks column more"):
        wider.write_manifest(2, "two", wider.read_history(), wider.list_files(), is_full=True)
    assert len(wider.read_history()) == 1
    settling = create_zone(landing.root.parent, replace(ITEMS, settle_seconds=1e6))
    with pytest.raises(LandingError, match=r"items/a\.csv is missing, or was modified within settle_seconds"):
        settling.write_manifest(2, "one", settling.read_history(), settling.list_files(), is_full=True)


def test_pinned_files_must_fit_the_new_declaration(landing: LandingZone) -> None:
    put(landing, "a.csv")
    manifest = take(landing)
    renamed = create_zone(landing.root.parent, replace(ITEMS, columns={"id": "string", "amount": "string"}))
    verified = renamed.verify_manifest(manifest, "two")
    assert verified.files == ()
    assert verified.rejected_files[0].reason == "lacks column amount; has an unknown column value"
    assert pending(renamed, "two") == ["items/a.csv"], "the file is inspected again"


def test_a_full_refresh_keeps_the_order_of_deliveries(landing: LandingZone) -> None:
    put(landing, "b.csv")
    take(landing)
    put(landing, "a.csv")
    take(landing)
    put(landing, "0.csv")  # not delivered yet
    manifest = landing.write_manifest(3, "one", landing.read_history(), landing.list_files(), is_full=True)
    ordered = sorted(manifest.files, key=lambda file: file.file_id)
    assert [file.path for file in ordered] == ["items/b.csv", "items/a.csv", "items/0.csv"]


def test_deliver_copies_whole_files(tmp_path: Path) -> None:
    landing = create_zone(tmp_path, ITEMS)
    good, hidden = tmp_path / "a.csv", tmp_path / "_b.csv"
    good.write_bytes(GOOD)
    hidden.write_bytes(GOOD)
    with pytest.raises(LandingError) as raised:
        deliver(landing.root, ITEMS, [good, hidden, tmp_path / "c.csv", tmp_path])
    for problem in ("_b.csv has an ignored name", "c.csv is not a file", f"{tmp_path} is not a file"):
        assert problem in str(raised.value)
    assert list(landing.folder.iterdir()) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_bytes(GOOD * 2)
    with pytest.raises(LandingError, match=r"two files are called a\.csv"):
        deliver(landing.root, ITEMS, [good, tmp_path / "other" / "a.csv"])
    assert deliver(landing.root, ITEMS, [good]) == [landing.folder / "a.csv"]
    assert [p.name for p in landing.folder.iterdir()] == ["a.csv"]
    assert not location.put_if_changed(landing.folder / "a.csv", GOOD)
    assert location.put_if_changed(landing.folder / "a.csv", GOOD * 2)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a", b"", "is empty"),
        ("a", b"\xef\xbb\xbf", "is empty"),
        ("a", b"\n", "header"),
        ("a", b"1,1\n", "has no header: its first line is '1,1'"),
        ("a", b"value,id\n", "has its columns in another order: value,id"),
        ("a", b"id\n", "lacks column value"),
        ("a", b"id,value,more\n", "has an unknown column more"),
        ("a", b"id,value,value\n", "value"),
        ("a", b"id;value\n", "has no header"),
        ("a", b"ID,VALUE\n", "has no header"),
        ("a", GOOD + b"\xff", "is not UTF-8 text"),
        ("a", GOOD + b"\xc3", "is not UTF-8 text"),
        ("a.gz", GOOD, "cannot be read"),
        ("a", b"\xef\xbb\xbf" + GOOD, None),
        ("a", b'"id","value"\r\n', None),
        ("a", b"id,value", "does not end with a line end"),
        ("a", b'id,value\n1,"2\n3,4\n', "a quote that is never closed, after line 1"),
        ("a", b'id,value\n1,"2\n3,4\n5,"6\n7,8\n', "a quote that is never closed, after line 1"),
        ("a", b'id,value\n1,2\n3,"4"5\n6,"7\n8,"9\n', "a quote that is never closed, after line 3"),
        ("a", b'id,value\n1,"2\n3"\n', None),
        ("a", b'id,value\n1,"2 ""and""\n3"\n', None),
        ("a", b'id,value\n1,2"3"\n4,"5"6\n', None),
        ("a", b'id,value\n1,"' + b"long\n" * 50_000 + b'"\n', None),
    ],
)
def test_csv_files_are_inspected(landing: LandingZone, name: str, content: bytes, reason: str | None) -> None:
    put(landing, name, content)
    manifest = take(landing)
    actual = manifest.rejected_files[0].reason if manifest.rejected_files else None
    assert actual is None if reason is None else reason in (actual or "")


@pytest.mark.parametrize(
    "name",
    [
        "named.snappy",
        "named.lz4",
        "named.deflate",
        "named.zst",
        "named.csv.bz2",  # Spark would decompress these by name
        "2024-01-01T00:00.csv",  # Hadoop accepts no colon
        os.fsdecode(b"latin-\xe9.csv"),  # not UTF-8
    ],
)
def test_names_that_spark_cannot_read_are_rejected(landing: LandingZone, name: str) -> None:
    put(landing, "good.csv")
    put(landing, name)
    manifest = take(landing)
    assert [file.path for file in manifest.files] == ["items/good.csv"]
    assert [file.path for file in manifest.rejected_files] == [f"items/{name}"]
    assert landing.read_history() == [manifest]


def test_the_header_is_read_with_the_separator(tmp_path: Path) -> None:
    landing = create_zone(tmp_path, source("raw.items", landing="items", columns=("id", "value"), options={"sep": ";"}))
    put(landing, "a.csv", b"id;value\n")
    assert len(take(landing).files) == 1


def test_header_names_stand_for_columns(tmp_path: Path) -> None:
    named = source("raw.items", landing="items", columns=("id", "value"), header_names={"id": "Order ID"})
    landing = create_zone(tmp_path, named)
    put(landing, "a.csv", b"Order ID,value\n1,2\n")
    put(landing, "b.csv", b"Order Id,value\n1,2\n")
    manifest = take(landing)
    assert [(file.path, file.columns) for file in manifest.files] == [("items/a.csv", None)]
    assert [file.reason for file in manifest.rejected_files] == ["lacks column id; has an unknown column Order Id"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"'id';'value'\n1;'2;3'\n", None),
        (b"'id';'value'\n1;'it''s'\n2;\"\n", None),
        (b"id;value\n1;'2\n3;4\n", "has a quote that is never closed, after line 1 (unexpected end of data)"),
    ],
)
def test_quotes_are_those_of_the_source(tmp_path: Path, content: bytes, reason: str | None) -> None:
    options = {"sep": ";", "quote": "'"}
    landing = create_zone(tmp_path, source("raw.items", landing="items", columns=("id", "value"), options=options))
    put(landing, "a.csv", content)
    assert [file.reason for file in take(landing).rejected_files] == ([reason] if reason else [])


def test_manifests_are_readable_text(landing: LandingZone) -> None:
    put(landing, "blåbær.csv")
    take(landing)
    manifest = json.loads((landing.manifest_folder / "00000001.json").read_text())
    assert manifest["files"][0]["path"] == "items/blåbær.csv"
    assert manifest["batch"] == 1


def create_files(*sizes: int) -> list[LandedFile]:
    return [LandedFile(f"f{i:03}", size, 0) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("files", "size", "counts"),
    [
        (create_files(5), 10, [1]),
        (create_files(5, 5), 10, [1, 1]),
        (create_files(0, 0, 0), 10, [3]),
        (create_files(*[1] * 30), 10, [10, 10, 10]),
        (create_files(100, 1, 1), 10, [1, 2]),
    ],
)
def test_files_are_split_into_chunks(files: list[LandedFile], size: int, counts: list[int]) -> None:
    chunks = split_into_chunks(files, size)
    assert [len(chunk) for chunk in chunks] == counts
    assert [file for chunk in chunks for file in chunk] == files
