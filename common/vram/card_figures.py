"""One card's account in the figures that people and other hosts see, such that they add up.

    total = free + measured (held by the leases' owners) + strangers + nameless (held by no listed process)

A driver may contradict itself: its processes hold more than its card uses, or more than the card has. Then less is shown
free, and what does not fit into the card is left away. Of a card that could not be measured nothing is known, and
so all of it is shown as nameless. It judges nothing and grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.api.gpus import Card, Stranger
from common.vram.cards import CardSample
from common.vram.ledger import Account, LedgerPolicy, capacity


def figures(sample: CardSample, drawn: Account, policy: LedgerPolicy, reason: str) -> Card:
    """The card as measured and leased; `reason` says why nothing may be granted on it, empty where something may."""
    total = sample.total_bytes
    known = drawn.measured_bytes + sum(each.bytes for each in drawn.strangers)
    free = max(0, min(drawn.free_bytes, total - known))
    measured = min(drawn.measured_bytes, total - free)
    strangers = _within(drawn.strangers, total - free - measured)
    return Card(
        host=sample.host,
        card=sample.index,
        card_uuid=sample.uuid,
        name=sample.name,
        total_bytes=total,
        free_bytes=free,
        leased_bytes=drawn.leased_bytes,
        used_bytes=sample.used_bytes,
        grantable_bytes=0 if reason else drawn.grantable_bytes,
        simulated=sample.simulated,
        schedulable=not reason,
        reason=reason,
        temperature_c=sample.temperature_c,
        utilization_pct=sample.utilization_pct,
        strangers=strangers,
        measured_bytes=measured,
        nameless_bytes=total - free - measured - sum(each.bytes for each in strangers),
        guard_bytes=total - capacity(total, policy),
        power_w=sample.vitals.power_w,
        power_limit_w=sample.vitals.power_limit_w,
        throttled=list(sample.vitals.throttled),
        mig=sample.mig,
    )


def _within(strangers: Iterable[Stranger], left: int) -> list[Stranger]:
    """The strangers with as much of what they hold as fits into the bytes that are left."""
    shown = []
    for each in strangers:
        held = min(each.bytes, left)
        left -= held
        shown.append(each if held == each.bytes else Stranger(pid=each.pid, name=each.name, bytes=held))
    return shown
