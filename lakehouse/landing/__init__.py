"""The landing zone: new files, their inspection, and their columns."""
