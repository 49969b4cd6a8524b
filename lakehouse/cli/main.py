"""The command line: its commands, its global option, and how errors end it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lakehouse.cli import checking, example, gpu, landing, models, quarantine, repair, rollback, servers, spark, tables
from lakehouse.cli.terminal import errors, print_error, print_unexpected_error
from lakehouse.errors import LakehouseError, SettingsError
from lakehouse.extras import explain_missing_package
from lakehouse.project import VARIABLE, activate, find_root

INTERRUPTED: Final = 128 + signal.SIGINT
COMMANDS: Final[Sequence[tuple[str, Callable[..., None]]]] = (
    ("demo", example.run_demo),
    ("land", landing.land_files),
    ("check", checking.check_project),
    ("plan", tables.show_plan),
    ("run", tables.run_tables),
    ("status", tables.show_status),
    ("lineage", tables.show_lineage),
    ("reconcile", tables.reconcile_lake),
    ("tables", tables.list_tables),
    ("history", tables.show_history),
    ("sql", tables.query_tables),
    ("rollback", rollback.roll_back_run),
    ("repair", repair.repair_lake),
    ("vacuum", tables.vacuum_table),
    ("train", models.train_model),
    ("tune", models.tune_model),
    ("reproduce", models.reproduce_model),
    ("score", models.score_days),
    ("monitor", models.monitor_champion),
    ("serve", servers.serve_predictions),
    ("app", servers.serve_page),
    ("gpu-report", gpu.report_coverage),
    ("spark-conf", spark.write_properties),
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="An open lakehouse: land, plan, run, query, train, score, monitor.",
)
for name, command in COMMANDS:
    app.command(name)(command)
app.add_typer(quarantine.group, name="quarantine")


@app.callback()
def choose_project(
    project: Annotated[
        Path | None,
        typer.Option("--project", help="The project's folder; by default the nearest one above with conf/base.yml."),
    ] = None,
) -> None:
    """Choose the project."""
    if project is not None:
        os.environ[VARIABLE] = str(project)
    with suppress(SettingsError):  # a command that needs a project reports it; --help needs none
        activate(find_root())


def main(arguments: Sequence[str] | None = None, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Run a command, and exit. An error prints a message without a stack trace, and exits with 2.

    Args:
        arguments: The command and its arguments. Those of the process by default.
        defaults: Values for options that are not passed, by command and option.
    """
    try:
        app(arguments, standalone_mode=True, default_map=defaults)
    except LakehouseError as error:
        print_error(error)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer prints nothing for it
            errors.print("Interrupted. Committed tables are kept. Run the command again to continue.", highlight=False)
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # A fault is reported in words as well. A panic of a Rust library is no Exception.
        if missing := explain_missing_package(error):
            print_error(missing)
        else:
            print_unexpected_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
