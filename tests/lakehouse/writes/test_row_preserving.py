"""Files in any order and in any batches give the same tables as one run over all files."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.lakes import TestLake, customer, json_lines, orders_csv, payments_file

Delivery = tuple[str, str, str | bytes]

DELIVERIES: tuple[Delivery, ...] = (
    (
        "raw.orders",
        "01.csv",
        orders_csv(
            "1,10,2024-01-01,2024-01-01 08:00:00,NEW,5",
            "2,11,2024-01-31,2024-01-31 08:00:00,NEW,7.5",
            "1,10,2024-01-01,2024-01-02 08:00:00,PAID,5",
            "3,12,2024-02-01,2024-02-01 08:00:00,NEW,-1",
        ),
    ),
    (
        "raw.orders",
        "02.csv",
        orders_csv(
            "2,11,2024-02-01,2024-02-02 08:00:00,MOVED,7.5",
            "4,10,2024-02-03,2024-02-03 08:00:00,NEW,20000",
            "x,10,2024-02-03,2024-02-03 08:00:00,NEW,1",
        ),
    ),
    (
        "raw.orders",
        "03.csv.gz",
        orders_csv(
            "1,10,2024-01-01,2024-01-01 09:00:00,LATE,6",
            "5,13,2024-03-01,2024-03-01 08:00:00,NEW,11",
            "4,10,2024-02-03,2024-02-03 08:00:00,NEW,20000",
        ),
    ),
    (
        "raw.customers",
        "2024-01-01.json",
        json_lines(customer(10, "Ada", "Oslo", "2024-01-01"), customer(11, "Bo", "Rom", "2024-01-01")),
    ),
    (
        "raw.customers",
        "2024-02-01.json",
        json_lines(customer(10, "Ada", "Bergen", "2024-02-01"), customer(11, "Bo", "Rom", "2024-02-01")),
    ),
    ("raw.customers", "2024-03-01.json", json_lines(customer(10, "Ada", "Oslo", "2024-03-01"))),
    ("raw.payments", "a.parquet", payments_file((1, 1, "2024-01-02", 5.0), (2, 2, "2024-01-03", 2.5))),
    ("raw.payments", "b.parquet", payments_file((3, 2, "2024-01-04", 5.0), (4, 4, "2024-01-31", 0.0))),
    ("raw.payments", "c.parquet", payments_file((5, 5, "2024-01-06", 1.0))),
)


def deliver(lake: TestLake, deliveries: tuple[Delivery, ...] | list[Delivery]) -> None:
    for delivery in deliveries:
        lake.land(*delivery)


def test_any_order_and_batches_give_the_same_tables(shop: Callable[..., TestLake]) -> None:
    whole = shop("whole")
    deliver(whole, DELIVERIES)
    whole.run()
    expected = whole.content()
    assert all(expected.values()), "every table has rows to compare"
    for seed, batches in ((1, 2), (2, 3)):
        lake = shop(f"in_batches_{seed}")
        shuffled = random.Random(seed).sample(DELIVERIES, len(DELIVERIES))
        cuts = sorted(random.Random(seed).sample(range(2, len(DELIVERIES) - 1), batches - 1))
        for first, last in zip([0, *cuts], [*cuts, len(DELIVERIES)], strict=True):
            deliver(lake, shuffled[first:last])
            lake.run()
        assert lake.content() == expected, f"delivered as {[delivery[:2] for delivery in shuffled]}, cut at {cuts}"
    lake.run(full_refresh=True)
    assert lake.content() == expected
