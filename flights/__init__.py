"""Flights example: code that its tables share, and the delivery of its files."""
