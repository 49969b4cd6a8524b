"""The landing zone: which files are new, whether they are whole, and which columns they have."""
