"""Tables that the shop's staff read."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.tables import incremental, lookup, table
from lakehouse.definitions.write_modes import Merge, Rebuild, Replace

LOOK_BACK_DAYS = 2


@table(
    "mart.receipts",
    columns={"payment_id": "bigint", "customer_id": "bigint", "paid_on": "date", "amount": "double"},
    write=Merge(),
    key=("payment_id",),
    payments="clean.payments",
    orders=lookup("clean.orders", on_change="rebuild"),
)
def receipts(payments: DataFrame, orders: DataFrame) -> DataFrame:
    """One row per payment, with the customer of its order."""
    rows = payments.join(orders.select("order_id", "customer_id"), "order_id", "left")
    return rows.select("payment_id", "customer_id", "paid_on", "amount")


@table(
    "mart.daily_revenue",
    columns={"day": "date", "revenue": "double", "revenue_3d": "double"},
    write=Replace(partition="day"),
    key=("day",),
    rules=(Rule("revenue_is_positive", "revenue > 0", "fail"),),
    payments=incremental(
        "clean.payments", date_column="paid_on", lookback_days=LOOK_BACK_DAYS, affects_days=LOOK_BACK_DAYS
    ),
)
def daily_revenue(payments: DataFrame) -> DataFrame:
    """One row per day with payments; `revenue_3d` adds the two days before."""
    days = payments.groupBy(F.col("paid_on").alias("day")).agg(F.sum("amount").alias("revenue"))
    recent = Window.orderBy(F.unix_date("day")).rangeBetween(-LOOK_BACK_DAYS, 0)
    return days.withColumn("revenue_3d", F.sum("revenue").over(recent))


@table(
    "mart.monthly_orders",
    columns={"month": "date", "orders": "bigint", "amount": "double"},
    write=Replace(partition="month", unit="month"),
    key=("month",),
    orders=incremental("clean.orders", date_column="order_date"),
)
def monthly_orders(orders: DataFrame) -> DataFrame:
    """One row per month with orders."""
    month = F.trunc("order_date", "month").alias("month")
    return orders.groupBy(month).agg(F.count("*").alias("orders"), F.sum("amount").alias("amount"))


@table(
    "mart.top_customers",
    columns={"customer_id": "bigint", "name": "string", "amount": "double"},
    write=Rebuild(),
    key=("customer_id",),
    orders="clean.orders",
    customers=lookup("clean.customers", on_change="rebuild"),
)
def top_customers(orders: DataFrame, customers: DataFrame) -> DataFrame:
    """One row per customer, for the three with the largest amounts."""
    amounts = orders.groupBy("customer_id").agg(F.sum("amount").alias("amount"))
    names = customers.where("is_current").select("customer_id", "name")
    rows = amounts.join(names, "customer_id", "left").select("customer_id", "name", "amount")
    return rows.orderBy(F.desc("amount"), "customer_id").limit(3)
