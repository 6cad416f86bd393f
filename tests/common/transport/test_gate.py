"""The gate of CURVE ports over real sockets: whose key comes in, what each message then carries, and who gets nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import zmq
from zmq.utils import z85

from common.errors import Conflict
from common.transport import sockets, zap
from common.transport.channel import Channel
from common.transport.events import EventPort, Subscription
from common.transport.router_port import RouterPort, open_ports
from common.transport.sockets import Address, Endpoint, Keys
from common.wire.frames import Buffer
from tests.common.transport.test_ports import Context, Listener

PATIENCE_S = 60.0


def pair() -> Keys:
    return Keys(*zmq.curve_keypair())


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    made = sockets.new_context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
async def elsewhere() -> AsyncIterator[Context]:
    """Another process's context: the gate serves one alone."""
    made = sockets.new_context()
    yield made
    made.destroy(linger=0)


def only(known: set[str]) -> Callable[[str, str], bool]:
    return lambda key, domain: key in known


class Keyed:
    """Writes down each message with the key it came from, and sends it back."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []

    def __call__(self, port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        self.heard.append((port.key, bytes(frames[0])))
        port.send(route, frames)


@contextmanager
def channel(context: Context, endpoint: Endpoint) -> Iterator[tuple[Channel, Listener]]:
    listener = Listener()
    made = Channel(context, endpoint, listener)
    try:
        yield made, listener
    finally:
        made.close()


def at(port: RouterPort | EventPort, server: Keys, client: Keys) -> Endpoint:
    return Endpoint(f"tcp://127.0.0.1:{port.number}", server.public, client)


async def test_each_message_of_a_known_key_carries_it_and_a_plain_port_knows_none(
    context: Context, elsewhere: Context
) -> None:
    server, one, other = pair(), pair(), pair()
    heard = Keyed()
    gate = zap.Gate(context, only({key.public.decode() for key in (one, other)}))
    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], heard)
    (plain,) = open_ports(context, [Address("127.0.0.1", 0)], heard)
    with (
        channel(elsewhere, at(port, server, one)) as (first, said_first),
        channel(elsewhere, at(port, server, other)) as (second, said_second),
        channel(elsewhere, Endpoint.tcp("127.0.0.1", plain.number)) as (bare, said_bare),
    ):
        for _ in range(3):
            first.send([b"first"])
            second.send([b"second"])
            bare.send([b"bare"])
        for said in (said_first, said_second, said_bare):
            await said.until(lambda said=said: len(said.messages) == 3)
    assert set(heard.heard) == {(one.public.decode(), b"first"), (other.public.decode(), b"second"), ("", b"bare")}
    assert (gate.admitted, gate.refused, gate.malformed) == (2, 0, 0)
    for each in (port, plain, gate):
        each.close()


async def test_an_unknown_key_is_told_so_and_comes_in_once_it_is_known(context: Context, elsewhere: Context) -> None:
    server, client = pair(), pair()
    known: set[str] = set()
    heard = Keyed()
    gate = zap.Gate(context, only(known))
    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], heard)
    with channel(elsewhere, at(port, server, client)) as (stranger, said):
        stranger.send([b"let me in"])
        await said.until(lambda: said.news)
        assert "does not let this process's key in" in said.news[0]
        assert said.unsent[0] == 1
        assert gate.refused >= 1
        known.add(client.public.decode())
        await said.until(lambda: "connected" in said.news)
        stranger.send([b"hello"])
        await said.until(lambda: said.messages)
    assert heard.heard == [(client.public.decode(), b"hello")]
    port.close()
    gate.close()


async def test_a_wrong_server_key_and_plaintext_are_refused_in_clear_words(
    context: Context, elsewhere: Context
) -> None:
    server, client = pair(), pair()
    heard = Keyed()
    gate = zap.Gate(context, lambda key, domain: True)
    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], heard)
    wrong = Endpoint(at(port, server, client).address, pair().public, client)
    with (
        channel(elsewhere, wrong) as (mistaken, said_wrong),
        channel(elsewhere, Endpoint(wrong.address)) as (plain, said_plain),
    ):
        mistaken.send([b"x"])
        plain.send([b"x"])
        await said_wrong.until(lambda: said_wrong.news)
        await said_plain.until(lambda: said_plain.news)
    assert "another key is served there" in said_wrong.news[0]
    assert "encrypted" in said_plain.news[0]
    assert heard.heard == []
    port.close()
    gate.close()


async def test_without_a_gate_a_curve_port_lets_nobody_in(context: Context, elsewhere: Context) -> None:
    server, client = pair(), pair()
    heard = Keyed()
    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], heard)
    with channel(elsewhere, at(port, server, client)) as (stranger, said):
        stranger.send([b"let me in"])
        await said.until(lambda: said.news)
        assert said.news[0].startswith("refused")
    assert heard.heard == []
    port.close()


async def told(socket: zmq.Socket[bytes], heard: list[tuple[str, bytes, bytes]]) -> None:
    before = len(heard)
    while not socket.poll(0, zmq.POLLOUT):
        await asyncio.sleep(0.005)
    socket.send(b"it is me")
    while len(heard) == before:
        await asyncio.sleep(0.005)


async def test_a_peer_cannot_take_another_ones_key_by_taking_its_routing_id(
    context: Context, elsewhere: Context
) -> None:
    server, good, bad = pair(), pair(), pair()
    heard: list[tuple[str, bytes, bytes]] = []
    gate = zap.Gate(context, only({key.public.decode() for key in (good, bad)}))

    def keep(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        heard.append((port.key, route, bytes(frames[0])))
        port.send(route, frames)

    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], keep)
    with channel(elsewhere, at(port, server, good)) as (first, said):
        first.send([b"hello"])
        await said.until(lambda: said.messages)
    taken = b"x" + heard[0][1][1:]
    for keys in (good, bad):
        before = len(heard)
        async with asyncio.timeout(PATIENCE_S):
            while len(heard) == before:  # until the port has noticed that the one before is gone, its id is refused
                socket = sockets.dealer(elsewhere, at(port, server, keys))
                socket.setsockopt(zmq.ROUTING_ID, taken)
                sockets.connect(socket, at(port, server, keys))
                with suppress(TimeoutError):
                    await asyncio.wait_for(told(socket, heard), 2.0)
                socket.close(0)
        assert heard[-1] == (keys.public.decode(), taken, b"it is me")
    port.close()
    gate.close()


MALFORMED = {
    "another version": [b"2.0", b"1", b"tandem", b"127.0.0.1", b"", b"CURVE", bytes(32)],
    "another mechanism": [b"1.0", b"1", b"tandem", b"127.0.0.1", b"", b"PLAIN", b"user", b"password"],
    "a short key": [b"1.0", b"1", b"tandem", b"127.0.0.1", b"", b"CURVE", bytes(31)],
    "no credential": [b"1.0", b"1", b"tandem", b"127.0.0.1", b"", b"CURVE"],
}


@pytest.mark.parametrize("question", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_question_about_a_key_is_answered_500(context: Context, question: list[bytes]) -> None:
    gate = zap.Gate(context, lambda key, domain: True)
    answer = await asked(context, [b"", *question])
    assert answer[:4] == [b"", b"1.0", b"1", b"500"]
    assert (gate.malformed, gate.admitted) == (1, 0)
    gate.close()


async def test_a_key_of_another_domain_is_refused(context: Context) -> None:
    gate = zap.Gate(context, lambda key, domain: True)
    answer = await asked(context, [b"", b"1.0", b"7", b"other", b"127.0.0.1", b"", b"CURVE", bytes(32)])
    assert answer[1:4] == [b"1.0", b"7", b"400"]
    gate.close()


async def test_a_key_may_come_in_for_requests_and_not_for_events(context: Context, elsewhere: Context) -> None:
    server, client = pair(), pair()
    gate = zap.Gate(context, lambda key, domain: domain == zap.REQUESTS)
    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], Keyed())
    events = EventPort(context, [Address("127.0.0.1", 0, server)])
    follower = Follower(elsewhere, at(events, server, client))
    with channel(elsewhere, at(port, server, client)) as (_, said):
        await said.until(lambda: "connected" in said.news)
    await until(lambda: gate.refused > 0)
    assert follower.lives == 0
    follower.subscription.close()
    for each in (port, events, gate):
        each.close()


async def test_a_message_without_an_envelope_is_passed_over_and_the_next_answered(context: Context) -> None:
    gate = zap.Gate(context, lambda key, domain: True)
    key = bytes(range(32))
    socket = context.socket(zmq.DEALER)
    socket.connect(zap.ADDRESS)
    for frames in ([b"x"], [b"", b"1.0"], [b"a", b"b", b"c"]):
        socket.send_multipart(frames)
    answer = await asked(context, [b"", b"1.0", b"1", b"tandem", b"127.0.0.1", b"", b"CURVE", key])
    assert answer[3:] == [b"200", b"OK", z85.encode(key), b""]
    assert gate.malformed == 3
    socket.close(0)
    gate.close()


async def asked(context: Context, frames: list[bytes]) -> list[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.connect(zap.ADDRESS)
    socket.send_multipart(frames)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not socket.poll(0):
                await asyncio.sleep(0.005)
        return socket.recv_multipart()
    finally:
        socket.close(0)


async def test_a_second_gate_of_one_context_is_refused(context: Context) -> None:
    gate = zap.Gate(context, lambda key, domain: True)
    with pytest.raises(zmq.ZMQError):
        zap.Gate(context, lambda key, domain: True)
    gate.close()


class Follower:
    """One subscription, and what it heard of."""

    def __init__(self, context: Context, endpoint: Endpoint) -> None:
        self.heard: list[bytes] = []
        self.lives = 0
        self.subscription = Subscription(context, endpoint, ["t"], self.event, self.live)

    def event(self, topic: bytes, header: bytes, body: bytes) -> None:
        self.heard.append(body)

    def live(self) -> None:
        self.lives += 1


async def add_again(events: EventPort, address: Address) -> None:
    """libzmq frees a closed socket's port in its own time."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                events.add(address)
                return
            except Conflict:
                await asyncio.sleep(0.005)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not fact():
            await asyncio.sleep(0.005)


async def test_closing_the_encrypted_events_ends_their_subscriptions_and_lets_the_known_come_back(
    context: Context, elsewhere: Context
) -> None:
    server, good_keys, bad_keys = pair(), pair(), pair()
    known = {key.public.decode() for key in (good_keys, bad_keys)}
    gate = zap.Gate(context, only(known))
    events = EventPort(context, [Address("127.0.0.2", 0), Address("127.0.0.1", 0, server)])
    good = Follower(elsewhere, at(events, server, good_keys))
    bad = Follower(elsewhere, at(events, server, bad_keys))
    plain = Follower(elsewhere, Endpoint.tcp("127.0.0.2", events.number))
    followers = (good, bad, plain)
    await until(lambda: all(follower.lives for follower in followers))
    events.publish(b"t", b"{}", b"1")
    await until(lambda: all(follower.heard for follower in followers))

    known.remove(bad_keys.public.decode())
    assert events.close_encrypted() == ["127.0.0.1"]
    assert [events.is_open_at(host) for host in ("127.0.0.1", "127.0.0.2")] == [False, True]
    await add_again(events, Address("127.0.0.1", 0, server))
    await until(lambda: good.lives == 2 and gate.refused > 0)
    events.publish(b"t", b"{}", b"2")
    await until(lambda: good.heard == plain.heard == [b"1", b"2"])
    assert (plain.lives, bad.lives, bad.heard) == (1, 1, [b"1"])

    known.add(bad_keys.public.decode())
    await until(lambda: bad.lives == 2)
    for follower in followers:
        follower.subscription.close()
    events.close()
    gate.close()


async def test_who_connects_and_shows_no_key_is_cut_off(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "STRANGER_MS", 100)
    (port,) = open_ports(context, [Address("127.0.0.1", 0, pair())], Keyed())
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    async with asyncio.timeout(PATIENCE_S):
        while await reader.read(1024):  # libzmq's greeting, then the end
            pass
    writer.close()
    port.close(0)
