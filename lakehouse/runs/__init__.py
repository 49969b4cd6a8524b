"""Runs of the graph: their order, their logs, their lineage, and the removal of old files."""
