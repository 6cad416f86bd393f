"""Writes a run down as Markdown: the date, the machine, every promise and whether it was kept, every figure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.result import Result


def rendered(results: Sequence[Result], machine: Sequence[str], rounds: int, date: str) -> str:
    """The page; figures are medians of the rounds, with the least and the most beside them."""
    lines = [
        "# Benchmark results",
        "",
        f"{date}. One run of `make bench`; medians of {rounds} alternating rounds.",
        "Absolute figures move with the machine; the ratios are what to keep.",
        "",
        *(f"- {line}" for line in machine),
        "",
        *_promises(results),
    ]
    for result in results:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _promises(results: Sequence[Result]) -> list[str]:
    rows = ["| promise | target | measured | |", "| --- | --- | --- | --- |"]
    for verdict in (verdict for result in results for verdict in result.verdicts):
        target = verdict.target
        bound = f"{target.side} {number(target.bound)} {target.unit}"
        met = "met" if verdict.met else "**not met**"
        rows.append(f"| {target.promise} | {bound} | {number(verdict.measured)} {target.unit} | {met} |")
    return rows


def _section(result: Result) -> list[str]:
    rows = [f"## {result.title}", ""]
    if result.figures:
        rows += ["| | median | least | most | |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| {f.name} | {number(f.median)} | {number(f.least)} | {number(f.most)} | {f.unit} |" for f in result.figures
    ]
    for note in result.notes:
        rows += ["", f"Note: {note}."]
    return rows


def number(value: float) -> str:
    """A number with the digits that mean something: none after the point from 100 on, else two."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
