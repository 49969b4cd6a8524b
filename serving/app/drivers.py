"""What drives a prediction: how far it moves when features that belong together are set to what is typical of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Features by name; what ends in "_" stands for all that begin so.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Aircraft's last legs": ("leg_",),
    "Airport congestion": ("origin_",),
    "Routes of similar length": ("band_",),
    "Destination yesterday": ("dest_",),
    "Weather": ("weather_", "temp_f", "dewp_f", "humid_pct", "wind_", "precip_in", "pressure_mb", "visib_mi"),
    "Schedule": ("sched_minute", "weekday", "month", "day_of_year", "days_"),
    "Carrier and route": ("carrier", "origin", "dest", "distance_mi", "sched_duration_min"),
    "Aircraft": ("aircraft_",),
}
OTHERS: Final = "Other features"


@dataclass(frozen=True)
class Contribution:
    """A group of features. ``effect`` is the probability as predicted, less the one with the group at its typical values."""

    name: str
    features: tuple[str, ...]
    effect: float


def group_features(features: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The features by group, each in one; groups without any are left out."""
    found: dict[str, list[str]] = {}
    for feature in features:
        found.setdefault(_group_of(feature), []).append(feature)
    return {name: tuple(found[name]) for name in (*GROUPS, OTHERS) if name in found}


def _group_of(feature: str) -> str:
    for name, parts in GROUPS.items():
        if any(feature.startswith(part) if part.endswith("_") else feature == part for part in parts):
            return name
    return OTHERS


def variations(
    row: Mapping[str, Any], typical: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The row, and after it for each group the row with that group's features at their typical values."""
    return [{**row}, *({**row, **{name: typical[name] for name in features}} for features in groups.values())]


def rank_contributions(groups: Mapping[str, tuple[str, ...]], probabilities: Sequence[float]) -> list[Contribution]:
    """What the probabilities of the `variations` say of the groups, the strongest first."""
    plain, *changed = probabilities
    found = [Contribution(name, groups[name], plain - one) for name, one in zip(groups, changed, strict=True)]
    return sorted(found, key=lambda driver: -abs(driver.effect))
