"""Both hosts over encrypted links, each in a namespace of its own: what crosses, who gets nothing, and what the wire shows."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from tests.lab.fabric import until
from tests.lab.netns import TwoHosts, why_not
from tests.lab.two_hosts import PACKAGES, SERVICES, SUPERVISORS, TwoHostFabric, two_host_fabric
from tests.system.conftest import ECHO

PORTS = {name: port for name, (_, port) in SERVICES.items()} | SUPERVISORS
PLAIN_AGENT = """
import json, sys, zmq
port, events = int(sys.argv[1]), sys.argv[2]
with zmq.Context() as context, context.socket(zmq.REP) as rep, context.socket(zmq.REQ) as req:
    rep.bind(f"tcp://127.0.0.1:{port}")
    req.connect("tcp://127.0.0.1:7000")
    req.send_json({"action": "register_agent", "agent_name": events, "host": "127.0.0.1", "port": port,
                   "capabilities": ["shout"], "verbs": {"shout": "shout"}})
    print(req.recv_string(), flush=True)
    while True:
        asked = rep.recv_json()
        rep.send_json({"status": "success", "loud": str(asked.get("data", "")).upper()})
"""
AGENTS = {name: [ECHO | {"name": f"echo-{name}", "depends_on": []}] for name in PACKAGES}
MARKER = "a-word-that-nobody-else-would-say"


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHostFabric]:
    if reason := why_not():
        pytest.skip(reason)
    with TwoHosts() as lab, two_host_fabric(lab, tmp_path_factory.mktemp("two-hosts"), agents=AGENTS) as up:
        until(lambda: all(len(echoes(up, name)) == 2 for name in PACKAGES), 30, "both echoes to be known on both hosts")
        yield up


def echoes(fabric: TwoHostFabric, name: str) -> list[str]:
    answer = fabric.ask(name, PORTS["core_orchestrator"], {"action": "find_agents", "capability": "echo"})
    return sorted(agent["agent_name"] for agent in (answer or {}).get("agents", []))


def said(fabric: TwoHostFabric, name: str, *words: str) -> str:
    done = fabric.tandem(name, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_agents_of_either_host_are_found_and_called_from_the_other(fabric: TwoHostFabric, name: str) -> None:
    assert echoes(fabric, name) == ["echo-mainpc", "echo-pc2"]
    for agent in ("echo-mainpc", "echo-pc2"):
        answer = json.loads(said(fabric, name, "call", agent, "echo", '{"data": "across"}'))
        assert answer["data"] == "across"
        host = agent.removeprefix("echo-")
        assert answer["pid"] == fabric.processes(host)[agent]["pid"]


@pytest.mark.parametrize("name", PACKAGES)
def test_requests_tasks_leases_and_logs_cross_the_link(fabric: TwoHostFabric, name: str) -> None:
    other = fabric.other(name)
    request = json.loads(
        said(fabric, name, "call", "submit_request", '{"capability": "echo", "data": "r", "wait_s": 4}')
    )
    assert (request["state"], request["result"]["data"]) == ("done", "r")
    task = json.loads(said(fabric, name, "tasks", "submit", "echo", '{"data": "t"}', "--wait", "--json"))
    assert (task["state"], task["result"]["data"]) == ("done", "t")
    asked = json.dumps({"model": f"from-{name}", "bytes": 2**30, "host": other, "ttl_s": 60})
    lease = json.loads(said(fabric, name, "call", "acquire_lease", asked))
    assert lease["host"] == other
    assert lease["lease_id"] in said(fabric, other, "leases")
    released = json.dumps({"lease_id": lease["lease_id"], "fencing_token": lease["fencing_token"]})
    said(fabric, other, "call", "release_lease", released)
    assert lease["lease_id"] not in said(fabric, name, "leases")
    assert "went from starting to ready" in said(fabric, name, "logs", "supervisor", "--host", other, "-n", "1000")


@pytest.mark.parametrize("name", PACKAGES)
def test_whoever_is_on_a_host_reaches_every_service_at_localhost(fabric: TwoHostFabric, name: str) -> None:
    for service, port in PORTS.items():
        health = fabric.ask(name, port, b"ping")
        assert health is not None, f"{service} from {name}"
        assert health["status"] == "ok", (service, health)
        unknown = fabric.ask(name, port, {"action": "no_such_verb", "_id": 7})
        assert unknown is not None
        assert (unknown["code"], unknown["_id"]) == ("unknown_verb", 7)


@pytest.mark.parametrize("name", PACKAGES)
def test_an_agent_that_knows_nothing_of_tandem_is_reached_from_the_other_host(fabric: TwoHostFabric, name: str) -> None:
    agent = f"plain-{name}"
    program = fabric.host(name).start(sys.executable, "-c", PLAIN_AGENT, "5999", agent, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["status"] == "success"
        other = fabric.other(name)

        def called() -> bool:
            done = fabric.tandem(other, "call", agent, "shout", '{"data": "hear"}', "--json")
            return done.returncode == 0 and json.loads(done.stdout)["loud"] == "HEAR"

        until(called, 20, f"{agent} to answer a call from {other}")
        request = {"action": "submit_request", "capability": "shout", "data": "who", "wait_s": 4}
        answer = fabric.ask(other, PORTS["core_orchestrator"], request)
        assert answer is not None
        assert answer["result"]["loud"] == "WHO", answer
    finally:
        program.kill()
        program.wait()
        fabric.ask(name, PORTS["core_orchestrator"], {"action": "deregister_agent", "agent_name": agent})


def asked_by_a_stranger(
    fabric: TwoHostFabric, port: int, keys: tuple[bytes, bytes] | None, server: bytes, within_ms: int = 500
) -> bytes | None:
    """What pc2 answers to a DEALER on mainpc with these keys (None: plaintext)."""

    def asked() -> bytes | None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.RCVTIMEO, within_ms)
            if keys is not None:
                dealer.setsockopt(zmq.CURVE_SERVERKEY, server)
                dealer.setsockopt(zmq.CURVE_PUBLICKEY, keys[0])
                dealer.setsockopt(zmq.CURVE_SECRETKEY, keys[1])
            dealer.connect(f"tcp://{fabric.lab.pc2.address}:{port}")
            dealer.send(b"ping")
            try:
                return dealer.recv()
            except zmq.Again:
                return None

    return fabric.lab.mainpc.on_thread(asked)


def keys_of(fabric: TwoHostFabric, host: str, process: str) -> tuple[bytes, bytes]:
    """A process's own pair, as its file has it."""
    told = json.loads((fabric.home(host) / host / "keys" / f"{process}.json").read_text())
    return told["public"].encode(), told["secret"].encode()


def test_only_a_known_key_gets_an_answer_beyond_loopback(fabric: TwoHostFabric) -> None:
    known = keys_of(fabric, "mainpc", "echo-mainpc")
    for process, port in (("resource_manager", 7001), ("error_bus", 7003), ("supervisor", 7091)):
        server, _ = keys_of(fabric, "pc2", process)
        answer = asked_by_a_stranger(fabric, port, known, server, 60_000)
        assert answer is not None, f"a known key gets nothing of {process}"
        assert json.loads(answer)["status"] == "ok"
        assert asked_by_a_stranger(fabric, port, zmq.curve_keypair(), server) is None
        assert asked_by_a_stranger(fabric, port, known, zmq.curve_keypair()[0]) is None
        assert asked_by_a_stranger(fabric, port, None, server) is None


@contextmanager
def captured(lab: TwoHosts) -> Iterator[list[bytes]]:
    """Every frame that mainpc's cable carries, as seen on mainpc."""
    frames: list[bytes] = []
    over = threading.Event()
    ready = threading.Event()

    def capture() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 2**20)
            raw.bind(("cable0", 0))
            raw.settimeout(0.1)
            ready.set()
            while not over.is_set():
                try:
                    frames.append(raw.recv(65_536))
                except TimeoutError:
                    continue

    worker = threading.Thread(target=lambda: lab.mainpc.on_thread(capture, 60), daemon=True)
    worker.start()
    assert ready.wait(60)
    try:
        yield frames
    finally:
        over.set()
        worker.join(60)


def test_a_capture_of_the_link_holds_no_plaintext(fabric: TwoHostFabric) -> None:
    with captured(fabric.lab) as frames:
        for name in PACKAGES:
            other = fabric.other(name)
            words = json.dumps({"data": MARKER})
            assert MARKER in said(fabric, name, "call", f"echo-{other}", "echo", words)
            said(fabric, name, "tasks", "submit", "echo", words, "--wait")
        report = {"action": "report_error", "agent": MARKER, "error_type": MARKER, "message": MARKER}
        told = fabric.ask("mainpc", PORTS["error_bus"], report)
        assert told is not None
        assert told["status"] == "success"
        said(fabric, "mainpc", "errors")
        until(lambda: len(frames) > 50, 10, "traffic on the link")
    wire = b"".join(frames)
    assert MARKER.encode() not in wire
    for word in (
        b"agent_name",
        b"lease_id",
        b"fencing_token",
        b"heartbeat",
        b"report_error",
        b'"status"',
        b"CoreOrchestrator",
    ):
        assert word not in wire, word


def test_the_capture_would_show_plaintext(fabric: TwoHostFabric) -> None:
    with captured(fabric.lab) as frames:

        def listen() -> None:
            with socket.create_server((fabric.lab.pc2.address, 5998)) as server:
                server.settimeout(60)
                listening.set()
                server.accept()[0].recv(100)

        listening = threading.Event()
        listener = threading.Thread(target=lambda: fabric.lab.pc2.on_thread(listen), daemon=True)
        listener.start()
        assert listening.wait(60)

        def speak() -> None:
            with socket.create_connection((fabric.lab.pc2.address, 5998), timeout=60) as speaker:
                speaker.sendall(MARKER.encode())

        fabric.lab.mainpc.on_thread(speak)
        listener.join(60)
        until(lambda: MARKER.encode() in b"".join(frames), 10, "the word on the wire")


def test_control_needs_the_operator_on_either_host(fabric: TwoHostFabric) -> None:
    for name in PACKAGES:
        for port in SUPERVISORS.values():
            refused = fabric.ask(name, port, {"action": "stop_agent", "agent_name": "echo-pc2"})
            assert refused is not None
            assert refused["code"] in ("unauthenticated", "forbidden"), refused
    before = fabric.processes("pc2")["echo-pc2"]["pid"]
    said(fabric, "mainpc", "agent", "restart", "echo-pc2")
    until(
        lambda: (
            fabric.processes("pc2")["echo-pc2"]["phase"] == "ready"
            and fabric.processes("pc2")["echo-pc2"]["pid"] != before
        ),
        20,
        "echo-pc2 to be restarted from mainpc",
    )


def test_a_host_that_was_sent_away_gets_nothing_and_comes_back_by_a_new_invitation(fabric: TwoHostFabric) -> None:
    known = keys_of(fabric, "mainpc", "echo-mainpc")
    server, _ = keys_of(fabric, "pc2", "resource_manager")
    assert asked_by_a_stranger(fabric, 7001, known, server, 60_000) is not None
    said(fabric, "pc2", "expel", "mainpc")
    until(lambda: asked_by_a_stranger(fabric, 7001, known, server) is None, 10, "mainpc's keys to count no more")

    def refused() -> bool:
        answer = fabric.ask("mainpc", PORTS["resource_manager"], {"action": "ping"})
        return (answer or {}).get("code") in ("unavailable", "unauthenticated")

    until(refused, 10, "mainpc to be told that pc2 is not reached")
    fabric.join("pc2")
    until(fabric.is_linked, 20, "the link to be back")
    assert asked_by_a_stranger(fabric, 7001, known, server, 60_000) is not None


def test_mainpc_works_alone_when_pc2_is_destroyed_and_says_so_when_it_is_back(fabric: TwoHostFabric) -> None:
    destroy(fabric, "pc2")
    ran = fabric.tandem("mainpc", "run", "--vram", "4GiB", "--", "true")
    assert ran.returncode == 0, ran.stderr
    before = fabric.processes("mainpc")["echo-mainpc"]["pid"]
    said(fabric, "mainpc", "agent", "restart", "echo-mainpc")
    until(lambda: fabric.processes("mainpc")["echo-mainpc"]["pid"] not in (0, before), 20, "a restarted echo-mainpc")
    until(lambda: "echo-mainpc" in said(fabric, "mainpc", "agents"), 20, "echo-mainpc to be registered again")
    shown: Callable[[str], bool] = lambda told: told in fabric.tandem("mainpc", "status").stdout  # noqa: E731
    until(lambda: shown("link mainpc to pc2: down for "), 20, "the link to be told as down")
    assert shown("host pc2 is unreachable")
    assert fabric.tandem("mainpc", "status").returncode == 1
    fabric.lab.heal()
    fabric.start("pc2")
    until(lambda: fabric.is_ready("pc2"), 60, "pc2 to be back")
    until(fabric.is_linked, 30, "the link to be back")
    healed: Callable[[], bool] = lambda: fabric.tandem("mainpc", "heal").returncode == 0  # noqa: E731
    until(healed, 20, "nothing to be in conflict")
    told = said(fabric, "mainpc", "heal")
    assert "mainpc was without pc2 for " in told
    assert "1 leases granted" in told
    assert "1 processes controlled" in told


def destroy(fabric: TwoHostFabric, name: str) -> None:
    """Everything on the host dies at once, and its cable is out."""
    host = fabric.host(name)
    fabric.lab.pull_cable(host)
    inside = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
    subprocess.run(["kill", "-9", *inside.stdout.split()], check=False)
    fabric.running.pop(name).wait(timeout=60)
