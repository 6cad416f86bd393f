"""`python -m benchmarks`: runs the scenarios and writes benchmarks/RESULTS.md; with `--only`, prints and writes nothing."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import described
from benchmarks.report import rendered
from benchmarks.scenarios import ORDER, scenario

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (5)")
    parser.add_argument("--only", nargs="+", choices=ORDER, metavar="SCENARIO", help=f"of {', '.join(ORDER)}")
    asked = parser.parse_args()
    results = []
    for name in asked.only or ORDER:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results.append(scenario(name)(asked.rounds))
    page = rendered(results, described(), asked.rounds, datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"))
    print(page)
    if asked.only is None:
        RESULTS.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
