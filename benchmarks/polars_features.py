"""gold.flight_features in polars: the facts known about each flight two hours before its scheduled departure.

Times are minutes since 1970 in UTC; a bin is half an hour, numbered from there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import holidays
import polars as pl

CUTOFF_MIN = 120
BIN_MIN = 30
LATEST_EVENT_MIN = 14 * 60
LONGEST_OVERDUE_MIN = 4 * 60
LEGS_MIN = 20 * 60
LATE_MIN = 15
LONGEST_DELAY_MIN = 180
BAND_EDGES_MI = (300, 600, 900, 1300, 2000)
WEATHER_HOURS = 6
DAY_MIN = 24 * 60
DAY_START_MIN = 5 * 60
HOLIDAY_YEARS = range(1990, 2051)
NEW_YORK = "America/New_York"
CUTOFF_BINS = CUTOFF_MIN // BIN_MIN

SCHEDULE = (
    "flight_date",
    "carrier",
    "flight",
    "origin",
    "dest",
    "sched_dep_utc",
    "cutoff_utc",
    "late",
    "tailnum",
    "sched_minute",
    "weekday",
    "month",
    "day_of_year",
    "days_since_holiday",
    "days_to_holiday",
    "distance_mi",
    "sched_duration_min",
)
AIRCRAFT = (
    "aircraft_age_years",
    "aircraft_seats",
    "leg_dep_delay_min",
    "leg_slack_min",
    "leg_turn_min",
    "leg_arr_delay_min",
    "leg_landed_min",
)
ORIGINS = (
    "origin_scheduled",
    "origin_overdue",
    "origin_departures_1h",
    "origin_dep_delay_1h",
    "origin_departures_3h",
    "origin_dep_delay_3h",
    "origin_dep_late_3h",
    "origin_arr_delay_6h",
    "origin_enroute_6h",
)
BANDS = ("band_arrivals_6h", "band_arr_delay_6h", "band_enroute_6h")
YESTERDAY = ("dest_arrivals_1d", "dest_arr_delay_1d", "dest_enroute_1d")
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


def flight_features(flights: pl.DataFrame, weather: pl.DataFrame, planes: pl.DataFrame) -> pl.DataFrame:
    timed = _timed(flights)
    day_is_over = pl.col("cutoff") >= _day_start(pl.col("flight_date"))
    return (
        timed.lazy()
        .join(_last_departed(timed), on="row", how="left")
        .join(_last_landed(timed), on="row", how="left")
        .join(_holidays(timed["flight_date"]).lazy(), on="flight_date", how="left")
        .join(_aircraft(timed, planes).lazy(), on=["tailnum", "known_on"], how="left")
        .join(_origins(timed).lazy(), on=["origin", "bin"], how="left")
        .join(_bands(timed).lazy(), on=["band", "bin"], how="left")
        .join(_yesterday(timed).lazy(), on=["dest", "flight_date"], how="left")
        .join(_observations(weather).lazy(), on=["origin", "hour"], how="left")
        .with_columns(
            *[pl.when(day_is_over).then(name).alias(name) for name in YESTERDAY],
            weather_age_min=(pl.col("cutoff") - pl.col("observed")).cast(pl.Int32),
        )
        .select(*SCHEDULE, *AIRCRAFT, *ORIGINS, *BANDS, *YESTERDAY, "weather_age_min", *WEATHER)
        .collect()
    )


def _timed(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the flights with times as minutes, and the features of the schedule."""
    local = pl.col("sched_dep_utc").dt.convert_time_zone(NEW_YORK)
    rows = flights.lazy().select(
        *("flight_date", "carrier", "flight", "origin", "dest", "tailnum", "sched_dep_utc", "distance_mi"),
        *("dep_delay_min", "arr_delay_min"),
        *[_minutes(f"{name}_utc").alias(name) for name in ("sched_dep", "dep", "arr")],
        cutoff=_minutes("sched_dep_utc") - CUTOFF_MIN,
        cutoff_utc=pl.col("sched_dep_utc") - pl.duration(minutes=CUTOFF_MIN),
        known_on=(local - pl.duration(minutes=CUTOFF_MIN)).dt.date(),
        sched_duration_min=(_minutes("sched_arr_utc") - _minutes("sched_dep_utc")).cast(pl.Int32),
        enroute=pl.col("arr_delay_min") - pl.col("dep_delay_min"),
        late=pl.col("arr_delay_min") >= LATE_MIN,
        band=pl.sum_horizontal(*[(pl.col("distance_mi") >= edge).cast(pl.Int32) for edge in BAND_EDGES_MI]),
        sched_minute=local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute(),
        weekday=local.dt.weekday().cast(pl.Int32),
        month=local.dt.month().cast(pl.Int32),
        day_of_year=local.dt.ordinal_day().cast(pl.Int32),
    )
    return (
        rows.with_columns(bin=pl.col("cutoff") // BIN_MIN, hour=(pl.col("cutoff") - 1) // 60)
        .with_row_index("row")
        .collect()
    )


def _minutes(name: str) -> pl.Expr:
    return pl.col(name).dt.epoch("s") // 60


def _day_start(date: pl.Expr) -> pl.Expr:
    """Return the minute at which the counts of the previous day are final."""
    return date.cast(pl.Int32).cast(pl.Int64) * DAY_MIN + DAY_START_MIN


def _capped(delay: str) -> pl.Expr:
    return pl.min_horizontal(delay, pl.lit(LONGEST_DELAY_MIN))


def _holidays(dates: pl.Series) -> pl.DataFrame:
    years = range(HOLIDAY_YEARS.start - 1, HOLIDAY_YEARS.stop + 1)
    days = sorted(holidays.country_holidays("US", years=years, observed=False))
    dates = dates.unique()
    since = [(day - days[bisect_right(days, day) - 1]).days for day in dates]
    until = [(days[bisect_left(days, day)] - day).days for day in dates]
    columns = {"flight_date": dates, "days_since_holiday": since, "days_to_holiday": until}
    return pl.DataFrame(columns, schema_overrides={"days_since_holiday": pl.Int32, "days_to_holiday": pl.Int32})


def _aircraft(timed: pl.DataFrame, planes: pl.DataFrame) -> pl.DataFrame:
    """Return the registered facts of each aircraft on each day of a cut-off."""
    versions = planes.select("tailnum", "year_built", "seats", "valid_from", "valid_to")
    on = pl.col("known_on")
    return (
        timed.select("tailnum", "known_on")
        .unique()
        .join(versions, on="tailnum")
        .filter(pl.col("valid_from") <= on, pl.col("valid_to").is_null() | (pl.col("valid_to") > on))
        .select("tailnum", "known_on", aircraft_seats="seats", aircraft_age_years=on.dt.year() - pl.col("year_built"))
    )


# --- the aircraft's legs --------------------------------------------------------------------------------------------


def _last_departed(timed: pl.DataFrame) -> pl.LazyFrame:
    """Return, by row of the flight, the aircraft's last leg that had departed."""
    since = pl.col("sched_dep") - pl.col("at")
    return _last_leg(timed, "dep", "dep_delay_min", "sched_duration_min").select(
        "row",
        leg_dep_delay_min="dep_delay_min",
        leg_slack_min=(since - 2 * pl.col("sched_duration_min")).cast(pl.Int32),
        leg_turn_min=(since + pl.col("dep_delay_min") - pl.col("sched_duration_min")).cast(pl.Int32),
    )


def _last_landed(timed: pl.DataFrame) -> pl.LazyFrame:
    """Return, by row of the flight, the aircraft's last leg that had landed."""
    return _last_leg(timed, "arr", "arr_delay_min").select(
        "row", leg_arr_delay_min="arr_delay_min", leg_landed_min=(pl.col("cutoff") - pl.col("at")).cast(pl.Int32)
    )


def _last_leg(timed: pl.DataFrame, moment: str, *values: str) -> pl.LazyFrame:
    """Return the last leg with its moment before the flight's cut-off, if it was scheduled within LEGS_MIN."""
    flights = timed.lazy().filter(pl.col("tailnum").is_not_null())
    events = flights.filter(pl.col(moment).is_not_null()).sort(moment, *values)
    legs = events.select("tailnum", *values, at=moment, leg_sched_dep="sched_dep")
    cutoffs = flights.select("tailnum", "cutoff", "sched_dep", "row").sort("cutoff")
    last_legs = cutoffs.join_asof(
        legs, left_on="cutoff", right_on="at", by="tailnum", allow_exact_matches=False, check_sortedness=False
    )
    return last_legs.filter(pl.col("leg_sched_dep") >= pl.col("sched_dep") - LEGS_MIN)


# --- events of each half hour ---------------------------------------------------------------------------------------


def _origins(timed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per origin and bin: its schedule, and the events before the bin began."""
    sched_dep, after = pl.col("sched_dep"), pl.col("dep") - pl.col("sched_dep")
    departed, limit = pl.max_horizontal("dep", "sched_dep"), pl.col("sched_dep") + LONGEST_OVERDUE_MIN
    counted = timed.filter(after.is_between(-CUTOFF_MIN, LATEST_EVENT_MIN))
    not_counted = timed.filter(~after.is_between(-CUTOFF_MIN, LATEST_EVENT_MIN) | pl.col("dep").is_null())
    late_departures = counted.filter(departed > limit)
    departures = counted.group_by("origin", bin=departed // BIN_MIN).agg(
        departures=pl.len().cast(pl.Int64),
        dep_delay=_capped("dep_delay_min").sum().cast(pl.Int64),
        dep_late=(pl.col("dep_delay_min") >= LATE_MIN).sum().cast(pl.Int64),
        settled=(departed <= limit).sum().cast(pl.Int64),
    )
    given_up = pl.concat([not_counted, late_departures]).group_by("origin", bin=limit // BIN_MIN)
    scheduled = timed.group_by("origin", bin=sched_dep // BIN_MIN).agg(scheduled=pl.len().cast(pl.Int64))
    settled = given_up.agg(settled=pl.len().cast(pl.Int64))
    cutoffs = scheduled.select("origin", bin=pl.col("bin") - CUTOFF_BINS)
    board = _board("origin", scheduled, departures, settled, _arrivals(timed, "origin"), cutoffs)
    hour_1, hours_3, hours_6 = (_sums(board, "origin", hours) for hours in (1, 3, 6))
    ahead = scheduled.select("origin", bin=pl.col("bin") - CUTOFF_BINS, now="scheduled")
    before = ahead.select("origin", bin=pl.col("bin") + 1, just_before="now")
    load = ahead.join(before, on=["origin", "bin"], how="left").select(
        "origin", "bin", origin_scheduled=(pl.col("now") + pl.col("just_before").fill_null(0)).cast(pl.Int32)
    )
    overdue = (_before("scheduled") - _before("settled")).cast(pl.Int32)
    counts = pl.concat(
        [
            board.select("origin", "bin", origin_overdue=overdue),
            hour_1.select(_count("departures", "origin_departures_1h"), _mean("dep_delay", "origin_dep_delay_1h")),
            hours_3.select(
                _count("departures", "origin_departures_3h"),
                _mean("dep_delay", "origin_dep_delay_3h"),
                _mean("dep_late", "origin_dep_late_3h"),
            ),
            hours_6.select(
                _mean("arr_delay", "origin_arr_delay_6h", "arrivals"),
                _mean("enroute", "origin_enroute_6h", "arrivals"),
            ),
        ],
        how="horizontal",
    )
    return load.join(counts, on=["origin", "bin"])


def _bands(timed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per distance band and bin: the delays of the flights that landed before it began."""
    board = _board("band", _arrivals(timed, "band"), timed.select("band", "bin").unique())
    hours_6 = _sums(board, "band", 6).select(
        _count("arrivals", "band_arrivals_6h"),
        _mean("arr_delay", "band_arr_delay_6h", "arrivals"),
        _mean("enroute", "band_enroute_6h", "arrivals"),
    )
    return pl.concat([board.select("band", "bin"), hours_6], how="horizontal")


def _arrivals(timed: pl.DataFrame, by: str) -> pl.DataFrame:
    counted = timed.filter(pl.col("arr") - pl.col("sched_dep") <= LATEST_EVENT_MIN)
    return counted.group_by(by, bin=pl.col("arr") // BIN_MIN).agg(
        arrivals=pl.len().cast(pl.Int64),
        arr_delay=_capped("arr_delay_min").sum().cast(pl.Int64),
        enroute=pl.col("enroute").sum().cast(pl.Int64),
    )


def _board(by: str, *events: pl.DataFrame) -> pl.DataFrame:
    """Return the counts of each bin, in order of time."""
    return pl.concat(events, how="diagonal").group_by(by, "bin").sum().sort(by, "bin")


def _sums(board: pl.DataFrame, by: str, hours: int) -> pl.DataFrame:
    """Return, for each bin, the sums of the bins in the hours before it."""
    bins = hours * 60 // BIN_MIN
    rolled = board.rolling("bin", period=f"{bins}i", offset=f"-{bins}i", closed="left", group_by=by)
    return rolled.agg(pl.exclude(by, "bin").sum())


def _before(name: str) -> pl.Expr:
    """Return the sum of all earlier bins of the origin."""
    return pl.col(name).cum_sum().over("origin") - pl.col(name)


def _count(name: str, alias: str) -> pl.Expr:
    return pl.col(name).cast(pl.Int32).alias(alias)


def _mean(total: str, alias: str, count: str = "departures") -> pl.Expr:
    return pl.when(pl.col(count) > 0).then(pl.col(total) / pl.col(count)).alias(alias)


# --- yesterday, the weather -----------------------------------------------------------------------------------------


def _yesterday(timed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per destination and day: the delays of the previous day's flights that landed before its start."""
    following = pl.col("flight_date").dt.offset_by("1d")
    landed = timed.filter(pl.col("arr") < _day_start(following))
    return landed.group_by("dest", following).agg(
        dest_arrivals_1d=pl.len().cast(pl.Int32),
        dest_arr_delay_1d=_capped("arr_delay_min").mean(),
        dest_enroute_1d=pl.col("enroute").mean(),
    )


def _observations(weather: pl.DataFrame) -> pl.DataFrame:
    """Return one row per origin and hour: the last observation at its start or before."""
    observed = weather.select("origin", *WEATHER, hour=_minutes("observed_at") // 60).sort("origin", "hour")
    newer = (pl.col("hour").shift(-1).over("origin") - pl.col("hour")).fill_null(WEATHER_HOURS)
    return (
        observed.with_columns(observed=pl.col("hour") * 60, age=pl.int_ranges(0, newer.clip(upper_bound=WEATHER_HOURS)))
        .explode("age")
        .with_columns(hour=pl.col("hour") + pl.col("age"))
        .drop("age")
    )
