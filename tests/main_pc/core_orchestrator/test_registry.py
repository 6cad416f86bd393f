from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs

from common.api.core_orchestrator import AgentChanged, Heartbeat, RegisterAgent
from common.errors import BadRequest, NotFound, Overloaded, TooLarge
from common.store.protocol import Change
from main_pc.core_orchestrator.registry import AGENTS, LOST, AgentGone, AgentRenewed, Limits, Registry, rows

AT = "2026-01-01T00:00:00Z"


def asked(name: str = "whisper", **changes: Any) -> RegisterAgent:
    base = RegisterAgent(agent_name=name, host="127.0.0.1", port=9000, capabilities=["audio"], ttl_s=10.0, boot="b1")
    return structs.replace(base, **changes)


def enter(registry: Registry, registration: RegisterAgent, now: float = 0.0) -> list[AgentChanged]:
    return [registry.apply(fact, now) for fact in registry.register(registration, home="mainpc", at=AT)]


def changes(events: tuple[AgentChanged, ...] | list[AgentChanged]) -> list[tuple[str, str]]:
    return [(event.change, event.agent.agent_name) for event in events]


def test_a_decision_changes_nothing_before_it_is_applied() -> None:
    registry = Registry()
    registry.register(asked(), home="mainpc", at=AT)
    assert len(registry) == 0


def test_the_registrants_known_host_stands_in_where_it_does_not_say() -> None:
    registry = Registry()
    enter(registry, asked("a"))
    enter(registry, asked("b", location="pc2"))
    assert registry.entry("a").asked.location == "mainpc"
    assert registry.entry("b").asked.location == "pc2"


def test_the_same_again_is_renewed_and_writes_nothing() -> None:
    registry = Registry()
    enter(registry, asked())
    (fact,) = registry.register(asked(), home="mainpc", at=AT)
    assert isinstance(fact, AgentRenewed)
    assert rows(fact) == ()
    assert changes([registry.apply(fact, 5.0)]) == [("renewed", "whisper")]
    assert registry.entry("whisper").heard_at == 5.0


@pytest.mark.parametrize("host", ["a b", "tcp://10.0.0.2", "-x", ".", "10.0.0.2\n", "10.0.0.2;10.0.0.3", "höst"])
def test_a_host_that_nobody_could_connect_to_is_refused(host: str) -> None:
    with pytest.raises(BadRequest, match=r"\$.host"):
        Registry().register(asked(host=host), home="mainpc", at=AT)


@pytest.mark.parametrize("host", ["*", "::1", "[::1]", "localhost", "pc2.lan", "my_host-2", "fe80::1%eth0"])
def test_addresses_names_and_the_wildcard_are_hosts(host: str) -> None:
    assert Registry().register(asked(host=host), home="mainpc", at=AT)


@pytest.mark.parametrize("elsewhere", [{"port": 9001}, {"host": "10.0.0.2"}, {"location": "pc2"}, {"boot": "b2"}])
def test_another_place_or_life_is_a_move(elsewhere: dict[str, Any]) -> None:
    registry = Registry()
    enter(registry, asked())
    (event,) = enter(registry, asked(**elsewhere))
    assert event.change == "moved"
    assert event.change in LOST


def test_other_offers_from_the_same_place_are_renewed_and_written() -> None:
    registry = Registry()
    enter(registry, asked())
    (fact,) = registry.register(asked(capabilities=["text"]), home="mainpc", at="later")
    assert len(rows(fact)) == 1
    event = registry.apply(fact, 0.0)
    assert (event.change, event.agent.registered_at) == ("renewed", AT)
    assert registry.offering("audio") == []
    assert [entry.asked.agent_name for entry in registry.offering("text")] == ["whisper"]


def test_deregistering_twice_is_once() -> None:
    registry = Registry()
    enter(registry, asked(capabilities=["audio", "text"]))
    enter(registry, asked("other"))
    (fact,) = registry.deregister("whisper")
    assert changes([registry.apply(fact, 1.0)]) == [("deregistered", "whisper")]
    assert registry.deregister("whisper") == ()
    assert rows(fact) == (Change("agents", "whisper", None),)
    with pytest.raises(NotFound, match="register it"):
        registry.entry("whisper")
    assert len(registry.offering("audio")) == 1


def test_silence_makes_suspect_then_expired_and_a_heartbeat_revives() -> None:
    registry = Registry()
    enter(registry, asked())
    assert registry.expire(10.0) == ()
    assert changes(registry.expire(10.5)) == [("suspect", "whisper")]
    assert registry.expire(11.0) == ()
    assert changes(registry.expire(30.5)) == [("expired", "whisper")]
    assert changes(registry.heartbeat(Heartbeat(agent_name="whisper", load=0.5), 31.0)) == [("revived", "whisper")]
    assert registry.heartbeat(Heartbeat(agent_name="whisper"), 32.0) == ()
    assert registry.agents(34.0)[0].heard_s == 2.0


def test_one_that_promised_nothing_never_expires_by_silence() -> None:
    registry = Registry()
    enter(registry, asked(ttl_s=None))
    assert registry.expire(1e9) == ()
    assert registry.entry("whisper").liveness == "unpromised"


def test_a_witnessed_death_expires_at_once_and_being_seen_revives() -> None:
    registry = Registry()
    enter(registry, asked("quiet", ttl_s=None))
    enter(registry, asked("loud"))
    assert changes(registry.died("quiet", 1.0)) == [("expired", "quiet")]
    assert changes(registry.died("loud", 1.0)) == [("expired", "loud")]
    assert registry.died("loud", 1.0) == ()
    assert changes(registry.seen("quiet", 2.0)) == [("revived", "quiet")]
    assert registry.entry("quiet").liveness == "unpromised"
    assert changes(enter(registry, asked("loud"), 3.0)) == [("revived", "loud")]


def test_signs_about_strangers_are_passed_over_but_their_heartbeat_is_answered() -> None:
    registry = Registry()
    assert registry.died("nobody", 0.0) == ()
    assert registry.seen("nobody", 0.0) == ()
    with pytest.raises(NotFound):
        registry.heartbeat(Heartbeat(agent_name="nobody"), 0.0)


def test_lists_put_the_healthy_first_then_the_least_loaded_then_the_name() -> None:
    load = {"b": 2}
    registry = Registry(in_flight=lambda name: load.get(name, 0))
    for name in ("d", "c", "b"):
        enter(registry, asked(name))
    enter(registry, asked("silent", ttl_s=1.0))
    enter(registry, asked("late", ttl_s=4.0))
    enter(registry, asked("quiet", ttl_s=None, capabilities=["text"]))
    registry.expire(5.0)
    assert [agent.agent_name for agent in registry.agents(5.0)] == ["c", "d", "b", "quiet", "late", "silent"]
    assert [agent.agent_name for agent in registry.agents(5.0, "audio")] == ["c", "d", "b", "late", "silent"]
    assert registry.agents(5.0, "smell") == []


def test_a_registration_has_a_size() -> None:
    with pytest.raises(TooLarge, match="65536 are allowed"):
        Registry().register(asked(metadata={"note": "x" * 70_000}), home="mainpc", at=AT)


def test_a_full_registry_lets_the_longest_silent_expired_agent_go_or_refuses() -> None:
    registry = Registry(Limits(agents=2))
    enter(registry, asked("a"), 0.0)
    enter(registry, asked("b"), 1.0)
    with pytest.raises(Overloaded, match="none has expired"):
        registry.register(asked("c"), home="mainpc", at=AT)
    registry.expire(100.0)
    assert registry.register(asked("c"), home="mainpc", at=AT)[0] == AgentGone(agent_name="a")
    assert changes(enter(registry, asked("c"), 100.0)) == [("deregistered", "a"), ("registered", "c")]
    assert len(registry) == 2


NAMES = st.sampled_from("abc")


class RegistryMachine(RuleBasedStateMachine):
    """Registrations, signs of life and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(Limits(agents=3))
        self.now = 0.0
        self.stored: dict[str, bytes | None] = {}
        self.events: list[AgentChanged] = []

    def perform(self, facts: tuple[Any, ...]) -> None:
        for fact in facts:
            self.events.append(self.registry.apply(fact, self.now))
            for change in rows(fact):
                self.stored[change.key] = change.value

    @rule(
        name=st.sampled_from("abcd"),
        port=st.sampled_from([1, 2]),
        ttl_s=st.sampled_from([None, 1.0, 5.0]),
        offers=st.lists(st.sampled_from(["audio", "text"]), max_size=3),
    )
    def register(self, name: str, port: int, ttl_s: float | None, offers: list[str]) -> None:
        try:
            facts = self.registry.register(
                asked(name, port=port, ttl_s=ttl_s, capabilities=offers), home="mainpc", at=AT
            )
        except Overloaded:
            assert all(agent.liveness != "expired" for agent in self.registry.agents(self.now))
        else:
            self.perform(facts)

    @rule(name=NAMES)
    def deregister(self, name: str) -> None:
        self.perform(self.registry.deregister(name))

    @rule(name=NAMES)
    def heartbeat(self, name: str) -> None:
        try:
            self.events += self.registry.heartbeat(Heartbeat(agent_name=name), self.now)
        except NotFound:
            assert name not in [agent.agent_name for agent in self.registry.agents(self.now)]
        else:
            assert self.registry.entry(name).liveness in ("alive", "unpromised")

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        self.events += self.registry.died(name, self.now)

    @rule(passed_s=st.sampled_from([0.5, 1.5, 4.0, 20.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        self.events += self.registry.expire(self.now)
        for agent in self.registry.agents(self.now):
            if agent.ttl_s is not None and agent.heard_s > 3 * agent.ttl_s:
                assert agent.liveness == "expired"

    @rule()
    def restart(self) -> None:
        kept = [AGENTS.decode(key, value, "here") for key, value in sorted(self.stored.items()) if value is not None]
        was = {agent.agent_name: agent for agent in self.registry.agents(self.now)}
        self.registry.restore(kept, self.now)
        fresh = {agent.agent_name: agent for agent in self.registry.agents(self.now)}
        assert fresh.keys() == was.keys()
        for name, agent in fresh.items():
            same = structs.replace(was[name], liveness=agent.liveness, heard_s=0.0)
            assert agent == same

    @invariant()
    def offers_are_what_the_entries_say(self) -> None:
        everyone = self.registry.agents(self.now)
        assert len(everyone) <= 3
        for capability in ("audio", "text"):
            found = {agent.agent_name for agent in self.registry.agents(self.now, capability)}
            assert found == {agent.agent_name for agent in everyone if capability in agent.capabilities}

    @invariant()
    def liveness_fits_the_promise(self) -> None:
        for agent in self.registry.agents(self.now):
            if agent.ttl_s is None:
                assert agent.liveness in ("unpromised", "expired")
            else:
                assert agent.liveness != "unpromised"

    @invariant()
    def events_tell_the_whole_story(self) -> None:
        told: dict[str, str] = {}
        for event in self.events:
            if event.change == "deregistered":
                told.pop(event.agent.agent_name, None)
            else:
                told[event.agent.agent_name] = event.agent.liveness
        assert told.keys() == {agent.agent_name for agent in self.registry.agents(self.now)}


RegistryMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
