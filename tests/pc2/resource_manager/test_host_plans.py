from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from common.api.decisions import CardVerdict, LeasePlan, PlanLease
from common.errors import TandemError, Unavailable
from common.vram.amount import GIB
from common.vram.placement import NOT_ASKED
from pc2.resource_manager.host_plans import wanted, weighed

FULL = "20.0 GiB of host RAM needed; 1.0 GiB free"
FITS = "fits, 1.0 GiB to spare"


def verdict(host: str, reason: str = FITS) -> CardVerdict:
    return CardVerdict(host, 0, f"GPU-{host}", reason == FITS, GIB, reason)


def planned(outcome: Any, host: str, reason: str = FITS, *, place: str = "") -> LeasePlan:
    return LeasePlan(outcome, place, f"GPU-{place}" if place else "", GIB, GIB, reason, [verdict(host, reason)])


class Planner:
    """Grants on the first host that is not barred; else says `never`, with every reason."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.barred: Mapping[str, str] = {}

    def plan(self, barred: Mapping[str, str]) -> LeasePlan:
        self.barred = barred
        verdicts = [verdict(host, barred.get(host, FITS)) for host in self.hosts]
        place = next((host for host in self.hosts if host not in barred), "")
        outcome: Any = "grant" if place else "never"
        reason = f"the tightest fit is {place}" if place else "; ".join(f"{h}: {why}" for h, why in barred.items())
        return LeasePlan(outcome, place, f"GPU-{place}" if place else "", GIB, GIB, reason, verdicts)


def both(**told: LeasePlan | TandemError) -> tuple[LeasePlan, Planner]:
    planner = Planner("mainpc", "pc2")
    return weighed(planner.plan, told), planner


@pytest.mark.parametrize("more", [{"files": ["/m.gguf"]}, {"ram_bytes": 1}, {"disk_bytes": 1}, {"cpu_cores": 0.5}])
def test_hosts_are_asked_where_more_than_a_card_is_wanted(more: dict[str, Any]) -> None:
    assert wanted(PlanLease(model="m", bytes=GIB, **more))
    assert not wanted(PlanLease(model="m", bytes=GIB))


def test_a_host_that_would_take_it_is_left_to_the_planner() -> None:
    plan, planner = both(mainpc=planned("grant", "mainpc", place="mainpc"), pc2=planned("grant", "pc2", place="pc2"))
    assert planner.barred == {}
    assert plan == planner.plan({})


def test_a_host_without_the_ram_is_passed_over_and_says_so_itself() -> None:
    plan, _ = both(mainpc=planned("wait", "mainpc", FULL), pc2=planned("grant", "pc2", place="pc2"))
    assert (plan.outcome, plan.host) == ("grant", "pc2")
    assert {each.host: each.reason for each in plan.cards} == {"mainpc": FULL, "pc2": FITS}


def test_where_one_host_may_have_the_ram_later_the_request_waits() -> None:
    plan, _ = both(mainpc=planned("never", "mainpc", "51.2 GiB may be leased"), pc2=planned("wait", "pc2", FULL))
    assert (plan.outcome, plan.host, plan.reason) == ("wait", "", FULL)
    assert [each.host for each in plan.cards] == ["mainpc", "pc2"]


def test_what_no_host_can_ever_lease_is_never_with_every_reason() -> None:
    plan, _ = both(mainpc=planned("never", "mainpc", "too little"), pc2=planned("never", "pc2", "less"))
    assert (plan.outcome, plan.reason) == ("never", "mainpc: too little; pc2: less")


def test_a_host_that_is_not_in_question_bars_nothing() -> None:
    plan, planner = both(mainpc=planned("never", "mainpc", NOT_ASKED), pc2=planned("grant", "pc2", place="pc2"))
    assert planner.barred == {}
    assert plan.outcome == "grant"


def test_a_host_that_gave_no_answer_is_planned_with_where_no_other_would_do_and_the_plan_says_so() -> None:
    away = Unavailable("nobody listens")
    plan, planner = both(mainpc=away, pc2=planned("grant", "pc2", place="pc2"))
    assert (plan.outcome, plan.host, list(planner.barred)) == ("grant", "pc2", ["mainpc"])
    plan, _ = both(mainpc=away, pc2=planned("wait", "pc2", FULL))
    assert (plan.outcome, plan.host) == ("grant", "mainpc")
    assert plan.reason.endswith("; mainpc did not say what RAM, disk, cores and files it has: nobody listens")


def test_a_silent_host_whose_cards_would_not_do_either_changes_nothing() -> None:
    never = planned("never", "pc2", "too small")
    plan = weighed(lambda _: never, {"pc2": Unavailable("nobody listens")})
    assert plan == never
