"""The flights example: what its tables share, and the delivery of its files."""
