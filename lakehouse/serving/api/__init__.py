"""HTTP API for predictions of a task's champion: `lakehouse serve`."""
