"""Leases of no card: of the RAM, disk and cores of one host alone, as for an engine that computes on the CPU.

Cards have no say in them: none is needed, and one that is closed is no hindrance. Nothing is evicted for them, and they make
room for nobody. Only the host itself asks for one, with `cards` 0. Functions here decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.api.supervisor import AdmitLease
from common.vram import lease_beside
from common.vram.lease_state import LeaseState
from common.vram.placement import Candidate, Choice, Wish


def choose(state: LeaseState, asked: AdmitLease, wish: Wish, missing_files: Sequence[str] = ()) -> Choice:
    """What would happen to the request now: `grant`, `wait` for host RAM, disk or cores, or `never`."""
    if missing_files:
        return Choice("never", None, 0, _why(state, wish, f"it lacks {', '.join(missing_files)}"), wish, ())
    short = lease_beside.shortage(state, asked, asked.lease_id)
    if short is not None:
        reason, oversized = _why(state, wish, short.reason), (state.host,) if short.never else ()
        return Choice("never" if short.never else "wait", None, 0, reason, wish, (), oversized=oversized)
    place = Candidate(state.host, 0, "", 0, 0)
    return Choice("grant", place, 0, f"{wish.model} needs no card", wish, (), cards=(place,))


def _why(state: LeaseState, wish: Wish, why: str) -> str:
    return f"{wish.model} needs no card, but {state.host} has no room for it: {why}"
