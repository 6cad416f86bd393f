"""The programs that a measurement is made of, each over real sockets."""

from __future__ import annotations

import sys

import psutil
import pytest
import zmq

from benchmarks import disk
from benchmarks.alone import Alone, alone, started, until
from benchmarks.callers import answered_after
from benchmarks.contest import serving
from benchmarks.peers.pyzmq_drain import PEER
from benchmarks.scenarios import errors
from benchmarks.scenarios.probing import Answerers
from common.api import error_bus
from common.client.opening import open_client


def ping(port: int) -> bytes:
    socket: zmq.Socket[bytes]
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 60_000)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(b"ping")
        answer: bytes = socket.recv()
        return answer


def test_answerers_answer_each_on_its_own_port_and_count() -> None:
    with started([sys.executable, "-m", "benchmarks.answerers", "3"]) as process:
        answerers = Answerers(process)
        for port, times in zip(answerers.ports, (0, 1, 2), strict=True):
            for _ in range(times):
                assert b'"ready":true' in ping(port)

        assert answerers.asked() == [0, 1, 2]


def test_the_bare_pinger_asks_every_port() -> None:
    with started([sys.executable, "-m", "benchmarks.answerers", "2"]) as process:
        answerers = Answerers(process)
        with started([sys.executable, "-m", "benchmarks.pinging", *map(str, answerers.ports)]):
            until(lambda: min(answerers.asked()) >= 2, "two pings of each")


def test_the_bare_drain_says_of_every_message_that_it_has_it() -> None:
    with serving("pyzmq_drain") as server:
        assert PEER.drained(server.port, 20, 4, 1_000) > 0


def test_a_program_is_gone_when_it_is_needed_no_more() -> None:
    with started([sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"

    assert not psutil.pid_exists(process.pid)


def test_waiting_for_what_never_comes_ends() -> None:
    with pytest.raises(TimeoutError, match=r"the moon: not within 0\.01 s"):
        until(lambda: False, "the moon", within_s=0.01)


def test_bare_commits_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MEASURE_S", 0.01)

    assert disk.rows_per_s(16) > 0
    assert disk.commit_ms() > 0


def test_a_service_by_itself_takes_every_call_of_four_callers() -> None:
    with alone("errors") as bus:
        ends = answered_after(bus.directory, bus.name, error_bus.REPORT_ERROR, errors.report, 400)

        assert len(ends) == 400
        assert ends == sorted(ends)
        assert counted(bus) == 400
        assert bus.busy_s > 0
        assert bus.resident_mb > 1
        assert bus.back_s() > 0
        assert counted(bus) == 400, "it is there again, with what it had"


def counted(bus: Alone) -> int:
    with open_client(directory=bus.directory) as client:
        asked = error_bus.ListErrorGroups(limit=1_000)
        return sum(group.count for group in client.call(bus.name, error_bus.LIST_ERROR_GROUPS, asked).groups)
