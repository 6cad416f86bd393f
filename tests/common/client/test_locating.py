"""Looking an agent up while the registry may be away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.api.core_orchestrator import Endpoint
from common.client.directory import Directory, Place
from common.client.locating import AWAY_S, COPY_S, PATIENCE_S, REGISTRY_S, Ask, Sources
from common.errors import NotFound, TandemError, Unavailable
from common.transport import sockets

OWN = "Supervisor/mainpc"
HERE = Endpoint(
    agent_name="echo",
    host="127.0.0.1",
    port=9000,
    health_check_port=0,
    events_port=0,
    capabilities=[],
    liveness="alive",
    dress="native",
    location="mainpc",
)
GONE = Unavailable("nobody listens")
Answer = Callable[[Ask], Endpoint | TandemError]


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


def look_up(sources: Sources, answer: Answer, deadline: float = 1_000.0) -> tuple[Endpoint | TandemError, list[Ask]]:
    """What a look-up ends with, and whom it asked."""
    asked: list[Ask] = []
    locating = sources.locate(deadline)
    step = next(locating)
    while True:
        asked.append(step)
        said = answer(step)
        try:
            step = locating.throw(said) if isinstance(said, TandemError) else locating.send(said)
        except StopIteration as end:
            found: Endpoint = end.value
            return found, asked
        except TandemError as error:
            return error, asked


def by(answers: dict[str, Endpoint | TandemError]) -> Answer:
    return lambda ask: answers[ask.target]


def test_a_registry_that_answers_is_the_only_one_asked() -> None:
    sources = Sources([OWN], Clock())
    assert look_up(sources, by({"CoreOrchestrator": HERE})) == (HERE, [Ask("CoreOrchestrator", REGISTRY_S)])


def test_without_a_copy_at_hand_the_registry_has_all_the_time() -> None:
    sources = Sources([], Clock())
    assert look_up(sources, by({"CoreOrchestrator": GONE})) == (GONE, [Ask("CoreOrchestrator", PATIENCE_S)])


def test_a_registry_that_is_away_costs_one_second_and_the_copy_answers() -> None:
    sources = Sources([OWN], Clock())
    found, asked = look_up(sources, by({"CoreOrchestrator": GONE, OWN: HERE}))
    assert found == HERE
    assert asked == [Ask("CoreOrchestrator", REGISTRY_S), Ask(OWN, COPY_S)]
    assert sum(ask.timeout_s for ask in asked) < 2.0


def test_while_it_is_away_the_copy_is_asked_first_and_after_a_while_the_registry_again() -> None:
    clock = Clock()
    sources = Sources([OWN], clock)
    answers = by({"CoreOrchestrator": GONE, OWN: HERE})
    look_up(sources, answers)
    assert [ask.target for ask in look_up(sources, answers)[1]] == [OWN]
    clock.now += AWAY_S
    assert [ask.target for ask in look_up(sources, answers)[1]] == ["CoreOrchestrator", OWN]


@pytest.mark.parametrize("copy", [GONE, NotFound("no agent")])
def test_where_no_copy_can_answer_the_registry_has_the_last_word(copy: TandemError) -> None:
    sources = Sources([OWN, "Supervisor/pc2"], Clock())
    found, asked = look_up(sources, by({"CoreOrchestrator": GONE, OWN: copy, "Supervisor/pc2": copy}))
    assert found is GONE
    assert [ask.target for ask in asked] == ["CoreOrchestrator", OWN, "Supervisor/pc2", "CoreOrchestrator"]


def test_what_the_registry_says_of_an_agent_is_not_asked_of_anybody_else() -> None:
    unknown = NotFound("no agent")
    assert look_up(Sources([OWN], Clock()), by({"CoreOrchestrator": unknown}))[1] == [
        Ask("CoreOrchestrator", REGISTRY_S)
    ]


def test_nobody_is_asked_for_longer_than_the_caller_has() -> None:
    _, asked = look_up(Sources([OWN], Clock()), by({"CoreOrchestrator": GONE, OWN: GONE}), deadline=100.2)
    assert all(ask.timeout_s <= 0.2 + 1e-9 for ask in asked)


def test_the_supervisors_here_are_those_on_plain_loopback() -> None:
    far = Place(sockets.Endpoint("tcp://10.0.0.2:7091"), None, "pc2", "supervisor")
    assert Directory({"Supervisor/pc2": far}).supervisors_here() == [OWN]
    assert Directory().supervisors_here() == [OWN, "Supervisor/pc2"]
