"""The strict reader of landed files, and the only program that opens them.

Each record is good, malformed or a reason to reject its file. Plans, runs and reconciliations all use it.
"""
