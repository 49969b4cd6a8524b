"""Fixtures of the packages' tests that the fault tests use as well."""

from __future__ import annotations

from tests.lakehouse.ml.test_monitoring import lakehouse, trained, trained_once
from tests.lakehouse.ml.test_promotion import two
from tests.lakehouse.plan.test_backfill import filled_days
from tests.lakehouse.quality.test_expectations import expecting
from tests.lakehouse.quality.test_reconciliation import reconciled

__all__ = ["expecting", "filled_days", "lakehouse", "reconciled", "trained", "trained_once", "two"]
