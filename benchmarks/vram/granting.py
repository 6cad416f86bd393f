"""How long a host's leases take to decide one that fits: its card, then its facts and the reply, then all that is told of it."""

from __future__ import annotations

import time
from itertools import count, islice
from random import Random

from benchmarks.vram.deciding import CARD_GIB, NOW
from common.api.leases import LeaseGranted, Owner, ReleaseLease
from common.api.supervisor import AdmitLease
from common.vram.amount import GIB
from common.vram.cards import CardSample
from common.vram.lease_admission import choose
from common.vram.lease_decision import Announce, Decision, Note
from common.vram.lease_facts import rows
from common.vram.lease_state import LeaseState
from common.vram.lease_table import LeaseTable
from common.vram.placement import Wish

HOST = "host000"
AT = "2025-01-01T00:00:00Z"
START_TIME = 5_000
HELD_GIB = (0.5, 2.0)
ASKED_GIB = (0.5, 2.0)
_NUMBERS = count(1_000_000)
"""No two decisions are about one lease id."""


def table(cards: int, leases: int) -> LeaseTable:
    """A host's table of so many cards, all measured, with so many leases spread evenly, of a process each."""
    return _filled(cards, leases)[0]


def chosen_us(cards: int, leases: int, decisions: int, seed: int = 2) -> list[float]:
    """Microseconds until the card of each request is known, from the least; the rest of each decision goes on in between."""
    made, state = _filled(cards, leases)
    rng, took = Random(seed), []
    for number in islice(_NUMBERS, decisions):
        asked = _asked(number, "asked", rng.uniform(*ASKED_GIB))
        process = state.pinned(asked.owner) if asked.owner else None
        began = time.perf_counter()
        found, _ = choose(state, asked, Wish.of(asked), NOW, (), lease_id=asked.lease_id, process=process)
        took.append((time.perf_counter() - began) * 1e6)
        assert found, asked
        granted = made.admit(asked, NOW, AT)
        _apply(granted, made, state)
        _apply(made.release(_released(granted), NOW, AT), made, state)
        state.book.cards(NOW)
    return sorted(took)


def decided_us(made: LeaseTable, decisions: int, seed: int = 2) -> list[float]:
    """Microseconds of each decision with its facts and its reply, from the least."""
    return sorted(_took(made, decisions, seed, told=False))


def told_us(made: LeaseTable, decisions: int, seed: int = 2) -> list[float]:
    """The same until the rows of its facts, its event and its receipt are drawn up, all that is left being to write and send."""
    return sorted(_took(made, decisions, seed, told=True))


def _filled(cards: int, leases: int, seed: int = 1) -> tuple[LeaseTable, LeaseState]:
    """The table, and the state that it decides on, kept beside it by the same facts."""
    rng, made, state = Random(seed), LeaseTable(HOST), LeaseState(HOST)
    samples = [_sample(number) for number in range(cards)]
    _apply(made.open_epoch(), made, state)
    made.measure(samples, {})
    state.book.measure(samples, {})
    for number in range(leases):
        asked = _asked(number, f"model-{number}", rng.uniform(*HELD_GIB), f"GPU-{number % cards:04d}")
        _apply(made.admit(asked, NOW, AT), made, state)
    made.cards(NOW)
    return made, state


def _took(made: LeaseTable, decisions: int, seed: int, *, told: bool) -> list[float]:
    rng, took = Random(seed), []
    for number in islice(_NUMBERS, decisions):
        asked = _asked(number, "asked", rng.uniform(*ASKED_GIB))
        began = time.perf_counter()
        decision = made.admit(asked, NOW, AT)
        if told:
            _tell(made, decision)
        took.append((time.perf_counter() - began) * 1e6)
        if not told:
            _apply(decision, made)
        _apply(made.release(_released(decision), NOW, AT), made)
        made.cards(NOW)
    return took


def _released(decision: Decision) -> ReleaseLease:
    granted = decision.reply
    assert isinstance(granted, LeaseGranted), granted
    return ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)


def _apply(decision: Decision, *folds: LeaseTable | LeaseState) -> None:
    for fact in decision.facts:
        for each in folds:
            each.apply(fact, NOW)


def _tell(made: LeaseTable, decision: Decision) -> None:
    for fact in decision.facts:
        rows(fact)
        made.apply(fact, NOW)
    told = [each.change for each in decision.instructions if isinstance(each, Announce)]
    noted = [each.receipt for each in decision.instructions if isinstance(each, Note)]
    assert told, "a grant is announced"
    assert noted, "a grant has a receipt"


def _asked(number: int, model: str, gib: float, card_uuid: str = "") -> AdmitLease:
    owner = Owner(agent_name=model, host=HOST, pid=1 + number, start_time=START_TIME)
    return AdmitLease(lease_id=f"lease-{number}", model=model, bytes=int(gib * GIB), owner=owner, card_uuid=card_uuid)


def _sample(number: int) -> CardSample:
    total = int(CARD_GIB * GIB)
    return CardSample(
        host=HOST,
        index=number,
        uuid=f"GPU-{number:04d}",
        name="card",
        total_bytes=total,
        free_bytes=total,
        used_bytes=0,
        processes=(),
        sampled_at=NOW,
    )
