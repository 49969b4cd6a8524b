"""Plant defects in a month of flights, count the checks that catch them, and write docs/scorecard.md.

    python -m benchmarks.scorecard [--each 20] [--scratch FOLDER]

The exit code is 1 if a claimed defect was missed or a false alarm was raised.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.scorecard.measure import Scorecard
from benchmarks.scorecard.page import render_page
from deploy.env import PROJECT
from lakehouse.api import load_settings
from lakehouse.engine.spark.session import spark_session
from lakehouse.runs.context import get_revision

PAGE = PROJECT / "docs" / "scorecard.md"
EACH = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--each", type=int, default=EACH, help=f"rows planted of each kind (default: {EACH})")
    parser.add_argument(
        "--scratch", type=Path, default=PROJECT / "data" / "scorecard", help="folder for files and lakes"
    )
    arguments = parser.parse_args()
    scratch = arguments.scratch.resolve()
    when = f"Measured on {datetime.now(UTC):%Y-%m-%d} at revision {get_revision(PROJECT) or 'unknown'}."
    with spark_session(load_settings(root=scratch), scratch / "spark.log") as spark:
        card = Scorecard(spark, scratch)
        untouched, planted = card.measure_untouched(), card.measure_planted(arguments.each)
        refused = card.refused_kinds()
    text = render_page(untouched, planted, refused, when)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    print(f"Written: {PAGE.relative_to(PROJECT)}")
    wrong = [f"missed: {name}" for name in planted.score.missed()]
    wrong += [f"false alarm: {name}" for month in (untouched, planted) for name in month.score.false_alarms()]
    wrong += [f"missed: {name}" for name, is_refused in refused.items() if not is_refused]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
