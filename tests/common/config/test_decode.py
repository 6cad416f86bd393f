from __future__ import annotations

from typing import Any

import pytest

from common.config.decode import blank, decode
from common.config.document import Document
from common.config.schema import Agent, HealthProbe, Peer, Ports, Startup, fill, qualified
from common.config.units import Duration, Size

GOOD: dict[str, Any] = {"version": 1, "host": "h", "supervisor": {"port": 7090}}


def read(**changes: Any) -> tuple[Startup, list[str]]:
    startup, problems = decode(Document("f", GOOD | changes))
    return startup, [str(problem).removeprefix("f:1: ") for problem in problems]


def test_a_good_file_becomes_typed_values_with_defaults() -> None:
    startup, problems = read(
        services=[{"name": "s", "command": ["x"]}],
        agents=[
            {"name": "a", "command": ["y"], "env": {"K": "v"}, "limits": {"memory_bytes": "4GiB", "cpus": [0, 1]}},
            {"name": "b", "command": ["y"], "limits": {"memory_bytes": None}, "stop": {"term_s": 0.5}},
        ],
        peers={"p": {"address": "10.0.0.2", "supervisor_port": 7091, "events_port": 7591}},
    )
    assert problems == []
    first, second, third = startup.entries
    assert (first.kind, second.kind, third.kind) == ("service", "agent", "agent")
    assert second.limits.memory_bytes == Size(4 * 2**30)
    assert second.limits.cpus == [0, 1]
    assert second.health == HealthProbe()
    assert third.limits.memory_bytes is None
    assert third.stop.term_s == 0.5
    assert startup.peers == {"p": Peer("10.0.0.2", 7091, 7591)}
    assert startup.listen == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lisen": 1}, "lisen: unknown key (did you mean listen?)"),
        ({"zzzzz": 1}, "zzzzz: unknown key (known here: version, host"),
        ({"version": 2}, "version: 2 is not a choice here (one of 1)"),
        ({"host": "a b"}, "host: 'a b' is no name (letters, digits and _.- after a letter or digit)"),
        ({"host": ""}, "host: expected str of length >= 1, not '' (letters, digits and _.- after a letter"),
        (
            {"models": [{"name": "*"}]},
            "models[0].name: '*' is no name (letters, digits, spaces and _.:/@- after a letter, a",
        ),
        ({"host": 5}, "host: expected str, got int (put it in quotes)"),
        ({"supervisor": {"port": 70_000}}, "supervisor.port: expected int <= 65535, not 70000"),
        ({"supervisor": 5}, "supervisor: expected a mapping, got a number (write port, events_port"),
        ({"listen": "127.0.0.1"}, "listen: expected a list, got a text"),
        ({"listen": [None]}, "listen[0]: expected str, got null"),
        ({"peers": [1]}, "peers: expected a mapping, got a list"),
        ({"peers": {"p": {}}}, "peers.p: address is missing (add address: to it)"),
        ({"vitals_interval_s": "5 weeks"}, "vitals_interval_s: '5 weeks' has no unit of time"),
        ({"vitals_interval_s": True}, "vitals_interval_s: expected a duration such as 5s, got true or false"),
        ({"vitals_interval_s": -1}, "vitals_interval_s: '-1' is not a duration"),
        ({"simulated_cards": [{"memory": "10G"}]}, "simulated_cards[0].memory: '10G' may mean 10GiB or 10GB"),
        ({"simulated_cards": [{"memory": []}]}, "memory: expected a size such as 4GiB, got a list"),
        ({"services": [None]}, "services[0]: expected a mapping, got nothing"),
        ({"agents": [{"name": "a"}]}, "agents[0]: command is missing"),
        ({"agents": [{"name": "a", "command": ["x"], "env": {"A": 1}}]}, "agents[0].env.A: expected str, got int"),
        ({"agents": [{"name": "a", "command": ["x"], "enabled": "x"}]}, "enabled: expected bool, got str"),
        (
            {"agents": [{"name": "a", "command": ["x"], "health": {"how": "zmqq"}}]},
            "agents[0].health.how: 'zmqq' is not a choice here (one of zmq, http, tcp, none)",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_mend(changes: dict[str, Any], told: str) -> None:
    _, problems = read(**changes)
    assert any(told in problem for problem in problems), problems


def test_every_problem_is_found_and_the_rest_still_read() -> None:
    startup, problems = read(
        host="", x=1, agents=[{"name": "a", "command": "ls", "prt": 1}, 5, {"name": "b", "command": ["y"], "port": "z"}]
    )
    assert len(problems) == 6
    assert [agent.name for agent in startup.agents] == ["a", "", "b"]
    assert startup.agents[2] == Agent(name="b", command=["y"])


def test_a_file_that_is_no_mapping_is_one_problem() -> None:
    startup, problems = decode(Document("f", None))
    assert [problem.message for problem in problems] == ["expected a mapping, got nothing"]
    assert startup.host == ""


def test_a_blank_is_harmless_for_every_type_a_file_uses() -> None:
    assert blank(list[str]) == []
    assert blank(dict[str, str]) == {}
    assert blank(Size) == 0
    assert blank(Duration) == 0
    assert blank(Ports) == Ports()


def test_braces_that_are_ours_are_filled_and_others_left() -> None:
    assert fill("{python} {home}/{host} {x}", python="py", home="/v", host="h") == "py /v/h {x}"
    assert qualified("h", "a") == "h/a"
    assert qualified("h", "o/a") == "o/a"
