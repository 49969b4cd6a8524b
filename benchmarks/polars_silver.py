"""The silver tables in polars: parsed values, times in UTC, no rejected rows, the newest row per key."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import available_timezones

import polars as pl

NEW_YORK = "America/New_York"
UNLISTED = pl.DataFrame({"dest": ["BQN", "PSE", "SJU", "STT"], "zone": ["America/Puerto_Rico"] * 4})
ORIGINS = ("EWR", "JFK", "LGA")
FLIGHT_KEY = ("carrier", "flight", "origin", "dest", "sched_dep_utc")
ORIGIN = ("_file_id", "_row")


def text(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "NA").then(pl.col(name))


def number(name: str, kind: type[pl.DataType] = pl.Int32) -> pl.Expr:
    return pl.col(name).cast(kind, strict=False)


def moment(name: str) -> pl.Expr:
    return pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False)


def is_parsed(values: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    """Check that each landed column is missing or was parsed."""
    return pl.all_horizontal(
        *[value.is_not_null() | pl.col(name).is_null() | (pl.col(name) == "NA") for name, value in values]
    )


def within(column: str, low: float | None, high: float | None) -> pl.Expr:
    return pl.col(column).is_null() | pl.col(column).is_between(low, high)


def snapshot_date() -> pl.Expr:
    return pl.col("_source_file").str.extract(r"_(\d{4}-\d{2}-\d{2})\.[a-z]+$").str.to_date("%Y-%m-%d")


def keep_newest(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Keep one row per key: the last delivered row of the newest snapshot."""
    if "snapshot_date" in rows.columns:
        rows = rows.sort("snapshot_date", *ORIGIN)
    return rows.unique(key, keep="last", maintain_order=True)


def minutes(count: pl.Expr) -> pl.Expr:
    return pl.duration(minutes=count)


def is_clock(clock: str) -> pl.Expr:
    return pl.col(clock).is_between(0, 2400) & (pl.col(clock) % 100 < 60)


def shows(time_hour: str, wall: pl.Expr) -> pl.Expr:
    """Return the moment where New York's clocks show the wall time, else null."""
    local = pl.col(time_hour).dt.convert_time_zone(NEW_YORK).dt.replace_time_zone(None)
    return pl.when(local == wall).then(time_hour)


def flights(landed: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    numbers = {
        **{f"_{name}": name for name in ("year", "month", "day", "dep_time", "sched_dep_time", "sched_arr_time")},
        "flight": "flight",
        "dep_delay_min": "dep_delay",
        "arr_delay_min": "arr_delay",
        "air_time_min": "air_time",
        "distance_mi": "distance",
    }
    rows = landed.lazy().with_columns(
        *[number(landed_as).alias(name) for name, landed_as in numbers.items()],
        *[text(name) for name in ("carrier", "origin", "dest", "tailnum")],
        moment("time_hour").alias("_time_hour"),
        ok=is_parsed([*[(name, number(name)) for name in numbers.values()], ("time_hour", moment("time_hour"))]),
    )
    rows = rows.with_columns(flight_date=pl.date("_year", "_month", "_day"), cancelled=pl.col("_dep_time").is_null())
    wall = pl.col("flight_date").cast(pl.Datetime("us")) + pl.duration(hours=pl.col("_sched_dep_time") // 100)
    rows = rows.with_columns(sched_dep_utc=shows("_time_hour", wall) + minutes(pl.col("_sched_dep_time") % 100))
    zones = pl.concat([airports.select("faa", "tzone").rename({"faa": "dest", "tzone": "zone"}), UNLISTED])
    arriving = add_scheduled_arrival(rows.join(zones.lazy(), on="dest", how="left", maintain_order="left").collect())
    delays, cancelled = {"dep_delay_min": -180, "arr_delay_min": -360}, pl.col("cancelled")
    clocks = ("_dep_time", "_sched_dep_time", "_sched_arr_time")
    rows = arriving.lazy().with_columns(
        dep_utc=pl.col("sched_dep_utc") + minutes(pl.col("dep_delay_min")),
        arr_utc=pl.col("sched_arr_utc") + minutes(pl.col("arr_delay_min")),
    )
    good = rows.filter(
        pl.col("ok"),
        *[pl.col(name).is_not_null() for name in FLIGHT_KEY],
        *[pl.col(name).is_null() | is_clock(name) for name in clocks],
        pl.col("origin").is_in(ORIGINS),
        pl.col("distance_mi") > 0,
        pl.col("air_time_min").is_null() | (pl.col("air_time_min") > 0),
        *[within(name, least, 4320) for name, least in delays.items()],
        cancelled == pl.col("dep_delay_min").is_null(),
        ~cancelled | (pl.col("arr_delay_min").is_null() & pl.col("air_time_min").is_null()),
        pl.col("arr_utc").is_null() | (pl.col("arr_utc") > pl.col("dep_utc")),
    )
    valid = good.select(
        "flight_date",
        "carrier",
        "flight",
        "origin",
        "dest",
        "tailnum",
        "sched_dep_utc",
        "sched_arr_utc",
        "dep_utc",
        "arr_utc",
        "dep_delay_min",
        "arr_delay_min",
        "air_time_min",
        "distance_mi",
        "cancelled",
        *ORIGIN,
    )
    return keep_newest(valid.collect(), FLIGHT_KEY)


def add_scheduled_arrival(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the scheduled arrival in UTC: the next time that clocks at the destination show it."""
    none = pl.lit(None, pl.Datetime("us", "UTC")).alias("sched_arr_utc")
    parts = []
    for (zone,), part in rows.partition_by("zone", as_dict=True, maintain_order=True).items():
        if zone is None:
            parts.append(part.with_columns(none))
            continue
        clock = pl.col("_sched_arr_time")
        departs = pl.col("sched_dep_utc").dt.convert_time_zone(zone).dt.replace_time_zone(None)
        today = departs.dt.truncate("1d") + minutes(clock // 100 * 60 + clock % 100)
        arrives = pl.when(today > departs).then(today).otherwise(today + pl.duration(days=1))
        # A skipped time is read as standard time. A repeated time is the next one.
        in_utc = pl.coalesce(local_to_utc(arrives, zone), local_to_utc(arrives + pl.duration(hours=1), zone))
        later = pl.when(in_utc > pl.col("sched_dep_utc")).then(in_utc).otherwise(in_utc + pl.duration(hours=1))
        parts.append(part.with_columns(later.alias("sched_arr_utc")))
    return pl.concat(parts).sort(*ORIGIN)


def local_to_utc(wall: pl.Expr, zone: str) -> pl.Expr:
    local = wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def weather(landed: pl.DataFrame) -> pl.DataFrame:
    measures = {
        "temp": ("temp_f", -60, 140),
        "dewp": ("dewp_f", -90, 100),
        "humid": ("humid_pct", 0, 100),
        "wind_dir": ("wind_dir_deg", 0, 360),
        "wind_speed": ("wind_speed_mph", None, None),
        "wind_gust": ("wind_gust_mph", None, None),
        "precip": ("precip_in", 0, 15),
        "pressure": ("pressure_mb", 870, 1090),
        "visib": ("visib_mi", 0, 100),
    }
    parts = ("year", "month", "day", "hour")
    values = [(name, number(name, pl.Float64)) for name in measures] + [(name, number(name)) for name in parts]
    rows = landed.lazy().with_columns(
        *[number(name, pl.Float64).alias(measure) for name, (measure, _, _) in measures.items()],
        text("origin"),
        *[number(name).alias(f"_{name}") for name in parts],
        moment("time_hour").alias("_time_hour"),
        ok=is_parsed([*values, ("time_hour", moment("time_hour"))]),
    )
    rows = rows.with_columns(weather_date=pl.date("_year", "_month", "_day"))
    wall = pl.col("weather_date").cast(pl.Datetime("us")) + pl.duration(hours="_hour")
    good = rows.with_columns(observed_at=shows("_time_hour", wall)).filter(
        pl.col("ok"),
        pl.col("observed_at").is_not_null(),
        pl.col("_hour").is_between(0, 24),
        pl.col("origin").is_in(ORIGINS),
        *[within(measure, low, high) for measure, low, high in measures.values() if low is not None],
    )
    valid = good.select(
        "origin", "observed_at", "weather_date", *[measure for measure, _, _ in measures.values()], *ORIGIN
    )
    return keep_newest(valid.collect(), ("origin", "observed_at"))


def airports(landed: pl.DataFrame) -> pl.DataFrame:
    values = {"lat": pl.Float64, "lon": pl.Float64, "alt": pl.Int32, "tz": pl.Float64}
    good = landed.filter(
        is_parsed([(name, number(name, kind)) for name, kind in values.items()]),
        text("faa").is_not_null(),
        text("tzone").is_null() | pl.col("tzone").is_in(sorted(available_timezones())),
        number("lat", pl.Float64).is_between(-90, 90),
        number("lon", pl.Float64).is_between(-180, 180),
    )
    valid = good.select(
        text("faa"),
        text("name").str.replace_all(r"\\+'", "'"),
        number("lat", pl.Float64),
        number("lon", pl.Float64),
        number("alt").alias("alt_ft"),
        number("tz", pl.Float64).alias("utc_offset_h"),
        text("dst"),
        text("tzone"),
        snapshot_date().alias("snapshot_date"),
        *ORIGIN,
    )
    return keep_newest(valid, ["faa"])


def airlines(landed: pl.DataFrame) -> pl.DataFrame:
    rows = landed.select(text("carrier"), text("name"), snapshot_date().alias("snapshot_date"), *ORIGIN)
    return keep_newest(rows.filter(pl.col("carrier").str.contains("^[A-Z0-9]{2,3}$")), ["carrier"])


def planes(landed: pl.DataFrame) -> pl.DataFrame:
    """Return every version of each aircraft; a snapshot that repeats the previous one adds none."""
    values = ("year", "engines", "seats", "speed")
    rows = landed.filter(is_parsed([(name, number(name)) for name in values])).select(
        text("tailnum"),
        number("year").alias("year_built"),
        *[text(name) for name in ("type", "manufacturer", "model")],
        number("engines"),
        number("seats"),
        number("speed").alias("speed_mph"),
        text("engine"),
        snapshot_date().alias("snapshot_date"),
        *ORIGIN,
    )
    rows = rows.filter(pl.col("tailnum").is_not_null(), within("engines", 1, 12), within("seats", 1, 900))
    snapshots = keep_newest(rows, ("tailnum", "snapshot_date")).sort("tailnum", "snapshot_date")
    content = pl.struct(pl.exclude("tailnum", "snapshot_date", *ORIGIN))
    changed = content.ne_missing(content.shift()) | (pl.col("tailnum") != pl.col("tailnum").shift()).fill_null(True)
    until = pl.col("snapshot_date").shift(-1).over("tailnum")
    return snapshots.filter(changed).with_columns(
        valid_from="snapshot_date", valid_to=until, is_current=until.is_null()
    )
