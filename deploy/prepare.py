"""What the servers' clients expect to find: buckets and databases. Docker compose runs this file once, by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

import boto3
import psycopg
from psycopg import sql

Variables = Mapping[str, str]

BUCKETS = ("lakehouse", "mlflow")
DATABASES = ("mlflow", "sources")


def buckets(variables: Variables) -> None:
    """Make the buckets that are not there."""
    s3 = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_DEFAULT_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in BUCKETS:
        if bucket not in there:
            s3.create_bucket(Bucket=bucket)


def connect(variables: Variables) -> psycopg.Connection:
    """A connection to PostgreSQL's own database."""
    return psycopg.connect(
        host=variables["PGHOST"],
        port=variables["PGPORT"],
        user=variables["PGUSER"],
        password=variables["PGPASSWORD"],
        dbname="postgres",
        connect_timeout=5,
        autocommit=True,
    )


def databases(variables: Variables) -> None:
    """Make the databases that are not there."""
    with connect(variables) as connection:
        there = {name for (name,) in connection.execute("select datname from pg_database")}
        for name in DATABASES:
            if name not in there:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


if __name__ == "__main__":
    buckets(os.environ)
    databases(os.environ)
