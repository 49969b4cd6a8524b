"""Runs of the graph: their order, their logs, their lineage, and what they leave behind."""
