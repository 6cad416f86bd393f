"""The one factory of sockets: every option of design's "Sockets" is set here and nowhere else.

ROUTER and DEALER inside the fabric, PUB and SUB for events. No socket sets a routing id, ROUTER_HANDOVER stays off, MANDATORY
is on, connecting has a time-out and a bounded back-off, and high-water marks are explicit. Heartbeats run on CURVE links only:
plain peers in other languages may not answer ZMTP pings.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, cast

import zmq

from common.errors import BadRequest, Conflict, Unavailable
from common.wire.frames import Buffer

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A longer frame closes the connection it came on."""

REQUEST_HWM: Final = 10_000
EVENT_HWM: Final = 10_000
DRAIN_LINGER_MS: Final = 2_000
END_S: Final = 2.5 * DRAIN_LINGER_MS / 1000
CONNECT_TIMEOUT_MS: Final = 1_000
RECONNECT_MS: Final = 100
RECONNECT_MAX_MS: Final = 1_000
STRANGER_MS: Final = 5_000
"""Who connects to an encrypted port and has not shown a known key by then is cut off; until then it holds a descriptor."""
HEARTBEAT_MS: Final = 500
HEARTBEAT_TIMEOUT_MS: Final = 1_500
BACKLOG: Final = 1_024
REQUESTS_DOMAIN: Final = "tandem"
EVENTS_DOMAIN: Final = "tandem.events"
"""What the gate is told of a connection beside its key (ZAP domain): which kind of port it is for."""

REFUSALS: Final = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
"""News of a monitor after which libzmq connects no more by itself."""

REFUSED_AGAIN_S: Final = 1.0
"""Who was refused a handshake asks again after this time: a key that is not known yet may be so then."""

_MORE_NOW: Final = int(zmq.SNDMORE | zmq.DONTWAIT)
_LAST_NOW: Final = int(zmq.DONTWAIT)


Send = Callable[[Buffer, int], object]
Receive = Callable[[int, bool], zmq.Frame]


@dataclass(frozen=True, slots=True)
class Keys:
    """A CURVE key pair, Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to bind: explicit, never a wildcard. `keys` make it a CURVE port."""

    host: str
    port: int
    keys: Keys | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect; with `server_key` over CURVE, as `keys`."""

    address: str
    server_key: bytes = b""
    keys: Keys | None = None

    @classmethod
    def tcp(cls, host: str, port: int) -> Endpoint:
        """A plain TCP endpoint."""
        return cls(f"tcp://{host}:{port}")


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context with one I/O thread and room for many agents' sockets (libzmq's own default is 1,023)."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 8_192)
    context.set(zmq.BLOCKY, 0)
    return context


def _new(context: zmq.Context[zmq.Socket[bytes]], kind: int, hwm: int) -> zmq.Socket[bytes]:
    try:
        socket = context.socket(kind)
    except zmq.ZMQError as error:
        raise Unavailable(f"this process can open no more sockets: {error.strerror}") from error
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    return socket


def _server(socket: zmq.Socket[bytes], keys: Keys | None, domain: str) -> None:
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a gate nobody comes in, instead of everybody
        socket.setsockopt(zmq.HANDSHAKE_IVL, STRANGER_MS)
        _heartbeats(socket)


def _client(socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
    if endpoint.server_key and endpoint.keys is None:
        socket.close(0)
        raise Conflict(f"{endpoint.address} speaks CURVE and this process has no key pair of its own")
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, CONNECT_TIMEOUT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    _curve(socket, endpoint)


def _curve(socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
    if endpoint.keys is not None and endpoint.server_key:
        socket.setsockopt(zmq.CURVE_SERVERKEY, endpoint.server_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, endpoint.keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, endpoint.keys.secret)
        _heartbeats(socket)


def _heartbeats(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)


def router(context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None = None) -> zmq.Socket[bytes]:
    """An unbound request port; sending to a peer that is gone or does not read raises instead of losing silently."""
    socket = _new(context, zmq.ROUTER, REQUEST_HWM)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _server(socket, keys, REQUESTS_DOMAIN)
    return socket


def gate(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Where libzmq asks about keys (ZAP), not bound yet; it serves this context alone."""
    return _new(context, zmq.ROUTER, REQUEST_HWM)


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint) -> zmq.Socket[bytes]:
    """A channel to one endpoint, not connected yet; it queues nothing for a peer that is not there (IMMEDIATE)."""
    socket = _new(context, zmq.DEALER, REQUEST_HWM)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    _client(socket, endpoint)
    return socket


def publisher(context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None = None) -> zmq.Socket[bytes]:
    """An unbound event port; a stuck subscriber loses events, alone. Every subscription is told, a repeated one too (VERBOSE)."""
    socket = _new(context, zmq.XPUB, EVENT_HWM)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    _server(socket, keys, EVENTS_DOMAIN)
    return socket


def subscriber(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, topics: Sequence[bytes]
) -> zmq.Socket[bytes]:
    """A subscription to `topics`, made in their order, not connected yet."""
    socket = _new(context, zmq.SUB, EVENT_HWM)
    _client(socket, endpoint)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    return socket


def monitor(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """Where a socket tells `events` of its connection; Unavailable, and the socket is closed, when there can be none."""
    try:
        return socket.get_monitor_socket(events)
    except zmq.ZMQError as error:
        socket.close(0)
        raise Unavailable(f"this process can open no more sockets: {error.strerror}") from error


def bind(socket: zmq.Socket[bytes], address: Address) -> int:
    """Bind and return the port (chosen by the system for port 0); Conflict says that it is taken, Unavailable that the host
    has no such address (yet).
    """
    try:
        socket.bind(f"tcp://{address.host}:{address.port}")
    except zmq.ZMQError as error:
        where = f"{address.host}:{address.port}"
        if error.errno == zmq.EADDRINUSE:
            raise Conflict(f"{where} is taken by another process; stop it or choose another port") from error
        raise Unavailable(f"cannot listen on {where}: {error.strerror}") from error
    return int(socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0").rpartition(":")[2])  # type: ignore[union-attr]


def connect(socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
    """Begin to connect; BadRequest when the address is none."""
    try:
        socket.connect(endpoint.address)
    except zmq.ZMQError as error:
        raise BadRequest(f"{endpoint.address!r} is no address to connect to; tcp://host:port is one") from error


def connect_again(socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
    """Begin to connect anew where a handshake was refused, with the keys of now."""
    with suppress(zmq.ZMQError):
        socket.disconnect(endpoint.address)
    _curve(socket, endpoint)
    connect(socket, endpoint)


async def end(context: zmq.Context[zmq.Socket[bytes]], within_s: float = END_S) -> bool:
    """Free a context whose sockets are closed, once what they sent has left or its time is over.

    False where it is not free within `within_s`, since a socket of it is open: it is left to the end of the process.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def term() -> None:
        context.term()
        with suppress(RuntimeError):  # the loop has closed: nobody waits
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=term, name="ending sockets", daemon=True).start()
    try:
        async with asyncio.timeout(within_s):
            await ended.wait()
    except TimeoutError:
        return False
    return True


def raw_send(socket: zmq.Socket[bytes]) -> Send:
    """The bound Cython `send(frame, flags)`, without pyzmq's Python layer over it (a third of its cost)."""
    return cast("Send", super(zmq.Socket, socket).send)


def send_now(send: Send, frames: Sequence[Buffer]) -> bool:
    """Send one message with a `raw_send`, or say that it cannot leave now; a message leaves whole or not at all."""
    last = len(frames) - 1
    try:
        send(frames[0], _MORE_NOW if last else _LAST_NOW)
    except zmq.Again:
        return False
    for frame in frames[1:last]:
        send(frame, _MORE_NOW)
    if last:
        send(frames[last], _LAST_NOW)
    return True


def raw_receive(socket: zmq.Socket[bytes]) -> Receive:
    """The bound Cython `recv(flags, copy)`; called with copy False it gives a Frame, which knows whether more follow."""
    return cast("Receive", super(zmq.Socket, socket).recv)
