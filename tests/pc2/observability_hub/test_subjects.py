from __future__ import annotations

from typing import Any

import pytest

from pc2.observability_hub.subjects import Subject, Way, wire_name
from tests.pc2.observability_hub.saying import agent, process


def subject(near: bool = True, what: Any = "agent", **fields: Any) -> Subject:
    return Subject("pc2", "a_b", what, near, **fields)


@pytest.mark.parametrize(
    ("told", "way"),
    [
        (process("a", probe="zmq"), Way("zmq", port=9)),
        (process("a", probe="http"), Way("http", port=9)),
        (process("a", probe="tcp"), Way("tcp", port=9)),
        (process("a", probe="tcp", health_check_port=0, port=4), Way("tcp", port=4)),
        (process("a", probe="tcp", health_check_port=0), None),
        (process("a", probe="none"), None),
        (process("a", health_check_port=0), None),
        (process("a", phase="starting"), None),
    ],
)
def test_a_process_of_this_machine_is_asked_as_its_startup_file_says(told: Any, way: Way | None) -> None:
    assert subject(told=told).way == way


@pytest.mark.parametrize(
    ("registered", "way"),
    [
        (agent("a", health_check_port=8), Way("zmq", "127.0.0.1", 8)),
        (agent("a", host="localhost"), Way("tcp", "127.0.0.1", 5)),
        (agent("a", host="10.0.0.9"), Way("tcp", "10.0.0.9", 5)),
    ],
)
def test_one_that_only_the_registry_knows_is_asked_where_it_registered(registered: Any, way: Way) -> None:
    assert subject(agent=registered).way == way
    assert subject(told=process("a", probe="none"), agent=registered).way == way


def test_behind_a_link_services_are_called_and_agents_reached_by_the_relay() -> None:
    assert subject(near=False, what="service", told=process("a")).way == Way("call", target="AB")
    assert subject(near=False, what="service", told=process("a", probe="http")).way is None, "it speaks no ZeroMQ"
    assert subject(near=False, told=process("a")).way is None
    relayed = Way("zmq", port=77)
    assert subject(near=False, told=process("a"), relayed=relayed).way == relayed
    assert subject(near=False, agent=agent("a_b")).way == Way("call", target="a_b")
    assert subject(near=False, agent=agent("a_b", dress="plain")).way is None
    assert subject(near=False, what="supervisor").way == Way("call", target="Supervisor/pc2")


def test_a_service_has_one_name_in_files_and_one_on_the_wire() -> None:
    assert wire_name("core_orchestrator") == "CoreOrchestrator"
    assert subject().key == "pc2/a_b"
