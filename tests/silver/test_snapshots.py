"""Tests of the tables with full snapshots: planes, airports and airlines."""

import pytest
from chispa import assert_df_equality

from bronze.airlines import airlines as bronze_airlines
from bronze.airports import airports as bronze_airports
from bronze.planes import planes as bronze_planes
from lakehouse.definitions.validation import find_problems
from silver.airlines import airlines
from silver.airports import airports
from silver.planes import planes
from tests.wide_tables import side_by_side


def columns_of(table):
    return ", ".join(f"{name} {type_name}" for name, type_name in table.columns.items())


def schema_of(table):
    return f"{columns_of(table)}, _unparsed array<string>, _file_id bigint, _row bigint"


@pytest.mark.parametrize("table", [planes, airports, airlines], ids=lambda table: table.name)
def test_declaration_has_no_problems(table):
    assert find_problems(table) == []


def test_planes(landed, frame):
    rows = landed(
        bronze_planes,
        """
        _row | tailnum | year | type                    | manufacturer | model     | engines | seats | speed | engine
        1    | N10156  | 2004 | Fixed wing multi engine | EMBRAER      | EMB-145XR | 2       | 55    | NA    | Turbo-fan
        2    | N201AA  | NA   | Rotorcraft              | CESSNA       | 150       | 1       | 2     | 90    | 4 Cycle
        3    | NA      | old  | NA                      | NA           | NA        | 2.5     | many  | fast  | NA
        """,
        _source_file="planes/planes_2013-01-01.csv",
    )
    expected = frame(
        side_by_side(
            """
            tailnum | year_built | type                    | manufacturer | model     | engines | seats
            N10156  | 2004       | Fixed wing multi engine | EMBRAER      | EMB-145XR | 2       | 55
            N201AA  | -          | Rotorcraft              | CESSNA       | 150       | 1       | 2
            -       | -          | -                       | -            | -         | -       | -
            """,
            """
            speed_mph | engine    | snapshot_date | _unparsed                             | _file_id | _row
            -         | Turbo-fan | 2013-01-01    | []                                    | 1        | 1
            90        | 4 Cycle   | 2013-01-01    | []                                    | 1        | 2
            -         | -         | 2013-01-01    | ["year", "engines", "seats", "speed"] | 1        | 3
            """,
        ),
        schema_of(planes),
    )
    assert_df_equality(planes(rows), expected, ignore_nullable=True, ignore_row_order=True)


def test_airports(landed, frame):
    rows = landed(
        bronze_airports,
        r"""
        _row | faa | name                | lat       | lon        | alt | tz  | dst | tzone
        1    | MVY | Martha\\'s Vineyard | 41.391667 | -70.615278 | 67  | -5  | A   | America/New_York
        2    | YAK | Yakutat             | 59.3012   | -139.3937  | 33  | -9  | A   | NA
        3    | XXX | Nowhere             | north     | west       | 0   | 5.5 | N   | Mars/Olympus_Mons
        """,
        _source_file="airports/airports_2013-01-01.csv",
    )
    expected = frame(
        side_by_side(
            """
            faa | name              | lat       | lon        | alt_ft | utc_offset_h | dst
            MVY | Martha's Vineyard | 41.391667 | -70.615278 | 67     | -5           | A
            YAK | Yakutat           | 59.3012   | -139.3937  | 33     | -9           | A
            XXX | Nowhere           | -         | -          | 0      | 5.5          | N
            """,
            """
            tzone            | snapshot_date | _unparsed               | _file_id | _row
            America/New_York | 2013-01-01    | []                      | 1        | 1
            -                | 2013-01-01    | []                      | 1        | 2
            -                | 2013-01-01    | ["lat", "lon", "tzone"] | 1        | 3
            """,
        ),
        schema_of(airports),
    )
    assert_df_equality(airports(rows), expected, ignore_nullable=True, ignore_row_order=True)


def test_airlines_and_a_snapshot_without_a_date(landed, frame):
    rows = landed(
        bronze_airlines,
        """
        _row | carrier | name              | _source_file
        1    | 9E      | Endeavor Air Inc. | airlines/airlines_2013-01-01.csv
        2    | NA      | Nobody            | airlines/airlines.csv
        """,
    )
    expected = frame(
        """
        carrier | name              | snapshot_date | _file_id | _row
        9E      | Endeavor Air Inc. | 2013-01-01    | 1        | 1
        -       | Nobody            | -             | 1        | 2
        """,
        f"{columns_of(airlines)}, _file_id bigint, _row bigint",
    )
    assert_df_equality(airlines(rows), expected, ignore_nullable=True, ignore_row_order=True)


def test_rules_of_planes(frame, violated_rules_of):
    rows = frame(
        """
        tailnum | year_built | type | manufacturer | model | engines | seats | speed_mph | engine | snapshot_date
        N1      | 2004       | -    | -            | -     | 2       | 55    | -         | -      | 2013-01-01
        N2      | -          | -    | -            | -     | -       | -     | 90        | -      | 2013-01-01
        N3      | 2015       | -    | -            | -     | 0       | 0     | 0         | -      | 2013-01-01
        N4      | -          | -    | -            | -     | -       | -     | -         | -      | -
        """,
        columns_of(planes),
    )
    assert violated_rules_of(planes, rows.orderBy("tailnum")) == [
        [],
        [],
        ["engines_are_plausible", "seats_are_plausible", "speed_is_plausible", "build_year_is_plausible"],
        ["snapshot_is_dated"],
    ]


def test_rules_of_airports(frame, violated_rules_of):
    rows = frame(
        """
        faa | name | lat | lon  | alt_ft | utc_offset_h | dst | tzone | snapshot_date
        A   | A    | 90  | -180 | -54    | -10          | A   | -     | 2013-01-01
        B   | B    | -   | 181  | 30000  | 25           | A   | -     | -
        """,
        columns_of(airports),
    )
    assert violated_rules_of(airports, rows.orderBy("faa")) == [[], [rule.name for rule in airports.rules]]


def test_rules_of_airlines(frame, violated_rules_of):
    rows = frame(
        """
        carrier   | name     | snapshot_date
        9E        | Endeavor | 2013-01-01
        Endeavor  | -        | -
        """,
        columns_of(airlines),
    )
    assert violated_rules_of(airlines, rows.orderBy("carrier")) == [[], [rule.name for rule in airlines.rules]]
