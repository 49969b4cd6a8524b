"""Rules: predicates for good rows, and the action on a violation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Built-in rules: the key has no null, the line is well formed, every value can be parsed.
KEY_RULE, MALFORMED_RULE, PARSED_RULE = "key_is_not_null", "well_formed", "parsed"
OnViolation = Literal["warn", "quarantine", "fail"]


@dataclass(frozen=True)
class Rule:
    """A SQL predicate over the table's columns that is true for every good row.

    A row violates the rule unless the predicate is true. A null counts as a violation: write ``x IS NULL OR x > 0``
    where a value may be missing. The predicate is text. So a declaration needs no Spark session, and other engines can
    evaluate the rule.
    """

    name: str
    predicate: str
    on_violation: OnViolation = "quarantine"
