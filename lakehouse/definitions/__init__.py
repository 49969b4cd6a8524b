"""Declarations: sources, tables, how they are written, rules, contracts, and the graph that they make."""
