"""Options that several commands share."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import typer

Select = Annotated[
    list[str] | None,
    typer.Option("--select", "-s", help="A table, +t (and its inputs), t+ (and its downstream tables), or a layer."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
FirstDay = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")]
LastDay = Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, included.")]
FullRefresh = Annotated[bool, typer.Option(help="Rebuild the selected tables.")]
Limit = Annotated[int, typer.Option(help="The largest number of rows to print.")]
TaskName = Annotated[str | None, typer.Argument(help="The name of a prediction task.")]


def as_dates(first: datetime | None, last: datetime | None) -> tuple[date | None, date | None]:
    """Return the dates of a range of days; None for an open end."""
    return first and first.date(), last and last.date()
