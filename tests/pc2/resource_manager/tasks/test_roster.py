from __future__ import annotations

from typing import Any

from common.api.core_orchestrator import Agent, AgentChanged
from common.resilience.breaker import State as Breaker
from pc2.resource_manager.tasks.roster import Roster


def agent(name: str, *capabilities: str, **changes: Any) -> Agent:
    known: dict[str, Any] = {
        "host": "127.0.0.1", "port": 1, "health_check_port": 0, "events_port": 0, "verbs": {}, "idempotent": [],
        "metadata": {}, "liveness": "alive", "dress": "native", "location": "mainpc", "boot": "b", "pid": 1, "ttl_s": None,
        "heard_s": 0.0, "in_flight": 0, "registered_at": "",
    }  # fmt: skip
    return Agent(agent_name=name, capabilities=list(capabilities), **(known | changes))


def names(roster: Roster, capability: str) -> list[str]:
    return [provider.name for provider in roster.providers(capability, lambda _: (Breaker.CLOSED, 0.0))]


def test_a_list_replaces_what_was_known_and_tells_whose_calls_are_lost() -> None:
    roster = Roster()
    assert roster.replace([agent("a", "say", "sing"), agent("b", "say"), agent("c", "say")]) == ()
    assert names(roster, "say") == ["a", "b", "c"]
    assert roster.counts() == {"say": 3, "sing": 1}
    moved = agent("a", "say", port=2)
    assert roster.replace([moved, agent("b", "say", liveness="expired")]) == ("a", "b")
    assert names(roster, "sing") == []
    assert roster.offered_by("c") == ()
    assert roster.get("a") == moved
    assert [each.agent_name for each in roster.agents()] == ["a", "b"]


def test_one_agents_change_is_taken_in() -> None:
    roster = Roster()
    assert not roster.take(AgentChanged(change="registered", agent=agent("a", "say")))
    assert not roster.take(AgentChanged(change="suspect", agent=agent("a", "say", liveness="suspect")))
    assert roster.take(AgentChanged(change="expired", agent=agent("a", "say", liveness="expired")))
    assert roster.take(AgentChanged(change="registered", agent=agent("a", "say", boot="another")))
    assert roster.offered_by("a") == ("say",)
    assert not roster.take(AgentChanged(change="deregistered", agent=agent("a", "say")))
    assert roster.counts() == {}
    assert not roster.take(AgentChanged(change="deregistered", agent=agent("a", "say")))


def test_who_cannot_be_called_yet_is_no_provider() -> None:
    roster = Roster()
    roster.replace(
        [agent("a", "say", verbs={"say": "speak"}, idempotent=["say"], metadata={"concurrency": 7}), agent("b", "say")]
    )
    (provider,) = roster.providers("say", lambda name: (Breaker.OPEN, 9.0) if name == "a" else None)
    assert (provider.verb, provider.idempotent, provider.concurrency, provider.host) == ("speak", True, 7, "mainpc")
    assert (provider.breaker, provider.retry_at) == (Breaker.OPEN, 9.0)
