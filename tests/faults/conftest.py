"""Fixtures of the packages' tests that the tests of bad days use as well."""

from __future__ import annotations

from tests.lakehouse.test_monitor import lakehouse, trained, trained_once
from tests.lakehouse.test_promoting import two
from tests.lakehouse.test_suites import expecting

__all__ = ["expecting", "lakehouse", "trained", "trained_once", "two"]
