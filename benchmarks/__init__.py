"""Side-by-side measurements: the project, a hand-written PySpark script, and polars with delta-rs."""
