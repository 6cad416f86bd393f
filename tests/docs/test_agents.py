"""The programs of docs/agents.md as processes, registered with a real CoreOrchestrator that dispatches to them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from common.api.basic import Health
from common.config.schema import Agent
from tests.docs.conftest import Fabric, free_ports
from tests.docs.documents import blocks

TEXT = "Zwei Rechner, ein Gewebe: größer wird's nicht"
MALFORMED = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"[]",
    b"7",
    b'"ping"',
    b"{",
    b"{}",
    b'{"action":null}',
    b"[" * 5_000,
    b"x" * 70_000,
]

Command = Callable[[str], list[str]]


@pytest.fixture
def command(examples: Path, needs: Callable[[str], str]) -> Command:
    def of(program: str) -> list[str]:
        if program.endswith(".py"):
            return [sys.executable, str(examples / program)]
        needs("json_pp")
        return [needs("perl"), str(examples / program)]

    return of


everyone = pytest.mark.parametrize("program", ["library_agent.py", "bare_agent.py", "agent.pl"])


@everyone
def test_a_request_is_dispatched_to_it_and_answered(program: str, fabric: Fabric, command: Command) -> None:
    with fabric.agent(command(program)) as agent:
        done = fabric.ask({"action": "submit_request", "capability": "count_words", "data": TEXT, "wait_s": 20})
    assert (done["status"], done["state"], done["agent_name"]) == ("success", "done", agent["agent_name"])
    assert done["result"] == {"words": 7}


@everyone
def test_it_answers_the_basic_questions_at_both_of_its_ports(program: str, fabric: Fabric, command: Command) -> None:
    (health_port,) = free_ports(1)
    told = {"TANDEM_HOST": "pc2", "TANDEM_AGENT_NAME": "renamed", "TANDEM_HEALTH_PORT": str(health_port)}
    with fabric.agent(command(program), **told) as agent:
        assert (agent["agent_name"], agent["location"], agent["health_check_port"]) == ("renamed", "pc2", health_port)
        questions = [b"ping", b"health", b'{"action":"ping"}', b'{"action":"health_check"}']
        answers = [
            json.loads(fabric.say(question, port)) for question in questions for port in (agent["port"], health_port)
        ]
    for answer in answers:
        assert (answer["status"], answer["ready"], answer["service"]) == ("ok", True, "renamed")
        assert {name for name in ("version", "uptime", "boot") if name not in answer} == set()
    assert len({answer["boot"] for answer in answers}) == 1
    assert {"status", "ready", "service", "version", "uptime", "boot"} <= set(Health.__struct_fields__)


@everyone
def test_every_malformed_message_gets_one_error(program: str, fabric: Fabric, command: Command) -> None:
    with fabric.agent(command(program)) as agent:
        answers = [json.loads(fabric.say(message, agent["port"])) for message in MALFORMED]
        unknown = fabric.ask({"action": "count_wrods"}, agent["port"])
        wrong = fabric.ask(
            {"action": "count_words", "data": 7.5 if program == "library_agent.py" else None}, agent["port"]
        )
    assert [answer["code"] for answer in answers] == ["bad_request"] * len(MALFORMED)
    assert (unknown["code"], wrong["code"]) == ("unknown_verb", "bad_request")
    assert all(
        answer["status"] == "error" and answer["error"] == answer["message"] for answer in (*answers, unknown, wrong)
    )


def liveness(fabric: Fabric, agent: dict[str, Any]) -> str:
    found: str = fabric.ask({"action": "get_agent_endpoint", "agent_name": agent["agent_name"]})["liveness"]
    return found


@pytest.mark.parametrize(
    ("program", "expected"), [("library_agent.py", "alive"), ("bare_agent.py", "alive"), ("agent.pl", "unpromised")]
)
def test_it_promises_heartbeats_or_it_does_not(program: str, expected: str, fabric: Fabric, command: Command) -> None:
    with fabric.agent(command(program)) as agent:
        assert liveness(fabric, agent) == expected


def test_a_bare_agent_that_the_registry_forgot_registers_again(fabric: Fabric, command: Command) -> None:
    with fabric.agent(command("bare_agent.py")) as agent, fabric.registrations() as registered:
        fabric.ask({"action": "deregister_agent", "agent_name": agent["agent_name"]})
        refused = fabric.ask({"action": "submit_request", "capability": "count_words", "data": TEXT})
        assert refused["code"] == "no_provider"
        assert next(registered)["agent_name"] == agent["agent_name"]


def test_the_startup_entries_are_valid_and_start_every_program(examples: Path) -> None:
    (told,) = [found["agents"] for block in blocks("yaml") if "agents" in (found := yaml.safe_load(block.text))]
    entries = [msgspec.convert(entry, Agent) for entry in told]
    programs = {path.name for path in examples.iterdir() if path.is_file()}
    assert {Path(entry.command[-1]).name for entry in entries} == programs
