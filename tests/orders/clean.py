"""Parsed tables: one for each source, and a log of every line about an order."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Append, History, Merge
from lakehouse.spark import parse, unparsed

ORDER_TYPES = {
    "order_id": "bigint",
    "customer_id": "bigint",
    "order_date": "date",
    "updated_at": "timestamp",
    "amount": "double",
}
ORDER_COLUMNS = {**ORDER_TYPES, "status": "string"}


def order_columns() -> list[Column]:
    return [*[parse(c, kind).alias(c) for c, kind in ORDER_TYPES.items()], F.lower("status").alias("status")]


@table(
    "clean.order_log",
    columns=ORDER_COLUMNS,
    write=Append(),
    rules=(Rule("order_is_named", "order_id IS NOT NULL"),),
    orders="raw.orders",
)
def order_log(orders: DataFrame) -> DataFrame:
    """One row per landed line about an order."""
    return orders.select(*order_columns(), unparsed(ORDER_TYPES), *ORIGIN_COLUMNS)


@table(
    "clean.orders",
    columns=ORDER_COLUMNS,
    write=Merge(newest_by=("updated_at",)),
    key=("order_id",),
    rules=(
        Rule("amount_is_usual", "amount < 10000", "warn"),
        Rule("amount_is_not_negative", "amount IS NULL OR amount >= 0"),
        Rule("day_is_known", "order_date IS NOT NULL"),
        Rule("not_from_the_future", "order_date IS NULL OR order_date < DATE'2100-01-01'", "fail"),
    ),
    orders="raw.orders",
)
def orders(orders: DataFrame) -> DataFrame:
    """One row per order, as last updated."""
    return orders.select(*order_columns(), unparsed(ORDER_TYPES), *ORIGIN_COLUMNS)


@table(
    "clean.customers",
    columns={"customer_id": "bigint", "name": "string", "city": "string", "as_of": "date"},
    write=History(effective_column="as_of"),
    key=("customer_id",),
    rules=(Rule("snapshot_is_dated", "as_of IS NOT NULL"),),
    customers="raw.customers",
)
def customers(customers: DataFrame) -> DataFrame:
    """One row per customer and snapshot."""
    return customers.select("customer_id", "name", "city", "as_of", *ORIGIN_COLUMNS)


@table(
    "clean.payments",
    columns={"payment_id": "bigint", "order_id": "bigint", "paid_on": "date", "amount": "double"},
    write=Merge(),
    key=("payment_id",),
    rules=(Rule("amount_is_positive", "amount > 0"), Rule("day_is_known", "paid_on IS NOT NULL")),
    payments="raw.payments",
)
def payments(payments: DataFrame) -> DataFrame:
    """One row per payment, as last delivered."""
    return payments.select("payment_id", "order_id", "paid_on", "amount", *ORIGIN_COLUMNS)
