"""RAPIDS: training on a GPU, and what of a plan would run on one."""
