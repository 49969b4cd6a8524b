"""The command that reports how much of the tables' plans a GPU would run."""

from __future__ import annotations

from lakehouse import api
from lakehouse.cli.options import AsJson, Select
from lakehouse.cli.terminal import console
from lakehouse.runs import context, logs


def report_coverage(select: Select = None, as_json: AsJson = False) -> None:
    """Report which parts of each table's plan and write would run on a GPU, which would not, and why.

    Needs no GPU. Nothing is computed or written.
    """
    from lakehouse.cli.render.gpu import print_coverage

    settings = api.load_settings()
    with (
        logs.log_run(settings, context.create_run(settings.project, settings.logs)) as log,
        console.status("asking the plugin"),
    ):
        reports = api.report_gpu_coverage(settings, select or (), log)
    print_coverage(console, reports, as_json)
