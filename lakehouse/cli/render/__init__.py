"""Renderers of the commands' results: tables for people, JSON for machines."""
