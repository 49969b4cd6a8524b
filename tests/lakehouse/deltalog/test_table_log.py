"""Tables with dates that Python does not have: year 10000 and beyond, or before year 1."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lakehouse.deltalog import table_log
from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import StorageError

FIRST, JANUARY, LAST = date(1, 1, 1), date(2024, 1, 1), date(9999, 12, 31)
YEAR_10000, YEAR_0 = 2932897, -719163  # days since 1970


def open_table(path: Path) -> TableLog:
    log = table_log.open_log(path)
    assert log is not None
    return log


def make_days(*days: int) -> pa.Table:
    values = pa.array(days, pa.int32()).cast(pa.date32())
    return pa.table({"id": list(range(len(days))), "day": values, "at": values.cast(pa.timestamp("us", "UTC"))})


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Write a table with days in its second version that Python does not have."""
    path = tmp_path / "days"
    properties = {"delta.enableChangeDataFeed": "true", "delta.dataSkippingStatsColumns": "id,day"}
    write_deltalake(path, make_days(19723), configuration=properties)
    write_deltalake(path, make_days(19723, 2932896, -719162, YEAR_10000, YEAR_0), mode="append")
    return path


def test_a_table_with_any_date_is_read(days: Path) -> None:
    rows = open_table(days).open_dataset().to_table(["id", "day"])
    assert rows.column("id").to_pylist().count(0) == 2
    assert sorted(rows.column("day").cast(pa.int32()).to_pylist()) == [
        YEAR_0,
        -719162,
        19723,
        19723,
        2932896,
        YEAR_10000,
    ]


def test_dates_beyond_the_calendar_are_text(days: Path) -> None:
    changed = open_table(days).read_net_changed_values("day", 0, 1, [])
    assert changed == {FIRST, JANUARY, LAST, "10000-01-01", "0001-12-31 (BC)"}
    open_table(days).check_changes("at", 0, 1)


def test_files_are_measured_by_any_date(days: Path) -> None:
    log = open_table(days)
    assert log.measure("day", [(FIRST, FIRST)])[0] == 5
    assert log.measure("day", [(JANUARY, JANUARY), (LAST, LAST)])[0] == 6
    assert log.measure("day", [(date(2024, 1, 2), LAST)])[0] == 5


@contextmanager
def deny_access(folder: Path) -> Iterator[None]:
    """Deny access to a folder. Nothing is denied to root, so the process becomes another user."""
    mode, is_root = folder.stat().st_mode, os.geteuid() == 0
    folder.chmod(0)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(mode)


@contextmanager
def open_too_many_files() -> Iterator[None]:
    """Leave no file descriptor to the process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with suppress(OSError):
            while True:
                stack.enter_context(Path(os.devnull).open("rb"))
        yield


def test_a_log_without_access_is_not_damaged(days: Path) -> None:
    open_table(days)
    with deny_access(days / "_delta_log"), pytest.raises(StorageError) as raised:
        table_log.open_log(days)
    assert str(raised.value).startswith(f"{days}: access is denied (/")
    assert str(raised.value).endswith("Check the owner and the permissions.")
    open_table(days)


def test_too_many_open_files_are_no_damage(days: Path) -> None:
    log = open_table(days)
    for read in (lambda: table_log.open_log(days), log.read_entries, lambda: log.check_changes("at", 0, 1)):
        with open_too_many_files(), pytest.raises(StorageError) as raised:
            read()
        assert str(raised.value).startswith(f"{days}: too many files are open")
        assert str(raised.value).endswith("Raise the limit (ulimit -n).")
