"""The command that delivers files to the landing zone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lakehouse import api
from lakehouse.cli.example import load_example
from lakehouse.cli.options import FirstDay, LastDay, as_dates
from lakehouse.cli.render.printing import escape_text
from lakehouse.cli.render.runs import show_upload
from lakehouse.cli.terminal import console
from lakehouse.errors import SettingsError
from lakehouse.runs import context
from lakehouse.storage.location import get_relative_path


def land_files(
    source: Annotated[str | None, typer.Argument(help="A source, such as bronze.orders.")] = None,
    files: Annotated[list[Path] | None, typer.Argument(help="Files to deliver to the source.")] = None,
    since: FirstDay = None,
    until: LastDay = None,
) -> None:
    """Deliver files to a source's landing folder, each atomically. Without a source, deliver the example's data."""
    settings = api.load_settings()
    if source is None and settings.example:
        load_example(settings).land(settings, console, *as_dates(since, until))
        return
    from lakehouse.definitions.sources import Source
    from lakehouse.landing.delivery import deliver

    declarations = context.open_catalog(settings).graph.declarations
    sources = ", ".join(name for name, entry in declarations.items() if isinstance(entry, Source)) or "none"
    if source is None:
        raise SettingsError(
            f"No source was named. Run `lakehouse land SOURCE FILE...`; declared sources: {sources}. "
            "A project with the setting `example` also has data of its own."
        )
    declared = declarations.get(source)
    if not isinstance(declared, Source):
        raise SettingsError(f"{source!r} is not a source. Choose one of {sources}.")
    if not files:
        raise SettingsError(f"{source}: no file was named. Run `lakehouse land {source} FILE...`.")
    with show_upload(console, files) as progress:
        paths = deliver(settings.landing, declared, files, progress)
    for path in paths:
        console.print(escape_text(get_relative_path(path, settings.root)), highlight=False, soft_wrap=True)
