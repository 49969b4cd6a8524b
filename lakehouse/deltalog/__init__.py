"""Delta tables without Spark: logs, commit records, SQL queries."""
