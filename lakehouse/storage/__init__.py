"""Where a lake lies: a folder or a bucket, who holds it, and whether it keeps what the lake relies on."""
