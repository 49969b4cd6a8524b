"""Delta tables without Spark: their logs, the records in their commits, SQL over them."""
