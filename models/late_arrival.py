"""The task late_arrival: does a flight arrive 15 minutes late or more? Inputs are known two hours before departure."""

from __future__ import annotations

from flights.grain import FLIGHT_KEY
from lakehouse.ml.task import Splits, Task

TASK = Task(
    name="late_arrival",
    feature_table="gold.flight_features",
    predictions_table="gold.delay_predictions",
    quality_table="gold.model_quality",
    drift_table="gold.feature_drift",
    key=FLIGHT_KEY,
    time_column="flight_date",
    label_column="late",
    splits=Splits(
        train=("2013-01-01", "2013-10-31"), validation=("2013-11-01", "2013-11-30"), test=("2013-12-01", "2013-12-31")
    ),
)

CATEGORIES = ("carrier", "origin", "dest")
# The columns of each embedding of a network, by its name.
EMBEDDED = {"carrier": ("carrier",), "route": ("origin", "dest"), "aircraft": ("tailnum",)}
BASELINE_FEATURES = (
    *CATEGORIES,
    "sched_minute",
    "weekday",
    "month",
    "days_since_holiday",
    "days_to_holiday",
    "distance_mi",
    "sched_duration_min",
)
FEATURES = (
    *CATEGORIES,
    "sched_minute",
    "weekday",
    "days_since_holiday",
    "days_to_holiday",
    "distance_mi",
    "sched_duration_min",
    "origin_scheduled",
    "aircraft_age_years",
    "aircraft_seats",
    "leg_dep_delay_min",
    "leg_slack_min",
    "leg_turn_min",
    "leg_arr_delay_min",
    "leg_landed_min",
    "origin_overdue",
    "origin_departures_1h",
    "origin_dep_delay_1h",
    "origin_departures_3h",
    "origin_dep_delay_3h",
    "origin_dep_late_3h",
    "origin_arr_delay_6h",
    "origin_enroute_6h",
    "band_arrivals_6h",
    "band_arr_delay_6h",
    "band_enroute_6h",
    "dest_arrivals_1d",
    "dest_arr_delay_1d",
    "dest_enroute_1d",
    "weather_age_min",
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
