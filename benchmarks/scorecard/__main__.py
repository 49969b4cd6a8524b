"""Plant defects in a month of flights, count what catches them, and write docs/scorecard.md.

    python -m benchmarks.scorecard [--each 20] [--scratch FOLDER]

It ends with 1 where a claimed defect is missed or a false alarm was raised.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.scorecard.measure import Scorecard
from benchmarks.scorecard.page import page
from deploy.env import PROJECT
from lakehouse.api import load_settings
from lakehouse.engine.spark.session import spark_session
from lakehouse.runs.scheduler import get_revision

PAGE = PROJECT / "docs" / "scorecard.md"
EACH = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=EACH, help=f"rows planted of each kind (default: {EACH})")
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "scorecard", help="where files and lakes go")
    arguments = parser.parse_args()
    scratch = arguments.scratch.resolve()
    when = f"Measured on {datetime.now(UTC):%Y-%m-%d} at revision {get_revision() or 'unknown'}."
    with spark_session(load_settings(root=scratch), scratch / "spark.log") as spark:
        card = Scorecard(spark, scratch)
        untouched, planted, spoiled = card.untouched(), card.planted(arguments.each), card.all_spoiled()
    text = page(untouched, planted, spoiled, when)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    print(f"Written: {PAGE.relative_to(PROJECT)}")
    wrong = [f"missed: {name}" for name in planted.score.missed()]
    wrong += [f"false alarm: {name}" for one in (untouched, planted) for name in one.score.false_alarms()]
    wrong += [f"missed: {name}" for name, refused in spoiled.items() if not refused]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
