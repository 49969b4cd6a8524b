"""The demo on January: twenty-five days first, then the rest, day by day. Run as a process of its own."""

from __future__ import annotations

import sys
from datetime import date

from jobs import example
from lakehouse.cli import main
from lakehouse.features import Splits
from models.late_arrival import TASK

if __name__ == "__main__":
    example.FIRST_DELIVERY_ENDS = date(2013, 1, 25)
    example.SECOND_DELIVERY = (date(2013, 1, 26), date(2013, 1, 31))
    splits = Splits(
        train=("2013-01-01", "2013-01-20"), choose=("2013-01-21", "2013-01-25"), report=("2013-01-26", "2013-01-31")
    )
    object.__setattr__(TASK, "splits", splits)  # every model module holds the same object
    sys.argv[1:] = ["demo"]
    main()
