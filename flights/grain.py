"""Key of a flight. It has its own module because models import it without Spark."""

FLIGHT_KEY = ("carrier", "flight", "origin", "dest", "sched_dep_utc")
