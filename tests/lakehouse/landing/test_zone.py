"""The landing zone without Spark: new files, damaged files, manifests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from lakehouse.definitions.sources import Source, source
from lakehouse.errors import LandingError
from lakehouse.landing.delivery import deliver
from lakehouse.landing.manifest import Manifest, RejectedFile
from lakehouse.landing.zone import LandingZone
from lakehouse.storage import location

ITEMS = source("raw.items", landing="items", columns=("id", "value"))
GOOD = b"id,value\n1,1\n"
NOTHING: Mapping[str, str] = MappingProxyType({})


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


def take(landing: LandingZone, definition: str = "one", rejected: Mapping[str, str] = NOTHING) -> Manifest:
    """Pin a batch of the new files, and reject some by name with a reason, as a run does that reads them."""
    history = landing.read_history()
    new = landing.find_new_files(history, definition)
    manifest = landing.pin_batch(len(history) + 1, definition, history, new)
    return landing.reject_files(manifest, history, reject(landing, manifest, rejected))


def reject(landing: LandingZone, manifest: Manifest, reasons: Mapping[str, str]) -> list[RejectedFile]:
    files = {file.path.removeprefix(f"{landing.source.landing}/"): file for file in manifest.files}
    return [
        RejectedFile(files[name].path, files[name].size, files[name].modified_ns, files[name].identity, reason)
        for name, reason in reasons.items()
    ]


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
    take(landing, rejected=dict.fromkeys(("mended.csv", "withdrawn.csv", "broken.csv"), "is empty"))

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
    manifest = take(landing, rejected={"a.csv": "has no header"})
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
    take(landing, rejected={"a.csv": "is empty"})
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
    verified = landing.verify_batch(manifest, [])
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
        landing.pin_batch(1, "one", [], landing.list_files())
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
    verified = landing.verify_batch(manifest, [])
    assert [file.path for file in verified.files] == ["items/c.csv"]
    assert landing.read_history() == [verified]
    assert landing.verify_batch(verified, []) == verified
    assert [(file.path, file.reason[:14]) for file in verified.rejected_files] == [
        ("items/a.csv", "cannot be read"),
        ("items/b.csv", "changed while "),
    ]
    (landing.folder / "c.csv").unlink()
    assert landing.verify_batch(verified, []).files == ()
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
    put(landing, "new.csv")
    history = landing.read_history()
    manifest = landing.pin_batch(2, "two", history, landing.list_files(), is_full=True)
    history = landing.read_history()
    manifest = landing.reject_files(manifest, history, reject(landing, manifest, {"new.csv": "is empty"}))
    assert [file.path for file in manifest.files] == ["items/a.csv"], "no batch has read the other file"
    with pytest.raises(LandingError, match=r"items/a\.csv lacks column more"):
        landing.reject_files(manifest, history, reject(landing, manifest, {"a.csv": "lacks column more"}))
    assert len(landing.read_history()) == 1
    settling = create_zone(landing.root.parent, replace(ITEMS, settle_seconds=1e6))
    with pytest.raises(LandingError, match=r"items/a\.csv is missing, or was modified within settle_seconds"):
        settling.pin_batch(2, "one", settling.read_history(), settling.list_files(), is_full=True)


def test_a_full_refresh_keeps_the_order_of_deliveries(landing: LandingZone) -> None:
    put(landing, "b.csv")
    take(landing)
    put(landing, "a.csv")
    take(landing)
    put(landing, "0.csv")  # not delivered yet
    manifest = landing.pin_batch(3, "one", landing.read_history(), landing.list_files(), is_full=True)
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


def test_a_name_that_is_not_utf8_is_rejected(landing: LandingZone) -> None:
    name = os.fsdecode(b"latin-\xe9.csv")
    put(landing, "good.csv")
    put(landing, name)
    manifest = take(landing)
    assert [file.path for file in manifest.files] == ["items/good.csv"]
    assert [(file.path, file.reason) for file in manifest.rejected_files] == [
        (f"items/{name}", "has a name that is not UTF-8")
    ]
    assert landing.read_history() == [manifest]


def test_manifests_are_readable_text(landing: LandingZone) -> None:
    put(landing, "blåbær.csv")
    take(landing)
    manifest = json.loads((landing.manifest_folder / "00000001.json").read_text())
    assert manifest["files"][0]["path"] == "items/blåbær.csv"
    assert manifest["batch"] == 1
