"""The columns of gold.flight_features, computed in polars from the silver tables."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, bisect_right

import holidays
import polars as pl

CUTOFF_MIN = 120
BIN_MIN = 30
LATEST_EVENT_MIN = 14 * 60
LONGEST_OVERDUE_MIN = 4 * 60
LEGS_MIN = 20 * 60
LATE_MIN = 15
MOST_MIN = 180
BAND_EDGES_MI = (300, 600, 900, 1300, 2000)
WEATHER_HOURS = 6
DAY_START_MIN = 5 * 60
YEARS = range(1990, 2051)
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


def _minutes(name: str) -> pl.Expr:
    return pl.col(name).dt.epoch("s") // 60


def _day_minutes(date: pl.Expr) -> pl.Expr:
    return date.cast(pl.Int32).cast(pl.Int64) * 1440


def _mean(total: str, count: str, name: str) -> pl.Expr:
    return pl.when(pl.col(count) > 0).then(pl.col(total) / pl.col(count)).alias(name)


def _holiday_distances(dates: pl.Series) -> pl.DataFrame:
    days = sorted(holidays.country_holidays("US", years=range(YEARS.start - 1, YEARS.stop + 1), observed=False))
    dates = dates.unique().sort()
    return pl.DataFrame(
        {
            "flight_date": dates,
            "days_since_holiday": pl.Series(
                [(d - days[bisect_right(days, d) - 1]).days for d in dates], dtype=pl.Int32
            ),
            "days_to_holiday": pl.Series([(days[bisect_left(days, d)] - d).days for d in dates], dtype=pl.Int32),
        }
    )


def _window(board: pl.DataFrame, by: str, minutes: int, values: list[str]) -> pl.DataFrame:
    """The sums over the bins before each row's, as far back as so many minutes."""
    bins = minutes // BIN_MIN
    rolled = board.rolling("bin", period=f"{bins}i", offset=f"-{bins}i", closed="left", group_by=by)
    return rolled.agg(pl.col(values).sum()).select(values)


def _origins(f: pl.DataFrame) -> pl.DataFrame:
    """One row per origin and half hour that a cut-off falls into: what had happened there before that half hour."""
    departed = pl.max_horizontal("dep", "sd")
    limit = pl.col("sd") + LONGEST_OVERDUE_MIN
    one = pl.lit(1, pl.Int64)
    scheduled = f.group_by("origin", bin=pl.col("sd") // BIN_MIN).agg(scheduled=pl.len().cast(pl.Int64))
    departures = (
        f.filter(pl.col("dep").is_not_null())
        .group_by("origin", bin=departed // BIN_MIN)
        .agg(
            departures=pl.len().cast(pl.Int64),
            dep_delay=pl.min_horizontal("dep_delay_min", pl.lit(MOST_MIN)).sum().cast(pl.Int64),
            dep_late=(pl.col("dep_delay_min") >= LATE_MIN).sum().cast(pl.Int64),
            settled=(departed <= limit).sum().cast(pl.Int64),
        )
    )
    given_up = (
        f.filter(pl.col("dep").is_null() | (departed > limit))
        .group_by("origin", bin=limit // BIN_MIN)
        .agg(settled=pl.len().cast(pl.Int64))
    )
    arrivals = _arrivals(f, "origin")
    asked = scheduled.select("origin", bin=pl.col("bin") - CUTOFF_MIN // BIN_MIN)
    board = (
        pl.concat([scheduled, departures, given_up, arrivals, asked], how="diagonal")
        .group_by("origin", "bin")
        .sum()
        .sort("origin", "bin")
    )
    hour = _window(board, "origin", 60, ["departures", "dep_delay"])
    three = _window(board, "origin", 180, ["departures", "dep_delay", "dep_late"])
    six = _window(board, "origin", 360, ["arrivals", "arr_delay", "enroute"])
    before = lambda name: pl.col(name).cum_sum().over("origin") - pl.col(name)  # noqa: E731
    ahead = board.select("origin", "scheduled", bin=pl.col("bin") - CUTOFF_MIN // BIN_MIN)
    ahead = board.select("origin", "bin").join(
        ahead.with_columns(
            load=pl.col("scheduled")
            + pl.when(pl.col("bin").diff().over("origin") == 1)
            .then(pl.col("scheduled").shift().over("origin"))
            .otherwise(0)
        ),
        on=["origin", "bin"],
        how="left",
        maintain_order="left",
    )
    return pl.concat(
        [
            board.select("origin", "bin"),
            ahead.select(origin_scheduled=pl.col("load").cast(pl.Int32)),
            board.select(origin_overdue=(before("scheduled") - before("settled")).cast(pl.Int32)),
            hour.select(
                origin_departures_1h=pl.col("departures").cast(pl.Int32), x=_mean("dep_delay", "departures", "x")
            ).rename({"x": "origin_dep_delay_1h"}),
            three.select(
                pl.col("departures").cast(pl.Int32).alias("origin_departures_3h"),
                _mean("dep_delay", "departures", "origin_dep_delay_3h"),
                _mean("dep_late", "departures", "origin_dep_late_3h"),
            ),
            six.select(
                _mean("arr_delay", "arrivals", "origin_arr_delay_6h"),
                _mean("enroute", "arrivals", "origin_enroute_6h"),
            ),
        ],
        how="horizontal",
    )


def _arrivals(f: pl.DataFrame, by: str) -> pl.DataFrame:
    return (
        f.filter(pl.col("arr").is_not_null())
        .group_by(by, bin=pl.col("arr") // BIN_MIN)
        .agg(
            arrivals=pl.len().cast(pl.Int64),
            arr_delay=pl.min_horizontal("arr_delay_min", pl.lit(MOST_MIN)).sum().cast(pl.Int64),
            enroute=pl.col("enroute").sum().cast(pl.Int64),
        )
    )


def _bands(f: pl.DataFrame) -> pl.DataFrame:
    """One row per distance band and half hour that a cut-off falls into: how the flights landed before had fared."""
    asked = f.select("band", bin=pl.col("cut") // BIN_MIN).unique()
    board = pl.concat([_arrivals(f, "band"), asked], how="diagonal").group_by("band", "bin").sum().sort("band", "bin")
    six = _window(board, "band", 360, ["arrivals", "arr_delay", "enroute"])
    return pl.concat(
        [
            board.select("band", "bin"),
            six.select(
                pl.col("arrivals").cast(pl.Int32).alias("band_arrivals_6h"),
                _mean("arr_delay", "arrivals", "band_arr_delay_6h"),
                _mean("enroute", "arrivals", "band_enroute_6h"),
            ),
        ],
        how="horizontal",
    )


def _yesterday(f: pl.DataFrame) -> pl.DataFrame:
    """One row per destination and day: how the flights of the day before, as far as landed by its start, had fared."""
    start = _day_minutes(pl.col("flight_date")) + 1440 + DAY_START_MIN
    return (
        f.filter(pl.col("arr_all") < start)
        .group_by("dest", flight_date=pl.col("flight_date").dt.offset_by("1d"))
        .agg(
            dest_arrivals_1d=pl.len().cast(pl.Int32),
            dest_arr_delay_1d=pl.min_horizontal("arr_delay_min", pl.lit(MOST_MIN)).mean(),
            dest_enroute_1d=pl.col("enroute").mean(),
        )
    )


def _legs(f: pl.DataFrame) -> pl.DataFrame:
    """For each flight, in order: the aircraft's last leg that had left, and the last that had landed."""
    asked = f.select("tailnum", "cut", "sd").with_row_index("row").filter(pl.col("tailnum").is_not_null()).sort("cut")

    def last(moment: str, *values: str) -> pl.DataFrame:
        known = f.filter(pl.col("tailnum").is_not_null() & pl.col(moment).is_not_null()).sort(moment, *values)
        return asked.join_asof(
            known.select("tailnum", *values, _at=moment),
            left_on="cut",
            right_on="_at",
            by="tailnum",
            allow_exact_matches=False,
            check_sortedness=False,
        )

    left = last("dep_all", "dep_delay_min", "duration").filter(
        pl.col("_at") - pl.col("dep_delay_min") >= pl.col("sd") - LEGS_MIN
    )
    left = left.select(
        "row",
        leg_dep_delay_min="dep_delay_min",
        leg_slack_min=(pl.col("sd") - pl.col("_at") - 2 * pl.col("duration")).cast(pl.Int32),
        leg_turn_min=(pl.col("sd") - pl.col("_at") + pl.col("dep_delay_min") - pl.col("duration")).cast(pl.Int32),
    )
    landed = last("arr_all", "arr_delay_min", "sd_leg").filter(pl.col("sd_leg") >= pl.col("sd") - LEGS_MIN)
    landed = landed.select(
        "row", leg_arr_delay_min="arr_delay_min", leg_landed_min=(pl.col("cut") - pl.col("_at")).cast(pl.Int32)
    )
    rows = pl.DataFrame({"row": pl.int_range(f.height, eager=True, dtype=pl.UInt32)})
    return (
        rows.join(left, on="row", how="left", maintain_order="left")
        .join(landed, on="row", how="left", maintain_order="left")
        .drop("row")
    )


def _weather(weather: pl.DataFrame) -> pl.DataFrame:
    """One row per origin and hour: what was last observed at its start or before."""
    observed = weather.select("origin", *WEATHER, hour=_minutes("observed_at") // 60).sort("origin", "hour")
    until = pl.min_horizontal(pl.col("hour").shift(-1).over("origin") - pl.col("hour"), pl.lit(WEATHER_HOURS, pl.Int64))
    until = until.fill_null(WEATHER_HOURS)
    return (
        observed.with_columns(age=pl.int_ranges(0, until))
        .explode("age")
        .with_columns(hour=pl.col("hour") + pl.col("age"), observed_min=pl.col("hour") * 60)
        .drop("age")
    )


def flight_features(flights: pl.DataFrame, weather: pl.DataFrame, planes: pl.DataFrame) -> pl.DataFrame:
    f = flights.select(
        "flight_date", "carrier", "flight", "origin", "dest", "tailnum", "sched_dep_utc", "distance_mi", "dep_delay_min", "arr_delay_min",
        sd=_minutes("sched_dep_utc"), sa=_minutes("sched_arr_utc"), dep_all=_minutes("dep_utc"), arr_all=_minutes("arr_utc"),
    )  # fmt: skip
    f = f.with_columns(
        cut=pl.col("sd") - CUTOFF_MIN,
        sd_leg=pl.col("sd"),
        duration=(pl.col("sa") - pl.col("sd")).cast(pl.Int32),
        enroute=pl.col("arr_delay_min") - pl.col("dep_delay_min"),
        band=pl.sum_horizontal(*[(pl.col("distance_mi") >= edge).cast(pl.Int32) for edge in BAND_EDGES_MI]),
        dep=pl.when((pl.col("dep_all") - pl.col("sd")).is_between(-CUTOFF_MIN, LATEST_EVENT_MIN)).then("dep_all"),
        arr=pl.when(pl.col("arr_all") - pl.col("sd") <= LATEST_EVENT_MIN).then("arr_all"),
    )
    local = pl.col("sched_dep_utc").dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York")
    known = planes.select("tailnum", "year_built", "seats", "valid_from", "valid_to")
    known_on = (local - pl.duration(minutes=CUTOFF_MIN)).dt.date()
    rows = pl.concat([f, _legs(f)], how="horizontal").with_columns(
        bin=pl.col("cut") // BIN_MIN, hour=(pl.col("cut") - 1) // 60, known_on=known_on
    )
    aircraft = (
        rows.select("tailnum", "known_on").unique().join(known, on="tailnum")
        .filter((pl.col("valid_from") <= pl.col("known_on")) & (pl.col("valid_to").is_null() | (pl.col("valid_to") > pl.col("known_on"))))
        .select("tailnum", "known_on", aircraft_seats="seats", aircraft_age_years=(pl.col("known_on").dt.year() - pl.col("year_built")))
    )  # fmt: skip
    started = pl.col("cut") >= _day_minutes(pl.col("flight_date")) + DAY_START_MIN
    yesterday = [
        pl.when(started).then(c).alias(c) for c in ("dest_arrivals_1d", "dest_arr_delay_1d", "dest_enroute_1d")
    ]
    return (
        rows.join(_holiday_distances(f["flight_date"]), on="flight_date", how="left")
        .join(aircraft, on=["tailnum", "known_on"], how="left")
        .join(_origins(f), on=["origin", "bin"], how="left")
        .join(_bands(f), on=["band", "bin"], how="left")
        .join(_yesterday(f), on=["dest", "flight_date"], how="left")
        .join(_weather(weather), on=["origin", "hour"], how="left")
        .with_columns(
            *yesterday,
            sched_minute=local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute(),
            weekday=local.dt.weekday().cast(pl.Int32),
            month=local.dt.month().cast(pl.Int32),
            day_of_year=local.dt.ordinal_day().cast(pl.Int32),
            weather_age_min=(pl.col("cut") - pl.col("observed_min")).cast(pl.Int32),
            late=pl.col("arr_delay_min") >= LATE_MIN,
        )
    )
