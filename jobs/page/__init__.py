"""Web page about one flight's chance of being late: `lakehouse app`."""
