"""What the next run does to each table, and why, without an engine."""
