"""A copy of the registry: in step while it is heard, old and honest about it when it is not, and the same after a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.core_orchestrator import Agent, AgentChanged, Agents
from common.api.words import Cursor
from common.errors import NotFound, Unavailable
from common.registry.copy import AGENTS, STEPS, RegistryCopy
from common.registry.location import Asker, Routes
from common.store.memory import MemoryStore
from common.store.protocol import Durability

NAMES = st.sampled_from(["a", "b", "c"])


def agent(name: str, liveness: str = "alive", in_flight: int = 0, *capabilities: str, port: int = 9000) -> Agent:
    return Agent(
        agent_name=name,
        host="127.0.0.1",
        port=port,
        health_check_port=0,
        events_port=0,
        capabilities=list(capabilities),
        verbs={},
        idempotent=[],
        metadata={},
        liveness=liveness,  # type: ignore[arg-type]
        dress="native",
        location="mainpc",
        boot="",
        pid=0,
        ttl_s=None,
        heard_s=0.0,
        in_flight=in_flight,
        registered_at="then",
    )


def at(seq: int) -> Cursor:
    return Cursor(epoch=1, seq=seq)


def listed(*agents: Agent, seq: int = 1) -> Agents:
    return Agents(agents=list(agents), as_of=at(seq))


def changed(change: str, told: Agent) -> AgentChanged:
    return AgentChanged(change=change, agent=told)  # type: ignore[arg-type]


def restored(store: MemoryStore) -> RegistryCopy:
    copy = RegistryCopy()
    copy.restore((one for _, one in AGENTS.load(store)), (step for _, step in STEPS.load(store)))
    return copy


def test_a_copy_that_never_heard_anything_says_so() -> None:
    copy = RegistryCopy()
    assert copy.heard(1.0) == []
    with pytest.raises(Unavailable, match="was never heard here"):
        copy.find(None, 1.0)
    with pytest.raises(Unavailable):
        copy.endpoint("a", Asker("mainpc"), Routes(), 1.0)


def test_answers_come_in_the_registrys_order_and_say_how_old_they_are() -> None:
    copy = RegistryCopy()
    copy.listed(
        listed(agent("b", "suspect", 0, "x"), agent("c", "alive", 2, "x"), agent("a", "alive", 0, "y"), seq=4), 100.0
    )
    found = copy.find(None, 107.0)
    assert [one.agent_name for one in found.agents] == ["a", "c", "b"]
    assert (found.age_s, found.as_of) == (7.0, at(4))
    assert [one.agent_name for one in copy.find("x", 100.0).agents] == ["c", "b"]


def test_a_clock_that_steps_back_makes_no_answer_younger_than_now() -> None:
    copy = RegistryCopy()
    copy.listed(listed(agent("a")), 100.0)
    assert copy.endpoint("a", Asker("mainpc"), Routes(), 50.0).age_s == 0.0


def test_an_agent_is_found_where_it_was_last_told_to_be() -> None:
    copy = RegistryCopy()
    copy.listed(listed(agent("a")), 100.0)
    copy.changed(changed("moved", agent("a", port=9001)), at(2), 101.0)
    endpoint = copy.endpoint("a", Asker("mainpc"), Routes(), 104.0)
    assert (endpoint.port, endpoint.age_s) == (9001, 3.0)
    assert copy.agent("a") == agent("a", port=9001)
    with pytest.raises(NotFound, match="'z' was registered 3 s ago"):
        copy.endpoint("z", Asker("mainpc"), Routes(), 104.0)


def test_one_that_was_taken_off_is_gone_and_so_is_one_that_is_not_listed_any_more() -> None:
    copy = RegistryCopy()
    copy.listed(listed(agent("a"), agent("b")), 1.0)
    copy.changed(changed("deregistered", agent("a")), at(2), 2.0)
    copy.changed(changed("deregistered", agent("never seen")), at(3), 2.0)
    assert [one.agent_name for one in copy.agents] == ["b"]
    copy.listed(listed(agent("c")), 3.0)
    assert [one.agent_name for one in copy.agents] == ["c"]


def test_what_is_heard_without_news_makes_it_younger() -> None:
    copy = RegistryCopy()
    copy.listed(listed(agent("a"), seq=9), 1.0)
    assert len(copy.heard(11.0)) == 1
    assert (copy.age_s(12.0), copy.find(None, 12.0).as_of) == (1.0, at(9))


@given(
    st.lists(
        st.tuples(st.sampled_from(["list", "registered", "expired", "deregistered"]), st.sets(NAMES, min_size=1)),
        max_size=12,
    )
)
def test_the_rows_that_it_asked_to_keep_are_the_whole_of_it(steps: list[tuple[str, set[str]]]) -> None:
    copy, store = RegistryCopy(), MemoryStore()
    for seq, (step, names) in enumerate(steps):
        agents = [agent(name, port=9_000 + seq) for name in sorted(names)]
        if step == "list":
            rows = copy.listed(listed(*agents, seq=seq), float(seq))
        else:
            rows = copy.changed(changed(step, agents[0]), at(seq), float(seq))
        store.commit(rows, Durability.NORMAL)
    again = restored(store)
    assert {one.agent_name: one for one in again.agents} == {one.agent_name: one for one in copy.agents}
    if steps:
        assert again.find(None, 100.0) == copy.find(None, 100.0)
