"""Spark with Delta: the reference engine."""
