"""Data quality: suites of expectations, the quarantine, and reconciliation."""
