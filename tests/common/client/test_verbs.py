from __future__ import annotations

import random
from typing import Any

import pytest

from common.api import core_orchestrator as core
from common.api import leases
from common.api.words import Access, Empty
from common.client.verbs import keyed, repeatable, request_for, verb_named
from common.errors import BadRequest


def test_a_catalogued_verb_by_its_name_is_as_idempotent_as_the_catalog_says() -> None:
    assert verb_named("get_agent_endpoint", "CoreOrchestrator").idempotent
    assert not verb_named("submit_request", "CoreOrchestrator").idempotent
    assert verb_named("list_leases", "Supervisor/mainpc").access is Access.READ
    assert verb_named("ping", "Supervisor/mainpc").idempotent
    assert verb_named("submit_request", "CoreOrchestrator").part == dict[str, Any]
    assert verb_named("ping", "CoreOrchestrator").part is None


def test_a_verb_nobody_catalogued_may_stream_and_is_not_sent_twice() -> None:
    verb = verb_named("detect", "language")
    assert (verb.idempotent, verb.part, verb.request) == (False, dict[str, Any], dict[str, Any])
    assert not verb_named("nothing", "CoreOrchestrator").idempotent


def test_a_call_without_a_request_asks_nothing_more() -> None:
    assert request_for(core.LIST_AGENTS, None) == Empty()
    assert request_for(core.GET_TWIN, None) == {}
    assert request_for(core.LIST_AGENTS, {"a": 1}) == {"a": 1}


def test_an_idempotency_key_makes_a_verb_repeatable() -> None:
    keyed = leases.AcquireLease(model="m", bytes=1, idempotency_key="k")
    assert repeatable(leases.ACQUIRE_LEASE, keyed)
    assert not repeatable(leases.ACQUIRE_LEASE, leases.AcquireLease(model="m", bytes=1))
    assert repeatable(leases.ACQUIRE_LEASE, {"idempotency_key": "k"})
    assert not repeatable(leases.ACQUIRE_LEASE, {})
    assert repeatable(core.LIST_AGENTS, Empty())


def test_a_name_too_long_for_the_wire_never_leaves() -> None:
    with pytest.raises(BadRequest, match="129 characters"):
        verb_named("v" * 129, "language")


def test_a_verb_of_many_agents_is_one_verb() -> None:
    assert verb_named("detect", "agent-1") is verb_named("detect", "agent-2")
    assert verb_named("get_twin", "CoreOrchestrator") is not verb_named("get_twin", "agent-1")


def test_what_may_carry_a_key_and_has_none_gets_one() -> None:
    rng = random.Random(1)
    named = verb_named("submit_request", "CoreOrchestrator")
    for verb, request in ((core.SUBMIT_REQUEST, core.SubmitRequest(data="x")), (named, {"data": "x"})):
        made = keyed(verb, request, rng)
        assert repeatable(verb, made)
        assert keyed(verb, made, rng) is made
    assert keyed(leases.ACQUIRE_LEASE, leases.AcquireLease(model="m", bytes=1), rng).idempotency_key
    asked = core.AgentName(agent_name="a")
    assert keyed(core.GET_AGENT_ENDPOINT, asked, rng) is asked
