"""The strict reader of landed files: each record is good, malformed or a reason to reject its file.

Ingestion does not use it yet: `lakehouse.landing.inspection` checks landed files, and the engine reads them.
"""
