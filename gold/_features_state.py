"""State of airports, routes and weather over time, as small tables for joins with flights.

Times are minutes since 1970 in UTC. A bin is half an hour. `bin` in these tables is the bin of a flight's cut-off, and
all counted events happened before that bin began.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from flights.keys import LATE_MINUTES

# The cut-off is this long before the scheduled departure. Features use no later information.
CUTOFF_MIN = 120
BIN_MIN = 30
# Windows for departures and landings.
DEPARTURES_SHORT_MIN, DEPARTURES_LONG_MIN, ARRIVALS_MIN = 60, 180, 360
# A flight that has not left counts as overdue for this long. After that it may have been cancelled.
LONGEST_OVERDUE_MIN = 4 * 60
# Events later than this after the scheduled departure are not counted. This bounds the lookback.
LATEST_EVENT_MIN = 14 * 60
# Means cap delays at this value.
LONGEST_DELAY_MIN = 180
# Edges of the distance bands: flights of similar length have similar winds.
BAND_EDGES_MI = (300, 600, 900, 1300, 2000)
# A day's summary is computed at 05:00 UTC on the next day: midnight or one o'clock in New York.
DAY_START_MIN = 5 * 60
DAY_MIN = 24 * 60
# An observation is valid for this many hours, unless there is a newer one.
WEATHER_HOURS = 6
WEATHER = (
    "temp_f",
    "dewp_f",
    "humid_pct",
    "wind_dir_deg",
    "wind_speed_mph",
    "wind_gust_mph",
    "precip_in",
    "pressure_mb",
    "visib_mi",
)
ORIGIN_COUNTS = ("scheduled", "departures", "dep_delay", "dep_late", "settled", "arrivals", "arr_delay", "enroute")
BAND_COUNTS = ("arrivals", "arr_delay", "enroute")


def minutes(moment: str) -> Column:
    """Return the minutes since 1970 in UTC."""
    return F.floor(F.unix_seconds(moment) / 60)


def day_start(date: Column) -> Column:
    """Return the minute at which the previous day's summary is computed."""
    return F.unix_date(date).cast("bigint") * DAY_MIN + DAY_START_MIN


def bin_number(minute: Column) -> Column:
    return F.floor(minute / BIN_MIN)


def band(distance_mi: Column) -> Column:
    """Return the number of the flight's distance band."""
    return sum((F.when(distance_mi >= edge, 1).otherwise(0) for edge in BAND_EDGES_MI), F.lit(0))


def origins(flights: DataFrame) -> DataFrame:
    """Return one row per origin and bin: the schedule and the events before the bin."""
    board = _board(
        flights, "origin", ORIGIN_COUNTS, _schedule_event(), _departure_event(), _cancellation_event(), _landing_event()
    )
    short, long, landed = (_last(span, "origin") for span in (DEPARTURES_SHORT_MIN, DEPARTURES_LONG_MIN, ARRIVALS_MIN))
    # A departure counts as scheduled in the bin of its cut-off, four bins before its own.
    own_half_hour, not_due = _bins("origin", -1), _bins("origin", -(CUTOFF_MIN // BIN_MIN))
    so_far = _bins("origin", None)
    due = F.sum("scheduled").over(so_far) - F.sum("scheduled").over(not_due)
    overdue = due - _before("settled", so_far)
    return board.select(
        "origin",
        "bin",
        F.sum("scheduled").over(own_half_hour).cast("int").alias("origin_scheduled"),
        overdue.cast("int").alias("origin_overdue"),
        _count("departures", short).alias("origin_departures_1h"),
        _mean("dep_delay", "departures", short).alias("origin_dep_delay_1h"),
        _count("departures", long).alias("origin_departures_3h"),
        _mean("dep_delay", "departures", long).alias("origin_dep_delay_3h"),
        _mean("dep_late", "departures", long).alias("origin_dep_late_3h"),
        _mean("arr_delay", "arrivals", landed).alias("origin_arr_delay_6h"),
        _mean("enroute", "arrivals", landed).alias("origin_enroute_6h"),
    )


def bands(flights: DataFrame) -> DataFrame:
    """Return one row per distance band and bin: the delays of landed flights from all origins."""
    board = _board(flights, "band", BAND_COUNTS, _schedule_event(), _landing_event())
    landed = _last(ARRIVALS_MIN, "band")
    return board.select(
        "band",
        "bin",
        _count("arrivals", landed).alias("band_arrivals_6h"),
        _mean("arr_delay", "arrivals", landed).alias("band_arr_delay_6h"),
        _mean("enroute", "arrivals", landed).alias("band_enroute_6h"),
    )


def previous_days(flights: DataFrame) -> DataFrame:
    """Return one row per destination and day: the previous day's flights that had landed by the day's start."""
    following = F.date_add("flight_date", 1)
    return (
        flights.filter(F.col("arr") < day_start(following))
        .groupBy("dest", following.alias("flight_date"))
        .agg(
            F.count("*").cast("int").alias("dest_arrivals_1d"),
            F.avg(_cap_delay("arr_delay_min")).alias("dest_arr_delay_1d"),
            F.avg("enroute").alias("dest_enroute_1d"),
        )
    )


def observations(weather: DataFrame) -> DataFrame:
    """Return one row per origin and hour: the last observation at or before the start of the hour."""
    hour = F.ceil(minutes("observed_at") / 60)
    newer = F.lead("first").over(Window.partitionBy("origin").orderBy("observed"))
    return (
        weather.select("origin", minutes("observed_at").alias("observed"), hour.alias("first"), *WEATHER)
        .withColumn("last", F.least(newer - 1, F.col("first") + WEATHER_HOURS - 1))
        .filter("last >= first")
        .select("origin", F.explode(F.sequence("first", "last")).alias("hour"), "observed", *WEATHER)
    )


# The bin of an event (null if it did not happen), and its increments of the counts.
Event = tuple[Column, dict[str, Column]]


def _schedule_event() -> Event:
    return bin_number(F.col("cutoff")), {"scheduled": F.lit(1)}


def _departure_event() -> Event:
    """Return the departure event. An early departure is counted at its scheduled time."""
    is_counted = F.col("dep") - F.col("sched_dep") <= LATEST_EVENT_MIN
    return F.when(is_counted, bin_number(F.greatest("dep", "sched_dep"))), {
        "departures": F.lit(1),
        "dep_delay": _cap_delay("dep_delay_min"),
        "dep_late": (F.col("dep_delay_min") >= LATE_MINUTES).cast("int"),
        "settled": _has_left_overdue().cast("int"),
    }


def _cancellation_event() -> Event:
    return F.when(~_has_left_overdue(), bin_number(_longest_overdue())), {"settled": F.lit(1)}


def _has_left_overdue() -> Column:
    return F.coalesce(F.col("dep") <= _longest_overdue(), F.lit(False))


def _landing_event() -> Event:
    is_counted = F.col("arr") - F.col("sched_dep") <= LATEST_EVENT_MIN
    return F.when(is_counted, bin_number(F.col("arr"))), {
        "arrivals": F.lit(1),
        "arr_delay": _cap_delay("arr_delay_min"),
        "enroute": F.col("enroute"),
    }


def _longest_overdue() -> Column:
    return F.col("sched_dep") + LONGEST_OVERDUE_MIN


def _cap_delay(delay_min: str) -> Column:
    return F.least(F.col(delay_min), F.lit(LONGEST_DELAY_MIN))


def _board(flights: DataFrame, by: str, counts: tuple[str, ...], *events: Event) -> DataFrame:
    """Return one row per value of a column and bin, with the sums of the events' increments."""
    rows = [
        F.struct(event_bin.alias("bin"), *[increments.get(name, F.lit(0)).cast("int").alias(name) for name in counts])
        for event_bin, increments in events
    ]
    return (
        flights.select(by, F.explode(F.array(*rows)).alias("event"))
        .filter(F.col("event.bin").isNotNull())
        .groupBy(by, F.col("event.bin").alias("bin"))
        .agg(*[F.sum(f"event.{name}").alias(name) for name in counts])
    )


def _bins(by: str, first: int | None) -> WindowSpec:
    """Return the window of bins from ``first`` (all if None) to the row's own, relative to it."""
    window = Window.partitionBy(by).orderBy("bin")
    return window.rangeBetween(Window.unboundedPreceding if first is None else first, Window.currentRow)


def _last(span_min: int, by: str) -> WindowSpec:
    return _bins(by, -(span_min // BIN_MIN))


def _before(name: str, bins: WindowSpec) -> Column:
    """Return the sum over the bins before the row's own.

    A GPU's windows cannot end before the row, so its own value is subtracted. This is exact for integers.
    """
    return F.sum(name).over(bins) - F.col(name)


def _count(name: str, bins: WindowSpec) -> Column:
    return _before(name, bins).cast("int")


def _mean(total: str, count: str, bins: WindowSpec) -> Column:
    """Return the mean; null without counted events."""
    return _before(total, bins) / F.nullif(_before(count, bins), F.lit(0))
