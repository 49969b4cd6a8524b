"""A shop's suppliers and products in PostgreSQL: suppliers by cursor, products as snapshots."""

from __future__ import annotations

import psycopg
from pyspark.sql import DataFrame

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Database, source
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import History, Merge
from lakehouse.spark import parse, unparsed
from tests.lakes import snapshot_date

URL = "jdbc:postgresql://${PGHOST}:${PGPORT}/sources"
SUPPLIERS = [("AB", "Abel"), ("CD", "Cedar"), ("EF", None), ("GH", "Grove")]
PRODUCTS = [("P1", "Lamp", "5"), ("P2", "Desk", "7"), ("P3", "Chair", None), ("P4", "Shelf", "2"), ("P5", "Rug", "1")]

suppliers = source(
    "raw.suppliers",
    landing="suppliers",
    format="parquet",
    columns={"code": "string", "name": "string", "changed": "bigint", "founded_at": "timestamp"},
    database=Database(URL, "suppliers", key=("changed",), cursor="changed"),
)
products = source(
    "raw.products",
    landing="products",
    format="parquet",
    columns=("sku", "name", "stock"),
    on_redelivery="replace",
    database=Database(URL, "products", key=("sku",)),
)


@table(
    "clean.suppliers",
    columns={"code": "string", "name": "string", "snapshot_date": "date"},
    write=Merge(newest_by=("snapshot_date",)),
    key=("code",),
    rules=(Rule("snapshot_is_dated", "snapshot_date IS NOT NULL"), Rule("is_named", "name IS NOT NULL", "warn")),
    suppliers="raw.suppliers",
)
def clean_suppliers(suppliers: DataFrame) -> DataFrame:
    """One row per supplier, as last extracted."""
    return suppliers.select("code", "name", snapshot_date().alias("snapshot_date"), *ORIGIN_COLUMNS)


@table(
    "clean.products",
    columns={"sku": "string", "name": "string", "stock": "int", "snapshot_date": "date"},
    write=History(effective_column="snapshot_date", has_snapshots=True),
    key=("sku",),
    rules=(Rule("snapshot_is_dated", "snapshot_date IS NOT NULL"),),
    products="raw.products",
)
def clean_products(products: DataFrame) -> DataFrame:
    """One row per product and time span with the same name and stock."""
    stock = parse("stock", "int").alias("stock")
    day = snapshot_date().alias("snapshot_date")
    return products.select("sku", "name", stock, day, unparsed({"stock": "int"}), *ORIGIN_COLUMNS)


def fill(connection: psycopg.Connection) -> None:
    """Create both tables with their rows."""
    connection.execute("DROP TABLE IF EXISTS suppliers, products")
    # The time is in an hour that clocks in most of Europe skip.
    connection.execute(
        "CREATE TABLE suppliers "
        "(code text, name text, changed bigserial, founded_at timestamp DEFAULT '2013-03-31 02:30')"
    )
    connection.execute("CREATE TABLE products (sku text, name text, stock text)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO suppliers (code, name) VALUES (%s, %s)", SUPPLIERS)
        cursor.executemany("INSERT INTO products VALUES (%s, %s, %s)", PRODUCTS)
