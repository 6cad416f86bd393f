"""Any ZeroMQ client, and curl, against a whole fabric: right answers, one error for anything else."""

from __future__ import annotations

import json
import random
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import zmq

from tests.lab.fabric import Fabric

PORTS = {"core": "CoreOrchestrator", "rm": "ResourceManager", "mainpc": "Supervisor", "pc2": "Supervisor"}
GIB = 2**30

MALFORMED = {
    "empty": [b""],
    "not JSON": [b"hello"],
    "not UTF-8": [b"\xff\xfe\xfd"],
    "a number": [b"7"],
    "a list": [b"[1,2,3]"],
    "no action": [b'{"verb":"ping"}'],
    "action of a wrong type": [b'{"action":7}'],
    "5,000 levels deep": [b'{"action":"ping","x":' + b"[" * 5000 + b"]" * 5000 + b"}"],
    "an integer beyond 2^53": [b'{"action":"ping","_deadline_ms":9007199254740993}'],
    "an unknown verb": [b'{"action":"pingg"}'],
    "two frames": [b'{"action":"ping"}', b"{}"],
    "a native header alone": [b"\xc1\x95\x01\x00\x01\xa4ping\x00"],
    "a broken native header": [b"\xc1\xff\xff\xff\xff\xff", b"{}"],
    "eighty frames": [b"x"] * 80,
}


def ask_frames(port: int, frames: list[bytes], timeout_ms: int = 60_000) -> list[list[bytes]]:
    """Everything that comes back to a DEALER that sent one message behind a delimiter, and then a ping."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
    socket.connect(f"tcp://127.0.0.1:{port}")
    answers: list[list[bytes]] = []
    try:
        socket.send_multipart([b"", *frames])
        socket.send_multipart([b"", b'{"action":"ping","_id":"last"}'])
        while not (answers and json.loads(answers[-1][-1]).get("_id") == "last"):
            answers.append(socket.recv_multipart())
    finally:
        socket.close(0)
    return answers


@pytest.mark.parametrize("name", PORTS)
def test_the_basic_verbs_are_answered_everywhere(fabric: Fabric, name: str) -> None:
    for action in ("ping", "health_check"):
        health = fabric.ask(name, {"action": action})
        assert health is not None
        assert (health["status"], health["ready"], health["service"]) == ("ok", True, PORTS[name])
    for raw in (b"ping", b"health"):
        answer = fabric.ask(name, raw)
        assert answer is not None
        assert answer["status"] == "ok"
    info = fabric.ask(name, {"action": "info", "_id": [1, {"x": None}]})
    assert info is not None
    assert info["status"] == "success"
    assert info["_id"] == [1, {"x": None}]
    assert {"ping", "health_check", "info", "stats", "events_since"} <= {verb["name"] for verb in info["verbs"]}
    stats = fabric.ask(name, {"action": "stats"})
    assert stats is not None
    assert stats["verbs"]["info"]["count"] >= 1


@pytest.mark.parametrize("shape", MALFORMED)
@pytest.mark.parametrize("name", PORTS)
def test_every_malformed_shape_gets_exactly_one_error(fabric: Fabric, name: str, shape: str) -> None:
    errors, last = ask_frames(fabric.ports[name], MALFORMED[shape])[:-1], True
    assert last
    assert len(errors) == 1
    answer = json.loads(errors[0][-1])
    assert answer["status"] == "error"
    assert answer["code"] in {"bad_request", "unknown_verb"}
    assert answer["error"] == answer["message"]
    assert answer["retryable"] is False


def test_the_registry_verbs_by_a_bare_client(fabric: Fabric) -> None:
    agent = {"agent_name": "by-hand", "host": "127.0.0.1", "port": 5999, "capabilities": ["nothing"]}
    registered = fabric.ask("core", {"action": "register_agent", **agent})
    assert registered is not None
    assert registered["status"] == "success"
    assert registered["boot"].startswith("boot-")
    beat = fabric.ask("core", {"action": "heartbeat", "agent_name": "by-hand"})
    assert beat is not None
    assert beat["status"] == "success"
    endpoint = fabric.ask("core", {"action": "get_agent_endpoint", "agent_name": "by-hand"})
    assert endpoint is not None
    assert (endpoint["host"], endpoint["port"], endpoint["liveness"]) == ("127.0.0.1", 5999, "unpromised")
    found = fabric.ask("core", {"action": "find_agents", "capability": "nothing"})
    assert found is not None
    assert [entry["agent_name"] for entry in found["agents"]] == ["by-hand"]
    listed = fabric.ask("core", {"action": "list_agents"})
    assert listed is not None
    assert {"echo", "by-hand"} <= {entry["agent_name"] for entry in listed["agents"]}
    assert listed["as_of"]["seq"] >= 1
    gone = fabric.ask("core", {"action": "deregister_agent", "agent_name": "by-hand"})
    assert gone is not None
    assert gone["status"] == "success"
    missing = fabric.ask("core", {"action": "get_agent_endpoint", "agent_name": "by-hand"})
    assert missing is not None
    assert missing["code"] == "not_found"


def test_a_request_by_a_bare_client(fabric: Fabric) -> None:
    asked = {"action": "submit_request", "capability": "echo", "data": "hello", "wait_s": 10}
    done = fabric.ask("core", asked)
    assert done is not None
    assert (done["status"], done["state"], done["result"]["data"]) == ("success", "done", "hello")
    again = fabric.ask("core", {"action": "get_request", "request_id": done["request_id"]})
    assert again is not None
    assert again["result"] == done["result"]
    nobody = fabric.ask("core", {"action": "submit_request", "capability": "telepathy"})
    assert nobody is not None
    assert nobody["code"] == "no_provider"


@pytest.mark.parametrize("name", ["rm", "mainpc", "pc2"])
def test_the_lease_verbs_by_a_bare_client(fabric: Fabric, name: str) -> None:
    gpus = fabric.ask(name, {"action": "get_gpus"})
    assert gpus is not None
    assert all(card["simulated"] for card in gpus["cards"])
    assert len(gpus["cards"]) == (2 if name == "rm" else 1)
    granted = fabric.ask(name, {"action": "acquire_lease", "model": "tiny", "bytes": GIB, "ttl_s": 30})
    assert granted is not None
    assert granted["status"] == "success", granted
    token = {"lease_id": granted["lease_id"], "fencing_token": granted["fencing_token"]}
    assert granted["fencing_token"] < 2**53
    renewed = fabric.ask(name, {"action": "renew_lease", **token})
    assert renewed is not None
    assert renewed["expires_in_s"] > 0
    listed = fabric.ask(name, {"action": "list_leases"})
    assert listed is not None
    assert granted["lease_id"] in {lease["lease_id"] for lease in listed["leases"]}
    stale = fabric.ask(name, {"action": "renew_lease", **token, "fencing_token": granted["fencing_token"] - 1})
    assert stale is not None
    assert stale["code"] == "stale_fence"
    released = fabric.ask(name, {"action": "release_lease", **token})
    assert released is not None
    assert released["status"] == "success"
    too_much = fabric.ask(name, {"action": "acquire_lease", "model": "huge", "bytes": 400 * GIB})
    assert too_much is not None
    assert too_much["code"] == "too_large"
    assert "400" in too_much["message"]


@pytest.mark.parametrize("name", ["rm", "mainpc", "pc2"])
def test_a_full_card_says_what_was_needed_and_what_is_free(fabric: Fabric, name: str) -> None:
    gpus = fabric.ask(name, {"action": "get_gpus"})
    assert gpus is not None
    card = gpus["cards"][0]["card_uuid"]
    ask = {"action": "acquire_lease", "card_uuid": card, "bytes": 10 * GIB, "ttl_s": 30}
    held: list[dict[str, Any]] = []
    while (answer := fabric.ask(name, ask | {"model": f"m{len(held)}"})) is not None and answer["status"] == "success":
        held.append(answer)
    assert held
    assert answer is not None
    assert (answer["code"], answer["retryable"]) == ("no_capacity", True)
    assert "10.0 GiB" in answer["message"]
    assert "free" in answer["message"]
    assert answer["retry_after_ms"] > 0
    for lease in held:
        token = {"lease_id": lease["lease_id"], "fencing_token": lease["fencing_token"]}
        assert fabric.ask(name, {"action": "release_lease", **token}) == {"status": "success"}


def test_an_agent_is_stopped_started_and_restarted_by_a_bare_client_with_a_token(fabric: Fabric) -> None:
    from tests.lab.fabric import until

    before = fabric.processes("mainpc")["echo"]["pid"]
    refused = fabric.ask("mainpc", {"action": "stop_agent", "agent_name": "echo"})
    assert refused is not None
    assert refused["code"] == "forbidden"
    assert "token" in refused["details"]["mend"]
    shown = {"_token": fabric.token("mainpc")}
    for action, phase in (("stop_agent", "stopped"), ("start_agent", "ready"), ("restart_agent", "ready")):
        operation = fabric.ask("mainpc", {"action": action, "agent_name": "echo", **shown})
        assert operation is not None
        assert operation["operation_id"]
        until(lambda wanted=phase: fabric.processes("mainpc")["echo"]["phase"] == wanted, 20, f"echo to be {phase}")
    until(lambda: fabric.processes("mainpc")["echo"]["pid"] not in (0, before), 20, "a new echo")
    wrong = fabric.ask("mainpc", {"action": "start_agent", "agent_name": "nobody", **shown})
    assert wrong is not None
    assert wrong["code"] == "not_found"


@pytest.mark.parametrize("name", PORTS)
def test_health_ports_answer_curl_and_any_bytes(fabric: Fabric, name: str, needs: Callable[[str], str]) -> None:
    port = f"{name}_health"
    base = f"http://127.0.0.1:{fabric.ports[port]}"
    with urllib.request.urlopen(f"{base}/health", timeout=60) as answer:
        assert answer.status == 200
        assert json.load(answer)["status"] == "ok"
    for question in (b"ping", b"", b"\xff\x00", b'{"action":"health_check"}', b"x" * 100_000):
        health = fabric.ask(port, question)
        assert health is not None
        assert health["status"] == "ok"
    with urllib.request.urlopen(f"{base}/metrics", timeout=60) as answer:
        metrics = answer.read()
    checked = subprocess.run([needs("promtool"), "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


@pytest.mark.parametrize("name", [*PORTS, *(f"{name}_health" for name in PORTS)])
def test_ten_thousand_fuzzed_messages_get_one_answer_each(fabric: Fabric, name: str) -> None:
    rng = random.Random(name)
    pid = fabric.ask(name.removesuffix("_health"), {"action": "info"})["pid"]  # type: ignore[index]
    process = psutil.Process(pid)
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 60_000)
    socket.connect(f"tcp://127.0.0.1:{fabric.ports[name]}")
    try:
        _fuzz(socket, rng, 2_000)
        before = process.memory_info().rss
        _fuzz(socket, rng, 8_000)
        assert process.memory_info().rss - before < 24 * 2**20
        assert socket.poll(100) == 0
    finally:
        socket.close(0)
    assert process.is_running()


def _fuzz(socket: zmq.Socket[bytes], rng: random.Random, count: int) -> None:
    for _ in range(count // 100):
        for _ in range(100):
            socket.send_multipart([b"", _garbage(rng)])
        for _ in range(100):
            json.loads(socket.recv_multipart()[-1])


def _garbage(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(64)).lstrip(b"\xc1")
    verb = rng.choice(["ping", "stats", "acquire_lease", "submit_request", "register_agent", "list_processes", "plan"])
    fields = {"action": verb, rng.choice("abc"): rng.choice([None, -1, 1.5, "x", [], {}, 2**60])}
    text = json.dumps(fields | ({"bytes": "many"} if kind == 1 else {"agent_name": 7, "model": [], "type": {}}))
    cut = rng.randrange(len(text)) if kind == 2 else len(text)
    return text[:cut].encode()
