"""Retention: which ended requests are let go of, and whose result is dropped while how it ended stays known.

An ended request, and with it its idempotency key, is kept for `kept_s` and while no more than `kept` are; the oldest goes first.
Results share `kept_bytes`; the oldest result goes first, and a repeated key still finds its request.

It forgets nothing itself: it returns the facts.
"""

from __future__ import annotations

from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.request_facts import Fact, RequestForgotten, ResultDropped


def excess(book: RequestBook, now: float) -> tuple[Fact, ...]:
    """The facts that bring the book back within its limits at `now` (monotonic seconds)."""
    limits = book.limits
    facts: list[Fact] = []
    bytes_over = book.kept_bytes - limits.kept_bytes
    gone: set[str] = set()
    for request_id, ended in book.ended.items():
        if len(book.ended) - len(gone) <= limits.kept and now - ended.at <= limits.kept_s:
            break
        gone.add(request_id)
        facts.append(RequestForgotten(request_id=request_id))
        bytes_over -= book.results.get(request_id, 0)
    for request_id, size in book.results.items():
        if bytes_over <= 0:
            break
        if request_id not in gone:
            facts.append(ResultDropped(request_id=request_id))
            bytes_over -= size
    return tuple(facts)
