"""Will a flight arrive 15 minutes late or more? Gradient-boosted trees on what is known two hours before departure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flights.keys import FLIGHT_KEY

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline

NAME = "late_arrival"
FEATURE_TABLE = "gold.flight_features"
PREDICTIONS = "gold.delay_predictions"
QUALITY = "gold.model_quality"
KEY = FLIGHT_KEY
TIME = "flight_date"
LABEL = "late"

CATEGORIES = ("carrier", "origin", "dest")
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


@dataclass(frozen=True)
class Splits:
    """Spans of days, both ends included: to train on, to choose by, to report once."""

    train: tuple[str, str]
    choose: tuple[str, str]
    report: tuple[str, str]


SPLITS = Splits(("2013-01-01", "2013-10-31"), ("2013-11-01", "2013-11-30"), ("2013-12-01", "2013-12-31"))
CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {"max_iter": 300, "learning_rate": 0.05, "max_leaf_nodes": 31, "min_samples_leaf": 100, "l2_regularization": 1.0},
    {"max_iter": 300, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 200, "l2_regularization": 1.0},
)
PARAMS = CANDIDATES[1]
# What skops finds in a fitted pipeline beside its own list of safe types: the trees, and how scikit-learn itself checks the
# numbers that it hands to them (a partial is loaded only of functions that are trusted, too).
TRUSTED_TYPES = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)


def fit(
    frame: pd.DataFrame, *, features: Sequence[str] = FEATURES, params: Mapping[str, Any] = PARAMS, seed: int = 7
) -> Pipeline:
    """A fitted pipeline: categories to codes, then trees; the same for the same frame and seed."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    categories = [name for name in features if name in CATEGORIES]
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=float("nan"), encoded_missing_value=float("nan")
    )
    columns = ColumnTransformer([("codes", codes, categories)], remainder="passthrough")
    trees = HistGradientBoostingClassifier(
        categorical_features=list(range(len(categories))), early_stopping=False, random_state=seed, **params
    )
    pipeline = Pipeline([("columns", columns), ("trees", trees)])
    return pipeline.fit(frame[list(features)], frame[LABEL].astype(bool))


def predict(model: Any, frame: pd.DataFrame) -> np.ndarray:
    """The probability that each flight is late."""
    probability: np.ndarray = model.predict_proba(frame[list(model.feature_names_in_)])[:, 1]
    return probability


def evaluate(label: Any, probability: Any) -> dict[str, float]:
    """ROC AUC, average precision and the Brier score (mean squared error of the probability)."""
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    return {
        "roc_auc": float(roc_auc_score(label, probability)),
        "average_precision": float(average_precision_score(label, probability)),
        "brier": float(brier_score_loss(label, probability)),
    }
