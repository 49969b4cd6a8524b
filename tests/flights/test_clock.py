from chispa import assert_df_equality
from pyspark.sql import functions as F

from flights.clock import (
    as_date,
    confirm_utc,
    known_zone,
    next_wall,
    shift_minutes,
    snapshot_date,
    to_utc_after,
    to_wall_time,
)


def test_only_real_days_are_dates(frame):
    texts = frame("""
        text
        2013-1-1
        2012-02-29
        2013-02-29
        2013-13-1
        0013-01-01
        2013-01-01T10
        99999-01-01
        NA
        -
    """)
    expected = frame(
        """
        text          | date
        2013-1-1      | 2013-01-01
        2012-02-29    | 2012-02-29
        2013-02-29    | -
        2013-13-1     | -
        0013-01-01    | -
        2013-01-01T10 | -
        99999-01-01   | -
        NA            | -
        -             | -
        """,
        "text string, date date",
    )
    assert_df_equality(texts.withColumn("date", as_date(F.col("text"))), expected, ignore_nullable=True)


def test_snapshot_is_dated_by_its_file_name(frame):
    expected = frame(
        """
        _source_file                   | date
        planes/planes_2013-01-01.csv   | 2013-01-01
        a_2012-01-01/x_2013-06-30.csv  | 2013-06-30
        planes/planes_2013-02-30.csv   | -
        planes/planes.csv              | -
        """,
        "_source_file string, date date",
    )
    assert_df_equality(expected.withColumn("date", snapshot_date()), expected, ignore_nullable=True)


def test_wall_time_needs_a_clock_that_exists(frame):
    expected = frame(
        """
        clock | wall
        0     | 2013-12-31 00:00:00
        1     | 2013-12-31 00:01:00
        517   | 2013-12-31 05:17:00
        2359  | 2013-12-31 23:59:00
        2400  | 2014-01-01 00:00:00
        2401  | -
        575   | -
        -5    | -
        -     | -
        """,
        "clock int, wall timestamp",
    )
    date = F.lit("2013-12-31").cast("date")
    assert_df_equality(expected.withColumn("wall", to_wall_time(date, F.col("clock"))), expected, ignore_nullable=True)


def test_moment_is_confirmed_by_its_wall_time(frame):
    expected = frame(
        """
        moment               | wall                | confirmed
        2013-11-03 05:00:00  | 2013-11-03 01:00:00 | 2013-11-03 05:00:00
        2013-11-03 06:00:00  | 2013-11-03 01:00:00 | 2013-11-03 06:00:00
        2013-11-03 07:00:00  | 2013-11-03 01:00:00 | -
        2013-03-10 07:00:00  | 2013-03-10 02:00:00 | -
        2013-03-10 07:00:00  | 2013-03-10 03:00:00 | 2013-03-10 07:00:00
        +294247-01-09 04:00:00 | 2013-03-10 03:00:00 | -
        -                    | 2013-03-10 03:00:00 | -
        2013-03-10 07:00:00  | -                   | -
        """,
        "moment timestamp, wall timestamp, confirmed timestamp",
    )
    result = expected.withColumn("confirmed", confirm_utc(F.col("moment"), F.col("wall")))
    # Python has no year 294247.
    assert_df_equality(result.drop("moment"), expected.drop("moment"), ignore_nullable=True)


def test_next_wall_time_is_today_or_tomorrow(frame):
    expected = frame(
        """
        now                 | clock | next
        2013-01-01 23:00:00 | 2301  | 2013-01-01 23:01:00
        2013-01-01 23:00:00 | 2300  | 2013-01-02 23:00:00
        2013-01-01 23:00:00 | 2400  | 2013-01-02 00:00:00
        2013-01-01 23:00:00 | 15    | 2013-01-02 00:15:00
        2013-01-01 23:00:00 | 2515  | -
        -                   | 15    | -
        """,
        "now timestamp, clock int, next timestamp",
    )
    result = expected.withColumn("next", next_wall(F.col("clock"), F.col("now")))
    assert_df_equality(result, expected, ignore_nullable=True)


def test_wall_time_is_utc_after_the_moment(frame):
    expected = frame(
        """
        zone                | moment              | wall                | utc
        America/New_York    | 2013-01-01 10:00:00 | 2013-01-01 08:00:00 | 2013-01-01 13:00:00
        America/Puerto_Rico | 2013-07-01 10:00:00 | 2013-07-01 08:00:00 | 2013-07-01 12:00:00
        America/New_York    | 2013-11-03 04:00:00 | 2013-11-03 01:30:00 | 2013-11-03 05:30:00
        America/New_York    | 2013-11-03 06:10:00 | 2013-11-03 01:30:00 | 2013-11-03 06:30:00
        America/New_York    | 2013-03-10 04:00:00 | 2013-03-10 02:30:00 | 2013-03-10 07:30:00
        -                   | 2013-03-10 04:00:00 | 2013-03-10 02:30:00 | -
        America/New_York    | 2013-03-10 04:00:00 | -                   | -
        """,
        "zone string, moment timestamp, wall timestamp, utc timestamp",
    )
    result = expected.withColumn("utc", to_utc_after(F.col("moment"), F.col("wall"), F.col("zone")))
    assert_df_equality(result, expected, ignore_nullable=True)


def test_shift_beyond_a_week_is_none(frame):
    expected = frame(
        """
        minutes     | moment
        90          | 2013-01-01 01:30:00
        -90         | 2012-12-31 22:30:00
        10080       | 2013-01-08 00:00:00
        10081       | -
        -2147483648 | -
        -           | -
        """,
        "minutes int, moment timestamp",
    )
    start = F.lit("2013-01-01").cast("timestamp")
    assert_df_equality(
        expected.withColumn("moment", shift_minutes(start, F.col("minutes"))), expected, ignore_nullable=True
    )


def test_zone_is_one_that_spark_knows(frame):
    expected = frame(
        """
        name                           | zone
        America/New_York               | America/New_York
        America/Argentina/Buenos_Aires | America/Argentina/Buenos_Aires
        America/Port-au-Prince         | America/Port-au-Prince
        America/Gotham                 | -
        1/2                            | -
        New York                       | -
        -                              | -
        """,
        "name string, zone string",
    )
    assert_df_equality(expected.withColumn("zone", known_zone(F.col("name"))), expected, ignore_nullable=True)
