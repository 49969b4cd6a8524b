"""The strict reader of landed files: each record is good, malformed or a reason to reject its file."""
