"""Deliveries to the shop of the orders example: a first one, and a second with updates, rejects and withdrawn rows."""

from __future__ import annotations

from tests.lakes import TestLake, customer, json_lines, orders_csv, payments_file, set_age

Delivery = tuple[tuple[str, str, str | bytes], ...]

FIRST: Delivery = (
    (
        "raw.orders",
        "1.csv",
        orders_csv(
            "1,10,2024-01-01,2024-01-01 08:00:00,NEW,5",
            "2,11,2024-01-31,2024-01-31 08:00:00,NEW,7",
            "3,11,2024-01-31,2024-01-31 08:00:00,NEW,-7",
        ),
    ),
    ("raw.customers", "1.json", json_lines(customer(10, "Ada", "Oslo", "2024-01-01"))),
    ("raw.payments", "a", payments_file((1, 1, "2024-01-02", 5.0), (2, 2, "2024-01-31", 2.5))),
)
# The file of payments replaces the first one: payment 2 is withdrawn.
SECOND: Delivery = (
    (
        "raw.orders",
        "2.csv",
        orders_csv(
            "1,10,2024-01-01,2024-01-02 08:00:00,PAID,6",
            "2,11,2024-01-31,2024-01-31 08:00:00,NEW,7",
            "4,12,2024-02-01,2024-02-01 08:00:00,NEW,9",
            "5,12,2024-02-01,2024-02-01 08:00:00,NEW,-9",
            "six,12,2024-02-01,2024-02-01 08:00:00,NEW,9",
        ),
    ),
    ("raw.customers", "2.json", json_lines(customer(10, "Ada", "Rom", "2024-02-01"))),
    ("raw.payments", "a", payments_file((1, 1, "2024-01-03", 5.0), (3, 4, "2024-02-01", 0.0))),
)


def land(lake: TestLake, delivery: Delivery) -> None:
    for source, name, content in delivery:
        set_age(lake.land(source, name, content), 60)
