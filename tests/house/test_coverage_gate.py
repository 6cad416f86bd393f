from __future__ import annotations

from typing import Any

import pytest

from scripts.coverage_gate import module_of, shortfalls

TABLE = {"words": ["common.ids"], "rules": ["common.wire"], "adapters": ["common.transport"], "shells": [], "doors": []}


def report(path: str, *, lines: list[int], jumps: list[list[int]], whole: float = 95.0) -> dict[str, Any]:
    file = {"missing_lines": lines, "missing_branches": jumps}
    return {"files": {path: file}, "totals": {"percent_covered": whole}}


@pytest.mark.parametrize(
    ("path", "module"),
    [("common/wire/codec.py", "common.wire.codec"), ("common/wire/__init__.py", "common.wire")],
)
def test_a_file_is_a_module(path: str, module: str) -> None:
    assert module_of(path) == module


def test_a_missing_line_or_branch_of_a_rule_is_short() -> None:
    (short,) = shortfalls(report("common/wire/codec.py", lines=[7], jumps=[[8, 9], [8, -1]]), TABLE)
    assert short == "common/wire/codec.py (rules) needs every branch covered: line 7, 8 -> 9, 8 -> exit"


def test_an_adapter_may_miss_a_line() -> None:
    assert list(shortfalls(report("common/transport/sockets.py", lines=[7], jumps=[]), TABLE)) == []


def test_the_whole_needs_ninety_percent() -> None:
    (short,) = shortfalls(report("common/ids.py", lines=[], jumps=[], whole=89.4), TABLE)
    assert short == "the whole is covered to 89.4 %, 90 % are needed"
