"""The champion of a task behind HTTP: `lakehouse serve`."""
