"""Files of each test run: `python -m tests.shares packages` prints those of the packages, a number those of a share.

`make test` runs the folders named after packages. The other folders are `tests/servers`, `tests/faults` and
`tests/example`. They are split into four shares of about the same duration. CI runs one share: the number of commits
modulo four selects it.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parent
REST = ("servers", "faults", "example")
# The longest first: two files run side by side, and none may run alone at the end.
SHARES = (
    (
        "servers/test_profiles.py",
        "faults/test_rollback.py",
        "faults/test_boundaries.py",
        "faults/test_suites.py",
        "faults/test_reproduction.py",
        "faults/test_promoting.py",
        "faults/test_together.py",
        "faults/test_quality.py",
        "faults/test_backfill.py",
        "faults/test_run.py",
        "servers/test_digests.py",
    ),
    (
        "servers/test_s3_writers.py",
        "servers/test_store.py",
        "servers/test_stack.py",
        "servers/test_vacuum.py",
        "servers/test_journal.py",
        "servers/test_backup.py",
        "faults/test_wide_tables.py",
        "faults/test_sentinel_dates.py",
        "faults/test_names.py",
    ),
    (
        "faults/test_registry.py",
        "faults/test_backup.py",
        "servers/test_database.py",
        "faults/test_kill.py",
        "servers/test_compose.py",
        "faults/test_tune.py",
        "faults/test_replay.py",
        "faults/test_reconciliation.py",
        "servers/test_lease.py",
        "faults/test_files.py",
        "faults/test_disk.py",
        "faults/test_staging.py",
        "faults/test_convergence.py",
        "faults/test_logs.py",
        "servers/test_s3_readers.py",
        "faults/test_values.py",
    ),
    (
        "example/test_demo.py",
        "example/test_demo_on_servers.py",
        "example/gpu/test_parity.py",
        "example/test_page.py",
        "example/test_clocks.py",
        "example/test_scorecard.py",
        "faults/test_training.py",
        "faults/test_server.py",
        "faults/test_monitor.py",
        "example/gpu/test_training.py",
        "example/test_contributions.py",
        "example/test_wheel.py",
    ),
)
# The slowest of the packages' tests.
FIRST = (
    "jobs/test_example.py",
    "models/test_models.py",
    "lakehouse/writes/test_executor.py",
    "gold/test_flight_features.py",
    "lakehouse/ml/test_monitoring.py",
    "lakehouse/ml/test_training.py",
    "lakehouse/ml/test_scoring.py",
)


def list_files(folder: Path) -> list[str]:
    return sorted(file.relative_to(TESTS).as_posix() for file in folder.rglob("test_*.py"))


def list_packages() -> list[str]:
    """Return the test files of all packages, the slowest first."""
    folders = (path for path in TESTS.iterdir() if path.is_dir() and path.name not in REST)
    names = [file for folder in folders for file in list_files(folder)]
    return [*FIRST, *(file for file in sorted(names) if file not in FIRST)]


def select_share(number: int) -> list[str]:
    """Return the test files of a share.

    Raises:
        SystemExit: a file of the rest is in no share or in two, or a share names a missing file.
    """
    listed = [file for share in SHARES for file in share]
    rest = [file for folder in REST for file in list_files(TESTS / folder)]
    if sorted(listed) != sorted(rest):
        raise SystemExit(
            f"tests/shares.py: SHARES must name each file of {', '.join(REST)} once: {sorted({*listed} ^ {*rest})}."
        )
    return list(SHARES[number])


if __name__ == "__main__":
    argument = sys.argv[1]
    sys.stdout.write(
        " ".join(
            f"tests/{file}" for file in (list_packages() if argument == "packages" else select_share(int(argument)))
        )
    )
