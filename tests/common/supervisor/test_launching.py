from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.config.schema import Agent, Limits, Ports, Startup
from common.config.settings import AgentEnvironment
from common.config.units import Size
from common.errors import NotFound
from common.supervisor import launching
from common.supervisor.launching import choose_ports, missing_wrappers, prepare


def startup(*agents: Agent, port: int = 7090) -> Startup:
    return Startup(version=1, host="h", supervisor=Ports(port), agents=list(agents))


def test_a_child_is_told_who_and_where_it_is(tmp_path: Path) -> None:
    agent = Agent(name="a", command=["{python}", "-c", "pass"], env={"X": "{home}", "TANDEM_HOST": "lie"}, port=9000)
    prepared = prepare(startup(), agent, tmp_path, "boot/a", {"PATH": "/bin", "X": "no"})
    told = AgentEnvironment.read(prepared.environ)
    assert (told.host, told.agent_name, told.home, told.port) == ("h", "a", tmp_path, 9000)
    assert (told.events_port, told.health_port) == (prepared.ports.events_port, prepared.ports.health_check_port)
    assert prepared.environ["X"] == str(tmp_path / "h")
    assert prepared.environ["TANDEM_SUPERVISED"] == "boot/a"
    assert prepared.environ["PYTHONUNBUFFERED"] == "1"
    assert prepared.argv == ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", "pass"]
    assert prepared.cwd is None


def test_limits_become_wrappers_in_front_of_the_command(tmp_path: Path) -> None:
    limits = Limits(nice=5, cpus=[0, 1], memory_bytes=Size(4 * 2**30), open_files=64)
    agent = Agent(name="a", command=["sh"], limits=limits, survive_supervisor=True, cwd="/")
    prepared = prepare(startup(port=0), agent, tmp_path, "", {"PATH": "/bin:/usr/bin"})
    assert prepared.argv == [
        *("prlimit", "--data=4294967296", "--nofile=64"),
        *("nice", "-n", "5"),
        *("taskset", "--cpu-list", "0,1"),
        "sh",
    ]
    assert prepared.cwd == "/"


def test_a_child_may_open_as_many_files_as_its_supervisor_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "FILES_AT_START", 77)
    prepared = prepare(startup(), Agent(name="a", command=["sh"]), tmp_path, "", {"PATH": "/bin:/usr/bin"})
    assert prepared.argv == ["setpriv", "--pdeathsig", "KILL", "prlimit", "--nofile=77:", "sh"]
    show = ["sh", "-c", "ulimit -S -n; ulimit -H -n"]
    told = subprocess.run([*prepared.argv[:-1], *show], capture_output=True, text=True, timeout=120, check=True)
    soft, hard = told.stdout.split()
    assert (soft, hard) == ("77", str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_a_program_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    for command in ("no-such-program", "./no-such-program"):
        with pytest.raises(NotFound, match=f"there is no program '{command}' to run"):
            prepare(startup(), Agent(name="a", command=[command]), tmp_path, "", {"PATH": "/bin"})


def test_chosen_ports_differ_and_given_ones_stay() -> None:
    ports = choose_ports(Ports(port=0, events_port=9_000, health_check_port=0))
    assert ports.events_port == 9_000
    assert 0 < ports.port != ports.health_check_port > 0


def test_a_port_is_chosen_that_no_connection_takes_by_chance_and_any_where_none_of_those_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_ports(Ports()).port in launching.QUIET_PORTS
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr(launching, "QUIET_PORTS", range(number, number + 1))
        monkeypatch.setattr(launching, "QUIET_TRIES", 1)
        assert choose_ports(Ports()).port not in (0, number)


def test_wrappers_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = startup(Agent(name="a", command=["x"], limits=Limits(nice=1)), Agent(name="b", command=["x"]))
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert missing_wrappers(agents) == ["nice", "setpriv"]
    assert missing_wrappers(startup()) == []
