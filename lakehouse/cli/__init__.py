"""The command line: one module per group of commands, which main.py lists."""
