from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.netns import FILES, NAMESPACES, LabHost, TwoHosts, sweep, why_not


def listener(host: LabHost) -> socket.socket:
    return host.on_thread(lambda: socket.create_server((host.address, 0)))


def reaches(asker: LabHost, server: socket.socket, attempts: int = 1) -> bool:
    def connect() -> bool:
        try:
            socket.create_connection(server.getsockname(), timeout=0.5).close()
        except OSError:
            return False
        return True

    return any(asker.on_thread(connect) for _ in range(attempts))


def test_each_host_reaches_the_other_by_address_and_by_name(two_hosts: TwoHosts) -> None:
    with listener(two_hosts.pc2) as server:
        assert reaches(two_hosts.mainpc, server)
    asked = two_hosts.mainpc.run("getent", "hosts", "pc2")
    assert asked.stdout.split() == ["10.77.0.2", "pc2"]


def test_a_cut_stops_both_ways_until_it_is_healed(two_hosts: TwoHosts) -> None:
    with listener(two_hosts.pc2) as there, listener(two_hosts.mainpc) as here:
        two_hosts.cut()
        assert not reaches(two_hosts.mainpc, there)
        assert not reaches(two_hosts.pc2, here)
        two_hosts.heal()
        assert reaches(two_hosts.mainpc, there)
        assert reaches(two_hosts.pc2, here)


def test_a_one_way_cut_lets_datagrams_through_the_other_way(two_hosts: TwoHosts) -> None:
    def port_on(host: LabHost) -> socket.socket:
        port = host.on_thread(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        port.bind((host.address, 0))
        port.settimeout(0.3)
        return port

    with port_on(two_hosts.mainpc) as here, port_on(two_hosts.pc2) as there:
        two_hosts.cut_one_way(two_hosts.mainpc, two_hosts.pc2)
        here.sendto(b"lost", there.getsockname())
        there.sendto(b"arrives", here.getsockname())
        assert here.recv(16) == b"arrives"
        with pytest.raises(TimeoutError):
            there.recv(16)


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_cut_port_is_cut_from_the_other_host_alone(two_hosts: TwoHosts, both_ways: bool) -> None:
    with listener(two_hosts.pc2) as cut, listener(two_hosts.pc2) as whole:
        two_hosts.cut_ports(two_hosts.pc2, [cut.getsockname()[1], 1], both_ways=both_ways)
        assert not reaches(two_hosts.mainpc, cut)
        assert reaches(two_hosts.pc2, cut)
        assert reaches(two_hosts.mainpc, whole)
        two_hosts.heal()
        assert reaches(two_hosts.mainpc, cut)


def test_a_pulled_cable_is_no_change_of_carrier_for_the_other_host(two_hosts: TwoHosts) -> None:
    with listener(two_hosts.pc2) as server:
        two_hosts.pull_cable(two_hosts.mainpc)
        assert two_hosts.pc2.run("cat", "/sys/class/net/cable0/carrier").stdout == "1\n"
        assert not reaches(two_hosts.mainpc, server)
        two_hosts.heal()
        assert reaches(two_hosts.mainpc, server, attempts=20)


def test_closing_kills_what_runs_on_a_host_and_removes_every_trace() -> None:
    if reason := why_not():
        pytest.skip(reason)
    with TwoHosts() as hosts:
        child = hosts.pc2.start("sleep", "600")
    assert child.wait(timeout=60) == -9
    assert not [path for folder in (NAMESPACES, FILES) for path in folder.glob(f"{hosts.switch.rsplit('-', 1)[0]}-*")]


def test_what_a_killed_run_left_is_swept_by_the_next() -> None:
    if reason := why_not():
        pytest.skip(reason)
    program = "import os; from tests.lab.netns import TwoHosts; TwoHosts().__enter__(); os.kill(os.getpid(), 9)"
    root = Path(__file__).resolve().parents[2]
    left = subprocess.Popen([sys.executable, "-c", program], cwd=root)
    left.wait(timeout=60)
    assert {f"tandem-{left.pid}-1-{name}" for name in ("mainpc", "pc2", "switch")} <= set(sweep())
    assert not list(NAMESPACES.glob(f"tandem-{left.pid}-*"))
