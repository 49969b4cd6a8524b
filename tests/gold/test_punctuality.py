"""Tests of the punctuality tables: by airport and day, and by airline and month."""

import pytest
from chispa import assert_df_equality

from gold.airport_daily import airport_daily
from gold.carrier_monthly import carrier_monthly
from lakehouse.definitions.validation import find_problems


@pytest.fixture
def flights(frame):
    """Return flights. Of UA's five on 31 January, 15 minutes is late and 14 is not; one is cancelled, one diverted."""
    return frame(
        """
        flight_date | origin | carrier | flight | dep_delay_min | arr_delay_min | cancelled
        2013-01-31  | EWR    | UA      | 1      | 10            | 15            | false
        2013-01-31  | EWR    | UA      | 2      | -2            | 14            | false
        2013-01-31  | EWR    | UA      | 3      | 0             | -5            | false
        2013-01-31  | EWR    | UA      | 4      | 20            | -             | false
        2013-01-31  | EWR    | UA      | 5      | -             | -             | true
        2013-01-31  | JFK    | B6      | 6      | -             | -             | true
        2013-02-01  | EWR    | UA      | 1      | 60            | 90            | false
        2013-02-28  | JFK    | UA      | 1      | 0             | 0             | false
        """,
        "flight_date date, origin string, carrier string, flight int, dep_delay_min int, arr_delay_min int, "
        "cancelled boolean",
    )


@pytest.mark.parametrize("table", [airport_daily, carrier_monthly], ids=lambda table: table.name)
def test_declaration_has_no_problems(table):
    assert find_problems(table) == []


def test_airport_daily(flights, frame):
    expected = frame(
        """
        flight_date | origin | flights | cancelled | avg_dep_delay_min | avg_arr_delay_min | late_rate
        2013-01-31  | EWR    | 5       | 1         | 7                 | 8                 | 0.3333333333333333
        2013-01-31  | JFK    | 1       | 1         | -                 | -                 | -
        2013-02-01  | EWR    | 1       | 0         | 60                | 90                | 1
        2013-02-28  | JFK    | 1       | 0         | 0                 | 0                 | 0
        """,
        ", ".join(f"{name} {type_name}" for name, type_name in airport_daily.columns.items()),
    )
    assert_df_equality(airport_daily(flights), expected, ignore_nullable=True, ignore_row_order=True)


def test_carrier_monthly(flights, frame):
    expected = frame(
        """
        carrier | month      | flights | cancelled | avg_arr_delay_min | late_rate
        UA      | 2013-01-01 | 5       | 1         | 8                 | 0.3333333333333333
        B6      | 2013-01-01 | 1       | 1         | -                 | -
        UA      | 2013-02-01 | 2       | 0         | 45                | 0.5
        """,
        ", ".join(f"{name} {type_name}" for name, type_name in carrier_monthly.columns.items()),
    )
    assert_df_equality(carrier_monthly(flights), expected, ignore_nullable=True, ignore_row_order=True)
