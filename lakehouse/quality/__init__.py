"""Expectations, the quarantine, and the recount of every row, without an engine."""
