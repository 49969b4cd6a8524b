"""A web page about one flight's risk of being late: `lakehouse app`."""
