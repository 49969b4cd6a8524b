"""What tells one flight from another: apart from the other keys, because models need it where there is no Spark."""

FLIGHT_KEY = ("carrier", "flight", "origin", "dest", "sched_dep_utc")
