"""Contributions of groups of features to a prediction: its change when a group is set to typical values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Features by name. An entry that ends in "_" is a prefix.
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
    """Contribution of a group of features.

    Attributes:
        effect: The predicted probability minus the probability with the group at typical values.
    """

    name: str
    features: tuple[str, ...]
    effect: float


def group_features(features: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the features by group. Each feature is in one group; empty groups are left out."""
    groups: dict[str, list[str]] = {}
    for feature in features:
        groups.setdefault(_find_group(feature), []).append(feature)
    return {name: tuple(groups[name]) for name in (*GROUPS, OTHERS) if name in groups}


def _find_group(feature: str) -> str:
    for name, entries in GROUPS.items():
        if any(feature.startswith(entry) if entry.endswith("_") else feature == entry for entry in entries):
            return name
    return OTHERS


def make_variations(
    row: Mapping[str, Any], typical: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the row, then one copy per group with the group's features at typical values."""
    return [{**row}, *({**row, **{name: typical[name] for name in features}} for features in groups.values())]


def rank_contributions(groups: Mapping[str, tuple[str, ...]], probabilities: Sequence[float]) -> list[Contribution]:
    """Return the groups' contributions, strongest first, from the probabilities of the `make_variations`."""
    predicted, *varied = probabilities
    contributions = [
        Contribution(name, groups[name], predicted - probability)
        for name, probability in zip(groups, varied, strict=True)
    ]
    return sorted(contributions, key=lambda contribution: -abs(contribution.effect))
