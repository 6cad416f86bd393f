"""The health port: a thread of its own that answers HTTP and ZeroMQ on one TCP port, also when the main loop is stuck.

It decides how far a late main loop spoils the health report, whom to answer and whom to hang up on. It never touches the main
loop: the loop calls `heartbeat`, and `report` and `metrics` return snapshots that are safe to read from another thread.

A connection's first byte tells its protocol: 0xFF is ZMTP, whose every message gets one health reply; all else is HTTP.
A connection that has not asked within REQUEST_S, or does not take its answer within REQUEST_S, is closed; beyond
MAX_CONNECTIONS the one silent for longest makes room.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Final

import msgspec
import psutil

from common import errors
from common.api.basic import Health
from common.transport import health_http, health_zmtp

REQUEST_S: Final = 5.0
"""From accept to a whole HTTP request or a finished ZMTP handshake, and from an answer to its being taken."""
LAG_DEGRADED_S: Final = 1.0
LAG_UNHEALTHY_S: Final = 5.0
MAX_CONNECTIONS: Final = 512
_SWEEP_S: Final = 0.25
_CHUNK_BYTES: Final = 2048
"""Read at once: at most 1,024 questions, so at most about 300 KB of answers wait for one connection."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def with_lag(health: Health, lag_s: float) -> Health:
    """`health` as it stands when the main loop was last heard of `lag_s` seconds ago."""
    if lag_s <= LAG_DEGRADED_S:
        return health
    reasons = [*health.reasons, f"main loop late by {lag_s:.1f} s"]
    if lag_s > LAG_UNHEALTHY_S:
        return msgspec.structs.replace(health, status="unhealthy", reasons=reasons)
    status = "unhealthy" if health.status == "unhealthy" else "degraded"
    return msgspec.structs.replace(health, status=status, reasons=reasons)


class _Phase(Enum):
    NEW = auto()
    HTTP = auto()
    ANSWERED = auto()
    ZMTP = auto()


class _Connection:
    """One accepted socket: what it sent of a request, what it has yet to take, and until when it may stay."""

    __slots__ = ("active_at", "deadline_at", "ended", "held", "interest", "out", "phase", "sock", "zmtp")

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.phase = _Phase.NEW
        self.held = b""
        self.out = bytearray()
        self.zmtp = health_zmtp.ZmtpServer()
        self.interest = _READ
        self.ended = False
        self.active_at = now
        self.deadline_at: float | None = now + REQUEST_S

    def wanted(self) -> int:
        """The events to wait for: a peer that does not read its answers is not read either."""
        write = _WRITE if self.out else 0
        read = _READ if not self.out and not self.ended else 0
        return read | write


class HealthPort:
    """A TCP port for `/health`, `/metrics` and ZeroMQ health questions, from `start` to `close`.

    `report` and `metrics` (Prometheus text format 0.0.4) run on the health thread and must neither block nor wait for the main
    loop. `/health` answers 200 while the process is ready and not unhealthy, else 503; its body is the same JSON in both cases.
    """

    def __init__(
        self,
        address: str,
        port: int,
        report: Callable[[], Health],
        metrics: Callable[[], bytes],
        *,
        clock: Callable[[], float] = time.monotonic,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._address = address
        self._wanted_port = port
        self._report = report
        self._metrics = metrics
        self._clock = clock
        self._max_connections = max_connections
        self._beat_at = clock()
        self._connections: dict[_Connection, None] = {}
        self._sweep_at = 0.0
        self._sweeping = False  # whether anything is due by the clock
        self._accepting = True
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port listened on; only after `start`."""
        return int(self._listener.getsockname()[1])

    def heartbeat(self) -> None:
        """Called by the main loop, at least four times a second, to show that it turns."""
        self._beat_at = self._clock()

    def start(self) -> None:
        """Binds and starts answering; port 0 lets the system choose.

        Raises Conflict when the port is taken, Unavailable when the address is not on this host, Forbidden when
        binding is not allowed.
        """
        self._last = self._report()
        self._listener = _listen(self._address, self._wanted_port)
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._listener, _READ, self._accept)
        self._selector.register(self._wake, _READ, lambda mask: None)
        self.heartbeat()
        self._thread = threading.Thread(target=self._run, name="health-port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops answering and frees the port; calling it again, or before `start`, does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        thread.join()
        self._listener.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._closing:
            for key, mask in self._selector.select(_SWEEP_S if self._sweeping else None):
                key.data(mask)
            self._sweep()
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()

    def _sweep(self) -> None:
        """Hangs up on those whose time is over, and listens again where descriptors had run out."""
        now = self._clock()
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_S
        deadlines = [(each, each.deadline_at) for each in self._connections if each.deadline_at is not None]
        self._sweeping = False
        for connection, deadline_at in deadlines:
            if deadline_at <= now:
                self._drop(connection)
            else:
                self._sweeping = True
        if not self._accepting:
            self._accepting = True
            self._selector.register(self._listener, _READ, self._accept)

    def _accept(self, mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._make_room()
            return
        if len(self._connections) >= self._max_connections:
            self._make_room()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock, self._clock())
        self._connections[connection] = None
        self._sweeping = True
        self._selector.register(sock, _READ, partial(self._on_ready, connection))

    def _make_room(self) -> None:
        """Drops the connection silent for longest; with none to drop, stops accepting until the next sweep."""
        if self._connections:
            self._drop(min(self._connections, key=lambda c: c.active_at))
        else:
            self._selector.unregister(self._listener)
            self._accepting = False
            self._sweeping = True

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._selector.unregister(connection.sock)
            connection.sock.close()

    def _on_ready(self, connection: _Connection, mask: int) -> None:
        """One turn of one connection; an event of a connection dropped earlier in the same turn is stale."""
        if connection not in self._connections:
            return
        try:
            if mask & _READ:
                self._take(connection, connection.sock.recv(_CHUNK_BYTES))
            self._flush(connection)
        except BlockingIOError:
            return
        except (OSError, health_zmtp.ZmtpRefused):
            self._drop(connection)

    def _take(self, connection: _Connection, chunk: bytes) -> None:
        connection.active_at = self._clock()
        if not chunk:
            connection.ended = True
        elif connection.phase is _Phase.NEW:
            connection.phase = _Phase.ZMTP if chunk[0] == 0xFF else _Phase.HTTP
            self._take(connection, chunk)
        elif connection.phase is _Phase.ZMTP:
            self._take_zmtp(connection, chunk)
        elif connection.phase is _Phase.HTTP:
            self._take_http(connection, chunk)

    def _take_zmtp(self, connection: _Connection, chunk: bytes) -> None:
        body: bytes | None = None
        for instruction in connection.zmtp.feed(chunk):
            if isinstance(instruction, bytes):
                connection.out += instruction
            else:
                body = body or msgspec.json.encode(self._health())
                connection.out += health_zmtp.answer(instruction, body)

    def _take_http(self, connection: _Connection, chunk: bytes) -> None:
        connection.held += chunk
        try:
            request = health_http.parse(connection.held)
        except health_http.HttpRefused as refused:
            connection.out += health_http.refusal(refused)
        else:
            if request is None:
                return
            connection.out += self._respond(request)
        connection.held = b""
        connection.phase = _Phase.ANSWERED
        connection.deadline_at = self._clock() + REQUEST_S
        self._sweeping = True

    def _flush(self, connection: _Connection) -> None:
        """Sends what can be sent now and says what to wait for next; raises OSError when the peer is gone."""
        sent = self._send(connection) if connection.out else 0
        if connection.ended and not connection.out:
            self._drop(connection)
            return
        if sent and not connection.out and connection.phase is _Phase.ANSWERED:
            connection.sock.shutdown(socket.SHUT_WR)  # the peer closes first, lest a reset eats the answer
        if connection.zmtp.shaken:
            connection.deadline_at = self._take_by(connection, sent)
            self._sweeping = self._sweeping or connection.deadline_at is not None
        if connection.interest != (wanted := connection.wanted()):
            connection.interest = wanted
            self._selector.modify(connection.sock, wanted, partial(self._on_ready, connection))

    def _send(self, connection: _Connection) -> int:
        try:
            sent = connection.sock.send(connection.out)
        except BlockingIOError:
            return 0
        del connection.out[:sent]
        return sent

    def _take_by(self, connection: _Connection, sent: int) -> float | None:
        """Until when a ZeroMQ peer must take more of its answers; None when it has them all."""
        if not connection.out:
            return None
        if sent or connection.deadline_at is None:
            return self._clock() + REQUEST_S
        return connection.deadline_at

    def _health(self) -> Health:
        """The report of now; where it cannot be had, or be said, the last one, unhealthy, with the reason."""
        try:
            health = self._report()
            msgspec.json.encode(health)
        except Exception as error:
            health = msgspec.structs.replace(
                self._last, status="unhealthy", reasons=[*self._last.reasons, f"health report failed: {error!r}"]
            )
        else:
            self._last = health
        return with_lag(health, self._clock() - self._beat_at)

    def _respond(self, request: health_http.Request) -> bytes:
        head_only = request.method == "HEAD"
        if request.path == "/health":
            health = self._health()
            well = health.ready and health.status != "unhealthy"
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            return health_http.response(status, health_http.JSON, msgspec.json.encode(health), head_only=head_only)
        if request.path == "/metrics":
            return self._respond_metrics(head_only)
        hint = b"/health and /metrics are here\n"
        return health_http.response(HTTPStatus.NOT_FOUND, health_http.TEXT, hint, head_only=head_only)

    def _respond_metrics(self, head_only: bool) -> bytes:
        try:
            text = self._metrics()
        except Exception as error:
            said = f"metrics failed: {error!r}\n".encode()
            return health_http.response(HTTPStatus.INTERNAL_SERVER_ERROR, health_http.TEXT, said, head_only=head_only)
        return health_http.response(HTTPStatus.OK, health_http.PROMETHEUS, text, head_only=head_only)


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise _refused(error, address, port) from error
    listener.setblocking(False)
    return listener


def _refused(error: OSError, address: str, port: int) -> errors.TandemError:
    where = f"health port {address}:{port}"
    if error.errno == errno.EADDRINUSE:
        holder = _holder(port)
        return errors.Conflict(f"{where} is taken by {holder}; stop it or configure another health port", port=port)
    if error.errno == errno.EACCES:
        return errors.Forbidden(f"{where} may not be bound by this user; configure a port above 1023", port=port)
    reason = f"{where} cannot be bound: {error.strerror}"
    return errors.Unavailable(f"{reason}; configure an address of this host", port=port)


def _holder(port: int) -> str:
    """Who listens on `port`, as far as this user may see."""
    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return f"{psutil.Process(found.pid).name()} (pid {found.pid})"
    except psutil.Error:
        pass
    return "another process"
