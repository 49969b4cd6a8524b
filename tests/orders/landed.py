"""Sources: orders as CSV, snapshots of customers as JSON lines, payments as Parquet."""

from __future__ import annotations

from lakehouse.definitions.sources import source

orders = source(
    "raw.orders",
    landing="orders",
    columns=("order_id", "customer_id", "order_date", "updated_at", "status", "amount"),
)

customers = source(
    "raw.customers",
    landing="customers",
    format="json",
    columns={"customer_id": "bigint", "name": "string", "city": "string", "as_of": "date"},
)

# A redelivered file of payments is complete: a payment that it lacks was withdrawn.
payments = source(
    "raw.payments",
    landing="payments",
    format="parquet",
    columns={"payment_id": "bigint", "order_id": "bigint", "paid_on": "date", "amount": "double"},
    on_redelivery="replace",
)
