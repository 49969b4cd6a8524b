"""Buckets and databases that the servers' clients expect. Docker compose runs this file once, in a container."""

from __future__ import annotations

import os
from collections.abc import Mapping

import boto3
import psycopg
from psycopg import sql

Variables = Mapping[str, str]

BUCKETS = ("lakehouse", "mlflow")
DATABASES = ("mlflow", "sources")


def create_buckets(variables: Variables) -> None:
    """Create the missing buckets."""
    s3 = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_DEFAULT_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in BUCKETS:
        if bucket not in existing:
            s3.create_bucket(Bucket=bucket)


def connect(variables: Variables) -> psycopg.Connection:
    """Connect to PostgreSQL's own database."""
    return psycopg.connect(
        host=variables["PGHOST"],
        port=variables["PGPORT"],
        user=variables["PGUSER"],
        password=variables["PGPASSWORD"],
        dbname="postgres",
        connect_timeout=5,
        autocommit=True,
    )


def create_databases(variables: Variables) -> None:
    """Create the missing databases."""
    with connect(variables) as connection:
        existing = {name for (name,) in connection.execute("select datname from pg_database")}
        for name in DATABASES:
            if name not in existing:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


if __name__ == "__main__":
    create_buckets(os.environ)
    create_databases(os.environ)
