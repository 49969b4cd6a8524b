"""Engines compute a table's rows and write Delta tables."""
