from __future__ import annotations

from pathlib import Path

import pytest

from common.config.settings import AgentEnvironment, Settings
from common.errors import BadRequest


def test_the_home_is_absolute_and_defaults_to_var() -> None:
    assert Settings.read({}).home == Path.cwd() / "var"
    assert Settings.read({"TANDEM_HOME": "/x"}).home == Path("/x")


def test_cards_are_simulated_only_where_the_switch_says_so() -> None:
    assert not Settings.read({}).simulate_cards
    assert Settings.read({"TANDEM_SIMULATE_CARDS": "1"}).simulate_cards
    assert not Settings.read({"TANDEM_SIMULATE_CARDS": "1"}).leave_real_cards
    always = Settings.read({"TANDEM_SIMULATE_CARDS": "always"})
    assert (always.simulate_cards, always.leave_real_cards) == (True, True)
    with pytest.raises(BadRequest, match="TANDEM_SIMULATE_CARDS is 0, 1 or always, not 'yes'"):
        Settings.read({"TANDEM_SIMULATE_CARDS": "yes"})


def test_a_process_started_by_hand_gets_defaults() -> None:
    environment = AgentEnvironment.read({})
    assert (environment.port, environment.host, environment.agent_name) == (0, "", "")


def test_what_a_supervisor_tells_is_what_a_child_reads() -> None:
    told = AgentEnvironment(
        home=Path("/x"),
        host="h",
        agent_name="a",
        port=1,
        events_port=2,
        health_port=3,
        listen=("10.0.0.1", "10.1.0.1"),
        keys="/x/h/keys/a.json",
    )
    assert AgentEnvironment.read(told.variables()) == told


def test_a_child_listens_on_loopback_first_and_knows_its_key_file() -> None:
    told = AgentEnvironment.read({"TANDEM_LISTEN": "10.0.0.1, 127.0.0.1,", "TANDEM_KEYS": "/x/a.json"})
    assert told.addresses == ("127.0.0.1", "10.0.0.1")
    assert told.key_file == Path("/x/a.json")
    assert AgentEnvironment.read({}).addresses == ("127.0.0.1",)
    assert AgentEnvironment.read({}).key_file is None


def test_the_mark_of_a_supervisor_tells_a_child_from_a_process_started_by_hand() -> None:
    assert AgentEnvironment.read({"TANDEM_SUPERVISED": "boot-1/a"}).supervised
    assert not AgentEnvironment.read({}).supervised


def test_every_port_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BadRequest, match=r"TANDEM_PORT='x', TANDEM_HEALTH_PORT='65536'"):
        AgentEnvironment.read({"TANDEM_PORT": "x", "TANDEM_EVENTS_PORT": "7", "TANDEM_HEALTH_PORT": "65536"})
    with pytest.raises(BadRequest, match="TANDEM_PORT"):
        AgentEnvironment.read({"TANDEM_PORT": "9" * 5000})
