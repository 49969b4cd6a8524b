"""Which test files run when: `python -m tests.shares packages`, or the number of a share of the rest, prints them.

`make test` runs the folders named after packages. The rest, `tests/servers`, `tests/faults` and `tests/example`, is split into
four shares of about the same time, of which CI runs one: the number of commits modulo four says which.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parent
REST = ("servers", "faults", "example")
# The longest first: two files run side by side, and none may be left alone at the end.
SHARES = (
    ("servers/test_profiles.py", "faults/test_undo.py", "faults/test_boundaries.py", "faults/test_suites.py", "faults/test_reproduce.py",
     "faults/test_promoting.py", "faults/test_together.py", "faults/test_quality.py", "faults/test_backfill.py", "faults/test_run.py"),
    ("servers/test_store.py", "servers/test_s3_writers.py", "servers/test_stack.py", "servers/test_vacuum.py", "servers/test_journal.py",
     "servers/test_backup.py", "faults/test_names.py"),
    ("faults/test_registry.py", "faults/test_backup.py", "servers/test_database.py", "faults/test_kill.py", "servers/test_compose.py",
     "faults/test_tune.py", "faults/test_replay.py", "faults/test_reconcile.py", "servers/test_lease.py", "faults/test_files.py",
     "faults/test_convergence.py", "faults/test_logs.py", "servers/test_s3_readers.py", "faults/test_values.py"),
    ("example/test_demo.py", "example/test_demo_on_servers.py", "example/gpu/test_parity.py", "example/test_page.py", "example/test_clocks.py",
     "example/test_scorecard.py", "faults/test_training.py", "faults/test_api_process.py", "faults/test_monitor.py",
     "example/gpu/test_training.py", "example/test_drivers.py"),
)  # fmt: skip
# Of the packages' tests, what takes the longest.
FIRST = (
    "jobs/test_example.py",
    "models/test_models.py",
    "lakehouse/writes/test_executor.py",
    "gold/test_flight_features.py",
    "lakehouse/ml/test_monitoring.py",
    "lakehouse/ml/test_training.py",
    "lakehouse/ml/test_scoring.py",
)


def files(folder: Path) -> list[str]:
    return sorted(file.relative_to(TESTS).as_posix() for file in folder.rglob("test_*.py"))


def packages() -> list[str]:
    """The test files of all packages, the longest first."""
    folders = (one for one in TESTS.iterdir() if one.is_dir() and one.name not in REST)
    found = [file for folder in folders for file in files(folder)]
    return [*FIRST, *(file for file in sorted(found) if file not in FIRST)]


def select_share(number: int) -> list[str]:
    """The test files of a share.

    Raises:
        SystemExit: a file of the rest is in no share, in two, or gone.
    """
    listed = [file for files_of_one in SHARES for file in files_of_one]
    rest = [file for folder in REST for file in files(TESTS / folder)]
    if sorted(listed) != sorted(rest):
        raise SystemExit(
            f"tests/shares.py: SHARES must name each file of {', '.join(REST)} once: {sorted({*listed} ^ {*rest})}."
        )
    return list(SHARES[number])


if __name__ == "__main__":
    wanted = sys.argv[1]
    sys.stdout.write(
        " ".join(f"tests/{file}" for file in (packages() if wanted == "packages" else select_share(int(wanted))))
    )
