"""Rules: what a good row satisfies, and what happens to a row that breaks one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Rules that no table declares: that a key is whole, a line has its shape, a value could be read.
KEY_RULE, MALFORMED_RULE, PARSED_RULE = "key_is_not_null", "well_formed", "parsed"
OnViolation = Literal["warn", "quarantine", "fail"]


@dataclass(frozen=True)
class Rule:
    """What a good row satisfies, as a SQL predicate over the table's columns.

    A row breaks the rule unless the predicate is true, so a predicate that is null counts as broken: say
    ``x IS NULL OR x > 0`` where a missing value is fine. The predicate is text, so that reading a declaration needs no
    Spark session and other engines can evaluate it.
    """

    name: str
    predicate: str
    on_violation: OnViolation = "quarantine"
