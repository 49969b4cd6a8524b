from chispa import assert_df_equality

from bronze.weather import weather as bronze_weather
from lakehouse.definitions.validation import find_problems
from silver.weather import weather
from tests.wide_tables import side_by_side

COLUMNS = ", ".join(f"{name} {type_name}" for name, type_name in weather.columns.items())
SCHEMA = f"{COLUMNS}, _unparsed array<string>, _file_id bigint, _row bigint"


def test_declaration_has_no_problems():
    assert find_problems(weather) == []


def test_values_are_parsed_and_na_is_null(landed, frame):
    rows = landed(
        bronze_weather,
        side_by_side(
            """
            _row | origin | year | month | day | hour | temp  | dewp  | humid | wind_dir
            1    | EWR    | 2013 | 1     | 1   | 1    | 39.02 | 26.06 | 59.37 | 270
            2    | JFK    | 2013 | 1     | 1   | 20   | NA    | NA    | NA    | NA
            """,
            """
            wind_speed | wind_gust | precip | pressure | visib | time_hour
            10.35702   | 23.0      | 1e-2   | 1012     | 10    | 2013-01-01T06:00:00Z
            NA         | NA        | NA     | NA       | NA    | 2013-01-02T01:00:00Z
            """,
        ),
    )
    expected = frame(
        side_by_side(
            """
            origin | observed_at         | weather_date | temp_f | dewp_f | humid_pct | wind_dir_deg
            EWR    | 2013-01-01 06:00:00 | 2013-01-01   | 39.02  | 26.06  | 59.37     | 270
            JFK    | 2013-01-02 01:00:00 | 2013-01-01   | -      | -      | -         | -
            """,
            """
            wind_speed_mph | wind_gust_mph | precip_in | pressure_mb | visib_mi | _unparsed | _file_id | _row
            10.35702       | 23.0          | 0.01      | 1012        | 10       | []        | 1        | 1
            -              | -             | -         | -           | -        | []        | 1        | 2
            """,
        ),
        SCHEMA,
    )
    assert_df_equality(weather(rows), expected, ignore_nullable=True, ignore_row_order=True)


def test_repeated_hour_is_two_observations(landed, frame):
    rows = landed(
        bronze_weather,
        """
        hour | time_hour
        1    | 2013-11-03T05:00:00Z
        1    | 2013-11-03T06:00:00Z
        23   | 2013-11-04T04:00:00Z
        """,
        origin="EWR",
        year="2013",
        month="11",
        day="3",
    )
    expected = frame(
        """
        observed_at         | weather_date | _unparsed
        2013-11-03 05:00:00 | 2013-11-03   | []
        2013-11-03 06:00:00 | 2013-11-03   | []
        2013-11-04 04:00:00 | 2013-11-03   | []
        """,
        "observed_at timestamp, weather_date date, _unparsed array<string>",
    )
    assert_df_equality(weather(rows).select(*expected.columns), expected, ignore_nullable=True, ignore_row_order=True)


def test_garbage_is_named_and_never_raises(landed, frame):
    rows = landed(
        bronze_weather,
        """
        _row | month | day | hour       | temp | time_hour
        1    | 2     | 30  | 1          | 39   | 2013-03-02T06:00:00Z
        2    | 1     | 1   | 2147483647 | 39   | 2013-01-01T06:00:00Z
        3    | 1     | 1   | 2          | 39   | 2013-01-01T06:00:00Z
        4    | 1     | 1   | 1          | warm | 2013-01-01T06:00:00Z
        5    | 1     | 1   | one        | 39   | 2013-01-01T06:00:00Z
        6    | 1     | 1   | 1          | 39   | NA
        """,
        origin="EWR",
        year="2013",
    )
    expected = frame(
        """
        _row | observed_at         | weather_date | temp_f | _unparsed
        1    | -                   | -            | 39     | ["day"]
        2    | -                   | 2013-01-01   | 39     | ["hour"]
        3    | -                   | 2013-01-01   | 39     | ["time_hour"]
        4    | 2013-01-01 06:00:00 | 2013-01-01   | -      | ["temp"]
        5    | -                   | 2013-01-01   | 39     | ["hour"]
        6    | -                   | 2013-01-01   | 39     | []
        """,
        "_row bigint, observed_at timestamp, weather_date date, temp_f double, _unparsed array<string>",
    )
    assert_df_equality(weather(rows).select(*expected.columns), expected, ignore_nullable=True, ignore_row_order=True)


def test_rules(frame, violated_rules_of):
    rows = frame(
        side_by_side(
            """
            origin | observed_at         | weather_date | temp_f | dewp_f | humid_pct
            EWR    | 2013-01-01 06:00:00 | 2013-01-01   | 39.02  | 26.06  | 59.37
            JFK    | 2013-01-01 07:00:00 | 2013-01-01   | -      | -      | -
            EWR    | 2013-01-01 08:00:00 | 2013-01-01   | 39.02  | 26.06  | 59.37
            PHL    | 2013-01-01 09:00:00 | 2013-01-01   | 400    | -200   | 101
            """,
            """
            wind_dir_deg | wind_speed_mph | wind_gust_mph | precip_in | pressure_mb | visib_mi
            270          | 10.35702       | -             | 0         | 1012        | 10
            -            | -              | -             | -         | -           | -
            260          | 1048.36        | -             | 0         | 1008        | 10
            361          | -1             | 300           | -0.1      | 2.5         | NaN
            """,
        ),
        COLUMNS,
    )
    assert violated_rules_of(weather, rows.orderBy("observed_at")) == [
        [],
        [],
        ["wind_speed_is_plausible"],
        [rule.name for rule in weather.rules],
    ]
