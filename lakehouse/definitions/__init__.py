"""Declarations: sources, tables, write modes, rules, contracts, and the graph of all tables."""
