import zipfile

import pytest

from bronze.airlines import airlines
from bronze.airports import airports
from bronze.flights import flights
from bronze.planes import planes
from bronze.weather import weather
from flights.delivery import _package_data
from lakehouse.definitions.validation import find_problems


@pytest.mark.parametrize("source", [flights, weather, planes, airports, airlines], ids=lambda source: source.name)
def test_columns_equal_the_files_header(source):
    if source is flights:
        with zipfile.ZipFile(_package_data() / "flights.csv.zip") as archive:
            header = archive.open("flights.csv").readline()
    else:
        header = (_package_data() / f"{source.landing}.csv").open("rb").readline()
    assert header.decode().strip().split(",") == list(source.columns)
    assert find_problems(source) == []
