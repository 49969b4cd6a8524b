"""The contributions of feature groups to a prediction."""

from __future__ import annotations

import pytest

from gold.flight_features import COLUMNS
from jobs.page.contributions import OTHERS, group_features, make_variations, rank_contributions
from models.late_arrival import FEATURES, TASK

KNOWN_BY_NAME = {*TASK.key, TASK.time_column, TASK.label_column, "cutoff_utc", "tailnum"} - {*FEATURES}


def test_every_feature_has_one_group() -> None:
    features = [name for name in COLUMNS if name not in KNOWN_BY_NAME]
    groups = group_features(features)
    assert OTHERS not in groups
    assert sorted(name for members in groups.values() for name in members) == sorted(features)
    assert groups["Carrier and route"][:3] == ("carrier", "origin", "dest"), "not with the airport's congestion"


def test_unknown_feature_is_not_left_out() -> None:
    assert group_features(["leg_turn_min", "moon_phase"]) == {
        "Aircraft's last legs": ("leg_turn_min",),
        OTHERS: ("moon_phase",),
    }


def test_effect_disappears_for_typical_group() -> None:
    row = {"leg_turn_min": 10, "leg_slack_min": 20, "temp_f": 5.0, "aircraft_seats": None}
    typical = {"leg_turn_min": 40, "leg_slack_min": 50, "temp_f": 80.0, "aircraft_seats": 150}
    groups = group_features(row)
    tried = make_variations(row, typical, groups)
    assert tried == [
        row,
        {**row, "leg_turn_min": 40, "leg_slack_min": 50},
        {**row, "temp_f": 80.0},
        {**row, "aircraft_seats": 150},
    ]
    ranked = rank_contributions(groups, [0.5, 0.4, 0.8, 0.5])
    assert [group.name for group in ranked] == ["Weather", "Aircraft's last legs", "Aircraft"]
    assert [group.effect for group in ranked] == pytest.approx([-0.3, 0.1, 0.0])
