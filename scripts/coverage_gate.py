"""Decides whether a coverage report is good enough: every branch of the two lowest floors, 90 % of the whole.

Reads what `coverage json` wrote and the floors in pyproject.toml; prints what is missing and where. It never runs a test.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from scripts.floors import PURE, Table, floor_of, table_in

WHOLE_PERCENT: Final = 90.0
ROOT: Final = Path(__file__).resolve().parent.parent


def module_of(path: str) -> str:
    """The dotted name of a source file named relative to the repository."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def shortfalls(report: dict[str, Any], table: Table) -> Iterator[str]:
    """A sentence for each file of the lowest floors that is not covered whole, and one for the total if it is too low."""
    for path, file in sorted(report["files"].items()):
        floor = floor_of(module_of(path), table)
        if floor in PURE and (gaps := _gaps(file)):
            yield f"{path} ({floor}) needs every branch covered: {gaps}"
    total = report["totals"]["percent_covered"]
    if total < WHOLE_PERCENT:
        yield f"the whole is covered to {total:.1f} %, {WHOLE_PERCENT:.0f} % are needed"


def _gaps(file: dict[str, Any]) -> str:
    lines = [f"line {line}" for line in file["missing_lines"]]
    jumps = [f"{start} -> {'exit' if end < 0 else end}" for start, end in file.get("missing_branches", [])]
    return ", ".join(lines + jumps)


def main(report_path: str) -> int:
    """Exit status 0 if nothing is short."""
    report = json.loads(Path(report_path).read_text())
    short = list(shortfalls(report, table_in(ROOT / "pyproject.toml")))
    for line in short:
        print(f"coverage: {line}")
    print(f"coverage: {report['totals']['percent_covered']:.1f} % of the whole, branches counted")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
