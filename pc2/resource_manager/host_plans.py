"""A plan for a request that wants host RAM, disk, cores or files with its card: what only a host can say of itself, weighed in.

What a host has beside its cards its supervisor alone keeps the account of, so each is asked for its own plan. Hosts that would
not take the request now are left out of the planner's, and what they say stands for them. The planner's own plan decides among
those that would, for it knows who waits at ResourceManager. A host that gave no answer is planned with where no other would
do, by its cards alone, and the plan that chooses it says so. It asks nobody and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from common.api.decisions import LeasePlan, PlanLease
from common.errors import TandemError
from common.vram.placement import NOT_ASKED, soonest

UNSAID: Final = "did not say what RAM, disk, cores and files it has"


def wanted(asked: PlanLease) -> bool:
    """Whether the request wants anything beside cards."""
    return bool(asked.files or asked.ram_bytes or asked.disk_bytes or asked.cpu_cores)


def weighed(plan: Callable[[Mapping[str, str]], LeasePlan], told: Mapping[str, LeasePlan | TandemError]) -> LeasePlan:
    """The plan for all hosts; `plan` is the planner's with these hosts barred, `told` what each host says."""
    refusing = {host: each for host, each in told.items() if isinstance(each, LeasePlan) and _refuses(each)}
    silent = {host: f"{UNSAID}: {each.message}" for host, each in told.items() if isinstance(each, TandemError)}
    barred = {host: _reason(each) for host, each in refusing.items()}
    own = plan(barred | silent)
    if silent and own.outcome == "never":
        own = plan(barred)
        if own.host in silent:
            own = msgspec.structs.replace(own, reason=f"{own.reason}; {own.host} {silent[own.host]}")
    best = soonest([own, *(each for each in refusing.values() if each.outcome == "wait")])
    verdicts = [each for each in own.cards if each.host not in refusing]
    verdicts += [verdict for each in refusing.values() for verdict in each.cards]
    return msgspec.structs.replace(best, cards=verdicts)


def _refuses(plan: LeasePlan) -> bool:
    """Whether the host has a card in question and would not give it now."""
    return plan.outcome in ("wait", "never") and any(each.reason != NOT_ASKED for each in plan.cards)


def _reason(plan: LeasePlan) -> str:
    return next(each.reason for each in plan.cards if each.reason != NOT_ASKED)
