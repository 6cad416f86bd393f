"""`tandem start` on real processes: two hosts under one door."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config.schema import HealthProbe, Ports, Service, Startup
from common.supervisor.launching import choose_ports
from common.supervisor.watchdog import Process
from tandem import starting
from tests.common.supervisor.lives import gone, pinned, wait_until
from tests.common.supervisor.startup_files import Program, entry, processes, write_startup

START = ("-m", "tandem", "start")
SUPERVISORS = ("mainpc", "pc2")


@pytest.fixture(autouse=True)
def _setpriv(needs: Any) -> None:
    needs("setpriv")


class Pair:
    """Two hosts that depend on each other's processes, on one machine."""

    def __init__(self, folder: Path, main: list[dict[str, Any]], pc2: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.ports = {host: choose_ports(Ports()) for host in SUPERVISORS}
        self.files = [self._write("mainpc", "pc2", main), self._write("pc2", "mainpc", pc2)]

    def _write(self, host: str, other: str, agents: list[dict[str, Any]]) -> Path:
        ports = self.ports[other]
        peers = {other: {"address": "127.0.0.1", "supervisor_port": ports.port, "events_port": ports.events_port}}
        cards = [{"name": "small", "memory": "8GiB"}]
        file = self.folder / f"{host}.yaml"
        return write_startup(file, host, self.ports[host], *agents, peers=peers, simulated_cards=cards)

    def start(self, *options: str) -> Program:
        return Program(self.folder, [*START, *options, *(str(file) for file in self.files)])

    def pinned(self, host: str, name: str) -> Process:
        return pinned(processes(self.ports[host].port)[name]["pid"])

    def is_ready(self, host: str, name: str) -> bool:
        return bool(processes(self.ports[host].port).get(name, {}).get("phase") == "ready")

    def supervisor(self, host: str) -> Process:
        """The supervisor's own process, by the lock of its home."""
        return pinned(json.loads((self.folder / "var" / host / "lock").read_text())["pid"])


def pair(folder: Path) -> Pair:
    return Pair(
        folder, [entry("top", depends_on=["pc2/base"])], [entry("base"), entry("last", depends_on=["mainpc/top"])]
    )


def test_one_door_brings_both_hosts_up_across_their_dependencies_and_down_again(tmp_path: Path) -> None:
    hosts = pair(tmp_path)
    with hosts.start() as door:
        door.until_says("\nready in ")
        door.until_says(f"mainpc: supervisor {hosts.ports['mainpc'].port}\npc2: supervisor {hosts.ports['pc2'].port}")
        alive = [hosts.pinned("mainpc", "top"), hosts.pinned("pc2", "base"), hosts.pinned("pc2", "last")]
        assert (tmp_path / "var/pc2/cards/0/card.json").exists(), "cards are simulated where there are none"
        assert door.stop(signal.SIGINT) == 0
    assert gone(*alive)
    assert door.complained == ""


def test_a_killed_supervisor_is_started_again_and_its_processes_come_back(tmp_path: Path) -> None:
    hosts = pair(tmp_path)
    with hosts.start() as door:
        door.until_says("\nready in ")
        top, base, last = hosts.pinned("mainpc", "top"), hosts.pinned("pc2", "base"), hosts.pinned("pc2", "last")
        os.kill(hosts.supervisor("pc2").pid, signal.SIGKILL)
        door.until_says("pc2's supervisor ended (killed by signal 9); it is started again in 0.1 s")
        wait_until(lambda: hosts.is_ready("pc2", "base") and hosts.is_ready("pc2", "last"))
        assert gone(base, last)
        assert hosts.pinned("mainpc", "top") == top, "the other host's processes run on"


def test_a_killed_door_leaves_nothing_behind(tmp_path: Path) -> None:
    hosts = pair(tmp_path)
    with hosts.start() as door:
        door.until_says("\nready in ")
        alive = [hosts.supervisor(host) for host in SUPERVISORS] + [hosts.pinned("mainpc", "top")]
        assert door.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: gone(*alive))


def test_a_partial_start_stops_both_hosts_and_exits_1(tmp_path: Path) -> None:
    broken = entry("broken", "echo no model >&2; exit 3", health={"how": "tcp"})
    hosts = Pair(tmp_path, [entry("fine"), entry("top", depends_on=["pc2/broken"])], [broken])
    with hosts.start() as door:
        assert door.ends() == 1
    assert "pc2/broken did not become ready: crash-looping exit 3" in door.complained
    assert "    | no model" in door.complained
    assert processes(hosts.ports["mainpc"].port) == {}


def test_it_stays_with_what_is_ready_where_it_is_to_keep_going(tmp_path: Path) -> None:
    broken = entry("broken", "exit 3", health={"how": "tcp"})
    hosts = Pair(tmp_path, [entry("fine"), broken], [entry("base")])
    with hosts.start("--keep-going") as door:
        door.until_says("\nready in ")
        wait_until(lambda: "mainpc/broken did not become ready" in door.complained)
        assert hosts.is_ready("mainpc", "fine")
        assert door.stop() == 0


def test_problems_across_the_files_are_told_at_once_and_nothing_is_started(tmp_path: Path) -> None:
    hosts = Pair(tmp_path, [entry("a", depends_on=["pc2/b"])], [entry("b", depends_on=["mainpc/a", "mainpc/x"])])
    with hosts.start() as door:
        assert door.ends() == 1
    assert "mainpc/a -> pc2/b -> mainpc/a" in door.complained
    assert "mainpc has no process 'x'" in door.complained
    assert door.complained.endswith("nothing was started: 2 problems to mend\n")
    assert not (tmp_path / "var").exists()


def test_a_second_door_is_told_who_holds_the_homes(tmp_path: Path) -> None:
    hosts = pair(tmp_path)
    with hosts.start() as door:
        door.until_says("\nready in ")
        with hosts.start() as second:
            assert second.ends() == 1
        told = [f"var/{host} is held by pid {hosts.supervisor(host).pid} since" for host in SUPERVISORS]
        assert any(each in second.complained for each in told), "whichever host was first; the other is stopped for it"
        assert hosts.is_ready("mainpc", "top")


async def test_telling_a_supervisor_that_has_just_ended_to_stop_does_not_cost_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, wait = threading.Event(), os.waitpid
    monkeypatch.setattr(os, "waitpid", lambda pid, options: seen.wait(60) and wait(pid, options))
    host = starting._Host(Path("mainpc.yaml"), Startup(version=1, host="mainpc", supervisor=Ports()), {}, False)
    process = host._process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.01)
    host.signal(signal.SIGTERM)
    seen.set()
    assert await process.wait() == 3


async def test_a_supervisor_that_cannot_be_launched_is_a_life_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_: object, **__: object) -> object:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    startup = Startup(version=1, host="h", supervisor=Ports())
    host = starting._Host(tmp_path / "h.yaml", startup, {}, keep_going=False)
    assert await host.live(lambda _: None, asyncio.Event()) == 1
    assert (
        "h's supervisor could not be launched: [Errno 11] Resource temporarily unavailable" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("told", "simulate"), [("", "1"), ("0", "1"), ("always", "always")])
def test_a_start_may_simulate_cards_and_can_be_told_to_leave_real_ones_alone(
    told: str, simulate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_SIMULATE_CARDS", told)
    assert starting._environ([])["TANDEM_SIMULATE_CARDS"] == simulate


def test_the_command_is_named_so_that_it_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    monkeypatch.setattr("sys.executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert starting.own_command() == f"{scripts}/python -m tandem"
    (scripts / "tandem").touch(0o755)
    assert starting.own_command() == ".venv/bin/tandem"
    monkeypatch.chdir("/")
    assert starting.own_command() == str(scripts / "tandem").lstrip("/")
    monkeypatch.setenv("PATH", str(scripts))
    assert starting.own_command() == "tandem"


def test_a_service_is_told_by_its_port_or_where_it_speaks_http() -> None:
    http = HealthProbe(how="http")
    assert starting.listening_at(Service(name="a", command=["a"], port=7000)) == "7000"
    assert starting.listening_at(Service(name="a", command=["a"], health_check_port=7081, health=http)) == (
        "http://127.0.0.1:7081"
    )
    assert starting.listening_at(Service(name="a", command=["a"], health_check_port=7081)) == ""
