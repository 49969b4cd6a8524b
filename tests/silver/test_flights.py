import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from bronze.flights import flights as bronze_flights
from lakehouse.definitions.validation import find_problems
from silver.flights import flights
from tests.wide_tables import side_by_side

SCHEMA = ", ".join(f"{name} {type_name}" for name, type_name in flights.columns.items())
ORDINARY = {
    "year": "2013",
    "month": "1",
    "day": "1",
    "dep_time": "517",
    "sched_dep_time": "515",
    "dep_delay": "2",
    "arr_time": "830",
    "sched_arr_time": "819",
    "arr_delay": "11",
    "carrier": "UA",
    "flight": "1545",
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "air_time": "227",
    "distance": "1400",
    "hour": "5",
    "minute": "15",
    "time_hour": "2013-01-01T10:00:00Z",
}


@pytest.fixture
def airports(frame):
    return frame("""
        faa | name    | tzone
        IAH | Houston | America/Chicago
        LAX | LA      | America/Los_Angeles
        PBI | Palm B  | America/New_York
        LGA | LGuard  | America/New_York
        EEN | Keene   | -
    """)


@pytest.fixture
def make_flights(landed, airports):
    """Return a function that builds the table from ordinary flights with the given cells, and selects columns."""

    def make(text, columns):
        return flights(landed(bronze_flights, text, **ORDINARY), airports).select(*columns)

    return make


def test_declaration_has_no_problems():
    assert find_problems(flights) == []


def test_departed_diverted_and_cancelled_flights(landed, frame, airports):
    rows = landed(
        bronze_flights,
        """
        _row | flight | tailnum | dep_time | dep_delay | arr_time | arr_delay | air_time
        1    | 1545   | N14228  | 517      | 2         | 830      | 11        | 227
        2    | 1546   | N14229  | 520      | 5         | 1907     | NA        | NA
        3    | 1547   | N14230  | 520      | 5         | NA       | NA        | NA
        4    | 1548   | NA      | NA       | NA        | NA       | NA        | NA
        """,
        **{k: v for k, v in ORDINARY.items() if k not in ("flight", "tailnum")},
    )
    expected = frame(
        side_by_side(
            """
            flight_date | carrier | flight | origin | dest | tailnum | sched_dep_utc
            2013-01-01  | UA      | 1545   | EWR    | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 1546   | EWR    | IAH  | N14229  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 1547   | EWR    | IAH  | N14230  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 1548   | EWR    | IAH  | -       | 2013-01-01 10:15:00
            """,
            """
            sched_arr_utc       | dep_utc             | arr_utc             | dep_delay_min
            2013-01-01 14:19:00 | 2013-01-01 10:17:00 | 2013-01-01 14:30:00 | 2
            2013-01-01 14:19:00 | 2013-01-01 10:20:00 | -                   | 5
            2013-01-01 14:19:00 | 2013-01-01 10:20:00 | -                   | 5
            2013-01-01 14:19:00 | -                   | -                   | -
            """,
            """
            arr_delay_min | air_time_min | distance_mi | cancelled | _unparsed | _file_id | _row
            11            | 227          | 1400        | false     | []        | 1        | 1
            -             | -            | 1400        | false     | []        | 1        | 2
            -             | -            | 1400        | false     | []        | 1        | 3
            -             | -            | 1400        | true      | []        | 1        | 4
            """,
        ),
        f"{SCHEMA}, _unparsed array<string>, _file_id bigint, _row bigint",
    )
    assert_df_equality(flights(rows, airports), expected, ignore_nullable=True, ignore_row_order=True)


def test_times_cross_midnight(make_flights, frame):
    expected = frame(
        """
        flight | flight_date | sched_dep_utc       | dep_utc             | sched_arr_utc       | arr_utc
        1      | 2013-01-31  | 2013-02-01 04:59:00 | 2013-02-01 05:30:00 | 2013-02-01 08:10:00 | 2013-02-01 08:20:00
        2      | 2013-01-31  | 2013-02-01 05:00:00 | 2013-02-01 04:58:00 | 2013-02-01 06:00:00 | 2013-02-01 05:55:00
        3      | 2013-01-31  | 2013-02-01 02:00:00 | 2013-02-01 02:00:00 | 2013-02-01 05:00:00 | 2013-02-01 04:59:00
        """,
        "flight int, flight_date date, sched_dep_utc timestamp, dep_utc timestamp, sched_arr_utc timestamp, "
        "arr_utc timestamp",
    )
    rows = """
        flight | month | day | sched_dep_time | time_hour            | dep_delay | dest | sched_arr_time | arr_delay
        1      | 1     | 31  | 2359           | 2013-02-01T04:00:00Z | 31        | IAH  | 210            | 10
        2      | 1     | 31  | 2400           | 2013-02-01T05:00:00Z | -2        | LGA  | 100            | -5
        3      | 1     | 31  | 2100           | 2013-02-01T02:00:00Z | 0         | PBI  | 2400           | -1
    """
    assert_df_equality(make_flights(rows, expected.columns), expected, ignore_nullable=True, ignore_row_order=True)


def test_clocks_go_forward_in_march(make_flights, frame):
    """New York skips 2 to 3 on 10 March 2013. The file's clock for flight 1 is 203, which did not exist."""
    expected = frame(
        """
        flight | sched_dep_utc       | sched_arr_utc       | arr_utc
        1      | 2013-03-10 02:45:00 | 2013-03-10 05:34:00 | 2013-03-10 07:03:00
        2      | 2013-03-10 06:59:00 | 2013-03-10 08:10:00 | 2013-03-10 08:10:00
        3      | 2013-03-10 07:00:00 | 2013-03-10 09:00:00 | 2013-03-10 09:00:00
        """,
        "flight int, sched_dep_utc timestamp, sched_arr_utc timestamp, arr_utc timestamp",
    )
    rows = """
        flight | month | day | sched_dep_time | time_hour            | dest | sched_arr_time | arr_delay
        1      | 3     | 9   | 2145           | 2013-03-10T02:00:00Z | PBI  | 34             | 89
        2      | 3     | 10  | 159            | 2013-03-10T06:00:00Z | PBI  | 410            | 0
        3      | 3     | 10  | 300            | 2013-03-10T07:00:00Z | LAX  | 100            | 0
    """
    assert_df_equality(make_flights(rows, expected.columns), expected, ignore_nullable=True, ignore_row_order=True)


def test_time_hour_distinguishes_the_repeated_hour(make_flights, frame):
    expected = frame(
        """
        flight | sched_dep_utc       | sched_arr_utc
        1      | 2013-11-03 05:30:00 | 2013-11-03 08:00:00
        2      | 2013-11-03 06:30:00 | 2013-11-03 08:00:00
        3      | 2013-11-03 06:10:00 | 2013-11-03 06:50:00
        4      | 2013-11-04 02:40:00 | 2013-11-04 05:40:00
        """,
        "flight int, sched_dep_utc timestamp, sched_arr_utc timestamp",
    )
    rows = """
        flight | month | day | sched_dep_time | time_hour            | dest | sched_arr_time
        1      | 11    | 3   | 130            | 2013-11-03T05:00:00Z | PBI  | 300
        2      | 11    | 3   | 130            | 2013-11-03T06:00:00Z | PBI  | 300
        3      | 11    | 3   | 110            | 2013-11-03T06:00:00Z | PBI  | 150
        4      | 11    | 3   | 2140           | 2013-11-04T02:00:00Z | PBI  | 40
    """
    assert_df_equality(make_flights(rows, expected.columns), expected, ignore_nullable=True, ignore_row_order=True)


def test_arrival_clock_is_local_to_the_destination(make_flights, frame):
    """SJU, in Puerto Rico, is missing in the airports file. EEN has no zone there, and XYZ is unknown."""
    expected = frame(
        """
        dest | sched_arr_utc       | arr_utc             | cancelled | _unparsed
        IAH  | 2013-01-01 14:19:00 | 2013-01-01 14:30:00 | false     | []
        LAX  | 2013-01-01 16:19:00 | 2013-01-01 16:30:00 | false     | []
        PBI  | 2013-01-01 13:19:00 | 2013-01-01 13:30:00 | false     | []
        SJU  | 2013-01-01 12:19:00 | 2013-01-01 12:30:00 | false     | []
        EEN  | -                   | -                   | false     | []
        XYZ  | -                   | -                   | false     | []
        """,
        "dest string, sched_arr_utc timestamp, arr_utc timestamp, cancelled boolean, _unparsed array<string>",
    )
    rows = "\n".join(["dest", "IAH", "LAX", "PBI", "SJU", "EEN", "XYZ"])
    assert_df_equality(make_flights(rows, expected.columns), expected, ignore_nullable=True, ignore_row_order=True)


GARBAGE = [
    ("year", "two", ["year"]),
    ("year", "999999", ["day"]),
    ("month", "13", ["day"]),
    ("day", "32", ["day"]),
    ("day", "", []),
    ("dep_time", "5:17", ["dep_time"]),
    ("dep_time", "2575", ["dep_time"]),
    ("sched_dep_time", "575", ["sched_dep_time"]),
    ("sched_dep_time", "-515", ["sched_dep_time"]),
    ("sched_dep_time", "2147483647", ["sched_dep_time"]),
    ("sched_arr_time", "2401", ["sched_arr_time"]),
    ("sched_arr_time", "8.19", ["sched_arr_time"]),
    ("dep_delay", "99999999999", ["dep_delay"]),
    ("arr_delay", "eleven", ["arr_delay"]),
    ("flight", "UA1545", ["flight"]),
    ("air_time", "NaN", ["air_time"]),
    ("distance", "1,400", ["distance"]),
    ("arr_time", "830 UA", ["arr_time"]),
    ("hour", "x", ["hour"]),
    ("minute", "x", ["minute"]),
    ("time_hour", "yesterday", ["time_hour"]),
    ("time_hour", "2013-01-01T09:00:00Z", ["time_hour"]),
    ("time_hour", "2013-01-01T10:30:00Z", ["time_hour"]),
    ("time_hour", "10:00", ["time_hour"]),
    ("time_hour", "+294247-01-10T04:00:54Z", ["time_hour"]),
]


def test_garbage_is_named_and_never_raises(landed, airports):
    rows = [
        " | ".join(value if column == name else ORDINARY[column] for column in ORDINARY) + f" | {i}"
        for i, (name, value, _) in enumerate(GARBAGE)
    ]
    result = flights(landed(bronze_flights, "\n".join([" | ".join([*ORDINARY, "_row"]), *rows])), airports)
    names_of = {GARBAGE[row["_row"]][:2]: row["_unparsed"] for row in result.select("_row", "_unparsed").collect()}
    assert names_of == {(name, value): names for name, value, names in GARBAGE}


def test_absurd_delay_shifts_nothing(make_flights, frame):
    expected = frame(
        """
        dep_delay_min | dep_utc | arr_delay_min | arr_utc
        2147483647    | -       | -2147483648   | -
        """,
        "dep_delay_min int, dep_utc timestamp, arr_delay_min int, arr_utc timestamp",
    )
    rows = """
        dep_delay  | arr_delay
        2147483647 | -2147483648
    """
    assert_df_equality(make_flights(rows, expected.columns), expected, ignore_nullable=True)


def test_rules(frame, violated_rules_of):
    rows = frame(
        side_by_side(
            """
            flight_date | carrier | flight | origin | dest | tailnum | sched_dep_utc
            2013-01-01  | UA      | 1      | EWR    | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 2      | EWR    | IAH  | -       | 2013-01-01 10:15:00
            2013-01-01  | UA      | 3      | PHL    | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 4      | -      | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 5      | LGA    | IAH  | -       | 2013-01-01 10:15:00
            2013-01-01  | UA      | 6      | JFK    | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 7      | JFK    | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UAL     | 8      | JFK    | IAH  | N14228  | 2013-01-01 10:15:00
            2013-01-01  | UA      | 9      | JFK    | KIAH | N14228  | 2013-01-01 10:15:00
            """,
            """
            sched_arr_utc       | dep_utc             | arr_utc
            2013-01-01 14:19:00 | 2013-01-01 10:17:00 | 2013-01-01 14:30:00
            2013-01-01 14:19:00 | -                   | -
            2013-01-01 14:19:00 | 2013-01-01 10:17:00 | -
            2013-01-01 10:15:00 | -                   | -
            -                   | -                   | -
            2013-01-01 14:19:00 | 2013-01-01 14:30:00 | 2013-01-01 14:30:00
            2013-01-01 14:19:00 | -                   | -
            2013-01-01 14:19:00 | 2013-01-01 10:17:00 | 2013-01-01 14:30:00
            2013-01-01 14:19:00 | 2013-01-01 10:17:00 | 2013-01-01 14:30:00
            """,
            """
            dep_delay_min | arr_delay_min | air_time_min | distance_mi | cancelled
            2             | 11            | 227          | 1400        | false
            -             | -             | -            | 1400        | true
            2             | -             | 0            | 0           | false
            4321          | -361          | -            | -           | false
            -             | -             | -            | 1400        | false
            255           | 11            | 5            | 1400        | false
            -             | -             | 5            | 1400        | true
            2             | 11            | 227          | 1400        | false
            2             | 11            | 227          | 1400        | false
            """,
        ),
        SCHEMA,
    )
    assert violated_rules_of(flights, rows.orderBy("flight")) == [
        [],
        [],
        ["origin_is_new_york", "distance_is_positive", "air_time_is_positive"],
        [
            "origin_is_new_york",
            "distance_is_positive",
            "departure_delay_is_plausible",
            "arrival_delay_is_plausible",
            "scheduled_arrival_follows_departure",
        ],
        ["departure_has_a_delay", "departed_aircraft_is_named", "scheduled_arrival_is_known"],
        ["arrival_follows_departure"],
        ["cancelled_flight_has_no_arrival"],
        ["codes_have_their_length"],
        ["codes_have_their_length"],
    ]


def test_rows_merged_by_quotes_violate_a_rule(landed, airports, violated_rules_of):
    rows = landed(bronze_flights, "flight\n1", **ORDINARY).withColumn(
        "tailnum", F.lit("N14228,EWR,IAH\n2013,1,1,N24211")
    )
    assert violated_rules_of(flights, flights(rows, airports)) == [["codes_have_their_length"]]


def test_join_keeps_every_row(landed, airports):
    rows = landed(bronze_flights, "dest\nIAH\nIAH\nXYZ\nNA\n-", **ORDINARY)
    assert flights(rows, airports.unionByName(airports.withColumn("faa", F.lit(None)))).count() == 5
