"""The lake's files in a folder or a bucket, its lock, and the test of an object store."""
