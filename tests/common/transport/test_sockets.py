from __future__ import annotations

import socket as plain_sockets
from collections.abc import Iterator

import pytest
import zmq

from common.errors import BadRequest, Conflict, Unavailable
from common.transport import sockets
from common.transport.sockets import Address, Endpoint, Keys

Context = zmq.Context[zmq.Socket[bytes]]


def keys() -> Keys:
    return Keys(*zmq.curve_keypair())


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """A context whose sockets, all made by the factory, are closed at the end."""
    made = sockets.new_context()
    kept: list[zmq.Socket[bytes]] = []
    new = sockets._new

    def keep(context: Context, kind: int, hwm: int) -> zmq.Socket[bytes]:
        kept.append(new(context, kind, hwm))
        return kept[-1]

    monkeypatch.setattr(sockets, "_new", keep)
    yield made
    made.destroy(linger=0)


def bound(socket: zmq.Socket[bytes], keys: Keys | None = None) -> Endpoint:
    return Endpoint.tcp("127.0.0.1", sockets.bind(socket, Address("127.0.0.1", 0, keys)))


def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(60_000), "nothing came"
    return socket.recv_multipart()


@pytest.mark.parametrize(
    "make",
    [
        sockets.router,
        lambda context: sockets.dealer(context, Endpoint.tcp("127.0.0.1", 1)),
        sockets.publisher,
        lambda context: sockets.subscriber(context, Endpoint.tcp("127.0.0.1", 1), [b"t"]),
    ],
    ids=["router", "dealer", "publisher", "subscriber"],
)
def test_every_socket_is_bounded_and_has_no_routing_id(context: Context, make) -> None:  # type: ignore[no-untyped-def]
    socket = make(context)
    assert socket.getsockopt(zmq.MAXMSGSIZE) == 64 * 2**20
    assert socket.getsockopt(zmq.SNDHWM) == socket.getsockopt(zmq.RCVHWM) == 10_000
    assert socket.getsockopt(zmq.LINGER) == 0
    assert socket.getsockopt(zmq.ROUTING_ID) == b""


def test_plain_links_have_no_heartbeats_and_curve_links_do(context: Context) -> None:
    assert sockets.router(context).getsockopt(zmq.HEARTBEAT_IVL) == 0
    assert sockets.router(context, keys()).getsockopt(zmq.HEARTBEAT_IVL) == 500
    plain = sockets.dealer(context, Endpoint.tcp("127.0.0.1", 1))
    assert plain.getsockopt(zmq.HEARTBEAT_IVL) == 0
    dressed = sockets.dealer(context, Endpoint("tcp://127.0.0.1:1", keys().public, keys()))
    assert dressed.getsockopt(zmq.HEARTBEAT_IVL) == 500


def test_a_reply_to_an_unknown_peer_is_an_error_and_not_lost_in_silence(context: Context) -> None:
    router = sockets.router(context)
    bound(router)
    with pytest.raises(zmq.ZMQError) as caught:
        router.send_multipart([b"nobody", b"x"])
    assert caught.value.errno == zmq.EHOSTUNREACH


def test_a_dealer_keeps_nothing_for_a_peer_that_is_not_there(context: Context) -> None:
    dealer = sockets.dealer(context, Endpoint.tcp("127.0.0.1", 1))
    sockets.connect(dealer, Endpoint.tcp("127.0.0.1", 1))
    assert not sockets.send_now(sockets.raw_send(dealer), [b"a", b"b"])


@pytest.mark.parametrize("frames", [[b"a"], [b"a", b"b"], [b"a", b"", b"b" * 100_000, memoryview(b"c")]])
def test_a_message_leaves_whole(context: Context, frames: list[bytes]) -> None:
    router = sockets.router(context)
    endpoint = bound(router)
    dealer = sockets.dealer(context, endpoint)
    sockets.connect(dealer, endpoint)
    assert dealer.poll(10_000, zmq.POLLOUT)
    assert sockets.send_now(sockets.raw_send(dealer), frames)
    assert receive(router)[1:] == [bytes(frame) for frame in frames]


def test_a_message_beyond_the_limit_closes_its_connection_and_no_other(context: Context) -> None:
    router = sockets.router(context)
    endpoint = bound(router)
    sender, other = sockets.dealer(context, endpoint), sockets.dealer(context, endpoint)
    for dealer in (sender, other):
        sockets.connect(dealer, endpoint)
        assert dealer.poll(10_000, zmq.POLLOUT)
    monitor = sender.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    sender.send(b"x" * (sockets.MAX_MESSAGE_BYTES + 1))
    assert monitor.poll(60_000), "the connection stands"
    other.send(b"small")
    assert receive(router)[1:] == [b"small"]
    sender.disable_monitor()
    monitor.close(0)


def test_bytes_that_are_not_zmtp_get_a_closed_connection(context: Context) -> None:
    router = sockets.router(context)
    port = int(bound(router).address.rpartition(":")[2])
    with plain_sockets.create_connection(("127.0.0.1", port), timeout=60) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100))
        while stranger.recv(4096):
            pass


def test_a_taken_port_is_a_conflict_and_an_absent_address_unavailable(context: Context) -> None:
    endpoint = bound(sockets.router(context))
    port = int(endpoint.address.rpartition(":")[2])
    with pytest.raises(Conflict, match=f"127.0.0.1:{port} is taken"):
        sockets.bind(sockets.router(context), Address("127.0.0.1", port))
    with pytest.raises(Unavailable, match=r"203\.0\.113\.7:0"):
        sockets.bind(sockets.router(context), Address("203.0.113.7", 0))


def test_an_address_that_is_none_is_a_bad_request(context: Context) -> None:
    endpoint = Endpoint("tcp://nowhere at all")
    with pytest.raises(BadRequest, match="no address to connect to"):
        sockets.connect(sockets.dealer(context, endpoint), endpoint)


@pytest.mark.parametrize("known", [None, "wrong"], ids=["plain", "wrong server key"])
def test_who_does_not_hold_the_keys_gets_nothing_through(context: Context, known: str | None) -> None:
    server = keys()
    router = sockets.router(context, server)
    address = bound(router, server).address
    endpoint = Endpoint(address) if known is None else Endpoint(address, keys().public, keys())
    dealer = sockets.dealer(context, endpoint)
    failed = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED
    monitor = dealer.get_monitor_socket(failed | zmq.EVENT_CONNECT_RETRIED)
    sockets.connect(dealer, endpoint)
    assert monitor.poll(60_000), "no word of it"
    assert not sockets.send_now(sockets.raw_send(dealer), [b"x"])
    assert not router.poll(0)
    dealer.disable_monitor()
    monitor.close(0)


def test_a_curve_endpoint_needs_a_key_pair_of_ones_own(context: Context) -> None:
    with pytest.raises(Conflict, match="no key pair of its own"):
        sockets.dealer(context, Endpoint("tcp://127.0.0.1:1", keys().public))


def test_no_repr_of_an_endpoint_or_address_shows_a_secret_key() -> None:
    keys = Keys(b"public", b"s3cr3t")
    for shown in (repr(Endpoint("tcp://127.0.0.1:1", b"server", keys)), repr(Address("127.0.0.1", 1, keys))):
        assert "public" in shown
        assert "s3cr3t" not in shown


async def test_a_context_ends_when_its_sockets_are_closed_and_is_left_behind_in_time_while_one_is_open() -> None:
    context = sockets.new_context()
    open_one = context.socket(zmq.DEALER)
    assert not await sockets.end(context, within_s=0.05)
    open_one.close(linger=0)
    assert await sockets.end(sockets.new_context())
