from __future__ import annotations

import json
import random
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from common import errors
from common.api.basic import Health
from common.transport import health_port
from common.transport.health_port import HealthPort, with_lag

WELL = Health(status="ok", ready=True, service="core", version="0.1.0", uptime=1.0, boot="boot-1")
PATIENCE_MS = 60_000


class ManualClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def listening(
    report: Callable[[], Health] = lambda: WELL,
    metrics: Callable[[], bytes] = lambda: b"up 1\n",
    **options: Any,
) -> Iterator[HealthPort]:
    port = HealthPort("127.0.0.1", 0, report, metrics, **options)
    port.start()
    try:
        yield port
    finally:
        port.close()


@pytest.fixture
def port() -> Iterator[HealthPort]:
    with listening() as port:
        yield port


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def dial(port: HealthPort) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port.port), timeout=PATIENCE_MS / 1000)


def read_to_end(sock: socket.socket) -> bytes:
    chunks = []
    try:
        while chunk := sock.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def fetch(port: HealthPort, request: bytes) -> tuple[int, bytes, bytes]:
    with dial(port) as sock:
        sock.sendall(request)
        said = read_to_end(sock)
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, body


def get(port: HealthPort, path: str, method: str = "GET") -> tuple[int, bytes, bytes]:
    return fetch(port, f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())


def asker(context: zmq.Context[zmq.Socket[bytes]], kind: int, port: HealthPort, **options: int) -> zmq.Socket[bytes]:
    sock = context.socket(kind)
    for name, value in {"LINGER": 0, "RCVTIMEO": PATIENCE_MS, "SNDTIMEO": PATIENCE_MS, **options}.items():
        sock.setsockopt(getattr(zmq, name), value)
    sock.connect(f"tcp://127.0.0.1:{port.port}")
    return sock


@contextmanager
def disconnections(sock: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
    monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    try:
        yield monitor
    finally:
        sock.disable_monitor()
        monitor.close(linger=0)


# -- http


def test_health_is_200_and_the_report_as_json(port: HealthPort) -> None:
    status, head, body = get(port, "/health")
    assert status == 200
    assert b"Content-Type: application/json" in head
    assert msgspec.json.decode(body, type=Health) == WELL


def test_a_degraded_process_is_still_200() -> None:
    with listening(lambda: msgspec.structs.replace(WELL, status="degraded")) as port:
        assert get(port, "/health")[0] == 200


@pytest.mark.parametrize("change", [{"status": "unhealthy"}, {"ready": False, "phase": "draining"}])
def test_unhealthy_or_not_ready_is_503_with_the_same_json(change: dict[str, Any]) -> None:
    with listening(lambda: msgspec.structs.replace(WELL, **change)) as port:
        status, _, body = get(port, "/health")
    assert status == 503
    assert json.loads(body)["service"] == "core"


def test_metrics_come_as_prometheus_text(port: HealthPort) -> None:
    status, head, body = get(port, "/metrics")
    assert (status, body) == (200, b"up 1\n")
    assert b"text/plain; version=0.0.4" in head


def test_metrics_larger_than_any_buffer_arrive_whole_even_after_the_asker_stopped_sending() -> None:
    text = b"up 1\n" * 2_000_000
    with listening(metrics=lambda: text) as port, dial(port) as sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock).endswith(b"\r\n\r\n" + text)


def test_failing_metrics_are_a_500_that_says_why() -> None:
    with listening(metrics=lambda: bytes(1 // 0)) as port:
        status, _, body = get(port, "/metrics")
    assert status == 500
    assert b"ZeroDivisionError" in body


def test_any_other_path_is_a_404_with_a_hint(port: HealthPort) -> None:
    status, _, body = get(port, "/")
    assert status == 404
    assert body == b"/health and /metrics are here\n"


def test_head_has_no_body(port: HealthPort) -> None:
    status, head, body = get(port, "/health", "HEAD")
    assert (status, body) == (200, b"")
    assert b"Content-Length: " in head


def test_a_post_with_a_body_is_405_and_the_answer_is_not_lost_to_a_reset(port: HealthPort) -> None:
    status, head, _ = fetch(port, b"POST /health HTTP/1.1\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000)
    assert status == 405
    assert b"Allow: GET, HEAD" in head


def test_a_request_in_pieces_is_answered_once_it_is_whole(port: HealthPort) -> None:
    with dial(port) as sock:
        for piece in (b"G", b"ET /hea", b"lth HTTP/1.1\r\n", b"\r\n"):
            sock.sendall(piece)
        assert read_to_end(sock).startswith(b"HTTP/1.1 200 OK")


# -- zmtp


@pytest.mark.parametrize("question", [b"ping", b"health", b'{"action": "health_check"}', b"", b"\xff\x00not utf-8"])
def test_a_req_gets_the_health_json_for_any_bytes(
    context: zmq.Context[zmq.Socket[bytes]], port: HealthPort, question: bytes
) -> None:
    with asker(context, zmq.REQ, port) as req:
        for _ in range(3):
            req.send(question)
            assert msgspec.json.decode(req.recv(), type=Health) == WELL


def test_req_correlate_frames_come_back(context: zmq.Context[zmq.Socket[bytes]], port: HealthPort) -> None:
    with asker(context, zmq.REQ, port, REQ_RELAXED=1, REQ_CORRELATE=1) as req:
        req.send(b"ping")
        req.send(b"ping")
        assert json.loads(req.recv())["status"] == "ok"
        req.send_multipart([b"ping", b"more"])
        assert json.loads(req.recv())["status"] == "ok"


def test_a_dealer_gets_one_reply_with_its_delimiter_or_without(
    context: zmq.Context[zmq.Socket[bytes]], port: HealthPort
) -> None:
    with asker(context, zmq.DEALER, port) as dealer:
        dealer.send_multipart([b"ping"])
        dealer.send_multipart([b"", b"ping"])
        dealer.send_multipart([b"a", b"b", b"c", b"d" * 100_000])
        shapes = [[len(frame) > 0 for frame in dealer.recv_multipart()] for _ in range(3)]
    assert shapes == [[True], [False, True], [True]]


def test_a_peer_that_sends_heartbeats_is_kept(context: zmq.Context[zmq.Socket[bytes]], port: HealthPort) -> None:
    with asker(context, zmq.REQ, port, HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=1500) as req, disconnections(req) as monitor:
        req.send(b"ping")
        req.recv()
        assert monitor.poll(2_500) == 0


def test_a_curve_peer_is_hung_up_on_and_the_port_lives(
    context: zmq.Context[zmq.Socket[bytes]], port: HealthPort
) -> None:
    public, secret = zmq.curve_keypair()
    with context.socket(zmq.REQ) as sock, disconnections(sock) as monitor:
        sock.curve_publickey, sock.curve_secretkey, sock.curve_serverkey = public, secret, public
        sock.connect(f"tcp://127.0.0.1:{port.port}")
        assert monitor.poll(PATIENCE_MS)
    assert get(port, "/health")[0] == 200


def fuzzed(rng: random.Random) -> list[bytes]:
    shapes = (
        lambda: rng.randbytes(rng.randrange(300)),
        lambda: b"",
        lambda: rng.randbytes(4),
        lambda: b"[" * rng.randrange(5_000),
        lambda: json.dumps({"action": rng.choice(["ping", "x", None, 2**70]), "n": rng.random()}).encode(),
        lambda: b"\xc1" + rng.randbytes(20),
    )
    return [rng.choice(shapes)() for _ in range(rng.choice((1, 1, 1, 2, 3, 8)))]


def expected_envelope(frames: list[bytes]) -> list[bytes]:
    if len(frames) > 1 and frames[0] == b"":
        return [b""]
    if len(frames) > 1 and len(frames[0]) == 4 and frames[1] == b"":
        return frames[:2]
    return []


def test_ten_thousand_fuzzed_messages_get_one_reply_each_and_memory_stays_flat(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    rng, process, before = random.Random(7), psutil.Process(), 0
    with listening(clock=ManualClock()) as port, asker(context, zmq.DEALER, port) as dealer:
        for batch in range(100):
            messages = [fuzzed(rng) for _ in range(100)]
            for frames in messages:
                dealer.send_multipart(frames)
            for frames in messages:
                *envelope, body = dealer.recv_multipart()
                assert envelope == expected_envelope(frames)
                assert body.startswith(b'{"status":"ok"')
            if batch == 20:
                before = process.memory_info().rss
        assert dealer.poll(50) == 0
    assert process.memory_info().rss - before < 8 * 1024 * 1024


def test_fuzzed_connections_are_answered_or_hung_up_on_and_the_port_lives(port: HealthPort) -> None:
    rng = random.Random(11)
    openings = (b"", b"\xff", b"\xff" + bytes(8) + b"\x7f\x03", b"GET ", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01")
    for _ in range(500):
        with dial(port) as sock:
            try:
                sock.sendall(rng.choice(openings) + rng.randbytes(rng.randrange(400)))
                if rng.random() < 0.3:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
    assert get(port, "/health")[0] == 200


def test_a_pipeliner_that_never_reads_is_dropped_while_others_are_served() -> None:
    clock = ManualClock()
    with listening(clock=clock) as port, dial(port) as greedy:
        greedy.settimeout(0.2)
        greedy.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48))
        greedy.sendall(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ")
        with pytest.raises(OSError, match=r"timed out|reset"):
            greedy.sendall(b"\x00\x00" * 50_000_000)
        assert get(port, "/health")[0] == 200
        for _ in range(100):
            clock.now += 6.0
            port.heartbeat()
            try:
                greedy.sendall(b"\x00\x00" * 50_000)
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("the greedy peer was kept")


# -- many, slow and silent


def test_three_hundred_concurrent_clients_are_all_answered(
    context: zmq.Context[zmq.Socket[bytes]], port: HealthPort
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096 <= hard or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    with ExitStack() as stack:
        askers = [stack.enter_context(asker(context, zmq.REQ, port)) for _ in range(250)]
        browsers = [stack.enter_context(dial(port)) for _ in range(50)]
        for req in askers:
            req.send(b"ping")
        for sock in browsers:
            sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert all(json.loads(req.recv())["status"] == "ok" for req in askers)
        assert all(read_to_end(sock).startswith(b"HTTP/1.1 200") for sock in browsers)


def test_a_bare_connect_succeeds_and_is_closed_after_the_limit() -> None:
    clock = ManualClock()
    with listening(clock=clock) as port, dial(port) as bare, dial(port) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nA: ")
        assert get(port, "/health")[0] == 200
        clock.now += 4.9
        port.heartbeat()
        slow.sendall(b"drip")
        assert get(port, "/health")[0] == 200
        clock.now += 0.5
        assert read_to_end(bare) == b""
        assert read_to_end(slow) == b""


def test_a_zmtp_peer_may_stay_silent_after_its_handshake(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    clock = ManualClock()
    with listening(clock=clock) as port, asker(context, zmq.REQ, port) as req, dial(port) as half_shaken:
        half_shaken.sendall(b"\xff")
        assert len(half_shaken.recv(64)) == 64
        req.send(b"ping")
        req.recv()
        with disconnections(req) as monitor:
            clock.now += 3600
            port.heartbeat()
            assert read_to_end(half_shaken) == b""
            req.send(b"ping")
            assert json.loads(req.recv())["status"] == "ok"
            assert monitor.poll(0) == 0


def test_beyond_the_limit_the_connection_silent_for_longest_makes_room() -> None:
    clock = ManualClock()
    with listening(clock=clock, max_connections=2) as port, dial(port) as first, dial(port) as second:
        first.sendall(b"G")
        second.sendall(b"G")
        clock.now += 1.0
        port.heartbeat()
        first.sendall(b"ET /health HTTP/1.1\r\n")
        assert get(port, "/health")[0] == 200
        clock.now += 0.5
        survivors = 0
        for sock in (first, second):
            try:
                sock.sendall(b"\r\n")
                survivors += read_to_end(sock).startswith(b"HTTP/1.1 200")
            except OSError:
                continue
        assert survivors <= 1


def test_running_out_of_descriptors_makes_room_and_never_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as port, dial(port) as idle:
        idle.sendall(b"\xff")
        assert len(idle.recv(64)) == 64
        failing = [True] * 3

        class Exhausted:
            def __init__(self, inner: socket.socket) -> None:
                self._inner = inner

            def accept(self) -> tuple[socket.socket, object]:
                if failing:
                    failing.pop()
                    raise OSError(health_port.errno.EMFILE, "too many")
                return self._inner.accept()

            def __getattr__(self, name: str) -> object:
                return getattr(self._inner, name)

        monkeypatch.setattr(port, "_listener", Exhausted(port._listener))
        with dial(port) as sock:
            assert read_to_end(idle) == b""
            sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")
        assert not failing


# -- the main loop


@pytest.mark.parametrize(
    ("lag_s", "status", "said", "heard"),
    [
        (0.0, "ok", [], "ok"),
        (1.0, "ok", [], "ok"),
        (1.5, "ok", ["main loop late by 1.5 s"], "degraded"),
        (1.5, "unhealthy", ["main loop late by 1.5 s"], "unhealthy"),
        (5.5, "ok", ["main loop late by 5.5 s"], "unhealthy"),
    ],
)
def test_a_late_main_loop_spoils_the_report(lag_s: float, status: Any, said: list[str], heard: str) -> None:
    health = with_lag(msgspec.structs.replace(WELL, status=status), lag_s)
    assert (health.status, health.reasons) == (heard, said)


def test_a_stuck_main_loop_is_told_by_http_and_by_zeromq(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    clock = ManualClock()
    with listening(clock=clock) as port, asker(context, zmq.REQ, port) as req:
        clock.now += 2.0
        status, _, body = get(port, "/health")
        assert (status, json.loads(body)["status"]) == (200, "degraded")
        clock.now += 4.0
        assert get(port, "/health")[0] == 503
        req.send(b"ping")
        assert json.loads(req.recv())["reasons"] == ["main loop late by 6.0 s"]
        port.heartbeat()
        assert get(port, "/health")[0] == 200


def test_a_failing_report_is_unhealthy_with_the_last_one_known() -> None:
    broken = threading.Event()

    def report() -> Health:
        if broken.is_set():
            raise RuntimeError("no snapshot")
        return WELL

    with listening(report) as port:
        broken.set()
        status, _, body = get(port, "/health")
    assert status == 503
    assert json.loads(body)["service"] == "core"
    assert "no snapshot" in json.loads(body)["reasons"][0]


def test_a_report_that_json_cannot_say_is_told_without_its_words_and_the_port_lives() -> None:
    odd = threading.Event()

    def report() -> Health:
        return msgspec.structs.replace(WELL, lacks=["/tmp/\udcff"]) if odd.is_set() else WELL

    with listening(report) as port:
        odd.set()
        for _ in range(2):
            status, _, body = get(port, "/health")
            assert status == 503
            assert "UnicodeEncodeError" in json.loads(body)["reasons"][0]
        odd.clear()
        assert get(port, "/health")[0] == 200


# -- binding and closing


def test_a_taken_port_names_who_has_it_and_the_mend(port: HealthPort) -> None:
    second = HealthPort("127.0.0.1", port.port, lambda: WELL, lambda: b"")
    with pytest.raises(errors.Conflict, match=rf"127.0.0.1:{port.port} is taken by .*stop it or configure") as caught:
        second.start()
    assert f"pid {psutil.Process().pid}" in caught.value.message
    second.close()


def test_a_holder_that_may_not_be_seen_is_another_process(port: HealthPort, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    with pytest.raises(errors.Conflict, match="taken by another process"):
        HealthPort("127.0.0.1", port.port, lambda: WELL, lambda: b"").start()
    monkeypatch.setattr(psutil, "net_connections", lambda kind: [])
    with pytest.raises(errors.Conflict, match="taken by another process"):
        HealthPort("127.0.0.1", port.port, lambda: WELL, lambda: b"").start()


def test_an_address_of_another_host_is_unavailable() -> None:
    with pytest.raises(errors.Unavailable, match="configure an address of this host"):
        HealthPort("192.0.2.1", 0, lambda: WELL, lambda: b"").start()


def test_a_port_that_may_not_be_bound_is_forbidden() -> None:
    refused = health_port._refused(PermissionError(health_port.errno.EACCES, "denied"), "127.0.0.1", 80)
    assert isinstance(refused, errors.Forbidden)


def test_ipv6_loopback_is_served() -> None:
    port = HealthPort("::1", 0, lambda: WELL, lambda: b"")
    try:
        port.start()
    except errors.Unavailable:
        pytest.skip("this machine has no IPv6 loopback")
    with socket.create_connection(("::1", port.port), timeout=PATIENCE_MS / 1000) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")
    port.close()


def test_close_hangs_up_frees_the_port_and_may_be_called_twice() -> None:
    with listening() as port, dial(port) as idle:
        idle.sendall(b"G")
        number = port.port
        port.close()
        assert read_to_end(idle) == b""
        port.close()
    again = HealthPort("127.0.0.1", number, lambda: WELL, lambda: b"")
    again.start()
    again.close()


def test_its_thread_sleeps_while_whoever_is_connected_asks_nothing(
    port: HealthPort, context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float | None] = []
    resting = threading.Event()
    select = port._selector.select

    def watched(timeout: float | None = None) -> Any:
        rests.append(timeout)
        if timeout is None:
            resting.set()
        return select(timeout)

    monkeypatch.setattr(port._selector, "select", watched)
    sock = asker(context, zmq.DEALER, port)
    for _ in range(3):
        resting.clear()
        sock.send(b"ping")
        assert json.loads(sock.recv())["ready"] is True
        assert resting.wait(PATIENCE_MS / 1000)
    sock.close()
