"""The landing zone: new files, the reader of landed files, and contracts."""
