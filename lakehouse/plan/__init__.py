"""Plans: the steps of the next run, backfills and rollbacks. Needs no engine."""
