"""RAPIDS: Spark and training on NVIDIA GPUs. Entry points configure it; nothing below them imports this package."""
