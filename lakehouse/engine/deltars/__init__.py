"""The writer of Delta tables without Spark, by delta-rs."""
