"""Commands that serve until they are stopped: the API and the example's page."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lakehouse import api
from lakehouse.cli.options import TaskName
from lakehouse.cli.terminal import console
from lakehouse.runs import context, logs


def serve_predictions(
    task: TaskName = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free port.")] = 8000,
    canary: Annotated[float, typer.Option(min=0, max=1, help="The challenger's share of the requests.")] = 0,
    refresh_seconds: Annotated[float, typer.Option(min=0.1, help="Time between two checks of the registry.")] = 10,
) -> None:
    """Answer requests for predictions over HTTP with the champion. Callers must send the key in SERVING_API_KEY."""
    settings = api.load_settings()
    with logs.log_run(settings, context.create_run(settings.project, settings.logs)) as log:
        # Imported by name: the platform does not depend on packages built on it.
        server: Any = importlib.import_module("serving.api.server")
        notify = _print_with_log(log)
        server.serve(
            settings, task, host=host, port=port, canary=canary, refresh_seconds=refresh_seconds, announce=notify
        )


def serve_page(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at, on 127.0.0.1.")] = 8501,
) -> None:
    """Serve the web page of the example. It asks the API at SERVING_API_URL, by default that of `serve`."""
    settings = api.load_settings()
    with logs.log_run(settings, context.create_run(settings.project, settings.logs)) as log:
        server: Any = importlib.import_module("serving.app.server")
        server.serve(port, log, _print_with_log(log))


def _print_with_log(log: Path) -> Callable[[str], None]:
    """Return a function that prints a server's message and the path of its log."""
    return lambda text: console.print(f"{text} The log is {log}.", markup=False, highlight=False, soft_wrap=True)
