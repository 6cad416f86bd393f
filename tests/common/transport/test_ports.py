"""Router ports, event ports, channels and the drain under them, over real sockets on one loop."""

from __future__ import annotations

import asyncio
import socket as plain_sockets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zmq

from common.errors import BadRequest, Conflict, Unavailable
from common.transport import drain, sockets
from common.transport.channel import Channel
from common.transport.drain import Drain, read_message
from common.transport.events import EventPort, Subscription
from common.transport.router_port import RouterPort, open_ports
from common.transport.sockets import Address, Endpoint, Keys
from common.transport.zap import Gate
from common.wire.frames import Buffer

Context = zmq.Context[zmq.Socket[bytes]]
HERE = Address("127.0.0.1", 0)


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    made = sockets.new_context()
    yield made
    made.destroy(linger=0)


class Listener:
    """Writes down what a channel tells."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []
        self.news: list[str] = []
        self.unsent: list[int] = []
        self.heard = asyncio.Event()

    def message(self, frames: list[Buffer]) -> None:
        self.messages.append([bytes(frame) for frame in frames])
        self.heard.set()

    def connected(self) -> None:
        self.news.append("connected")
        self.heard.set()

    def lost(self, reason: str) -> None:
        self.news.append(f"lost: {reason}")
        self.heard.set()

    def refused(self, reason: str, unsent: int) -> None:
        self.news.append(f"refused: {reason}")
        self.unsent.append(unsent)
        self.heard.set()

    async def until(self, fact: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not fact():
                self.heard.clear()
                await self.heard.wait()


def endpoint(port: RouterPort | EventPort) -> Endpoint:
    return Endpoint.tcp("127.0.0.1", port.number)


def echo(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
    port.send(route, frames)


async def test_replies_sent_from_the_drain_and_from_tasks_never_stall_it(context: Context) -> None:
    tasks: set[asyncio.Task[None]] = set()
    turns = 0

    async def later(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        await asyncio.sleep(0)
        port.send(route, frames)

    def receive(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        nonlocal turns
        turns += 1
        if turns % 3:
            port.send(route, frames)
        else:
            task = asyncio.create_task(later(port, route, frames))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    (port,) = open_ports(context, [HERE], receive)
    listener = Listener()
    channel = Channel(context, endpoint(port), listener)
    await listener.until(lambda: listener.news)
    total, window = 20_000, 64
    for number in range(window):
        channel.send([b"%d" % number])
    sent = window

    def go_on(frames: list[Buffer]) -> None:
        nonlocal sent
        if sent < total:
            channel.send([b"%d" % sent])
            sent += 1
        listener.messages.append([bytes(frame) for frame in frames])
        if len(listener.messages) == total:
            listener.heard.set()

    channel._drain._message = go_on
    await listener.until(lambda: len(listener.messages) >= total)
    assert sorted(int(frames[0]) for frames in listener.messages) == list(range(total))
    channel.close()
    port.close()


async def test_a_drain_gives_the_loop_its_turn(context: Context) -> None:
    read: list[int] = []
    (port,) = open_ports(context, [HERE], lambda port, route, frames: read.append(len(frames)))
    sender = context.socket(zmq.DEALER)
    sender.connect(endpoint(port).address)
    for _ in range(drain.TURN * 4):
        sender.send(b"x")
    while len(read) < drain.TURN * 4:
        before = len(read)
        await asyncio.sleep(0)
        assert len(read) - before <= 2 * drain.TURN
    sender.close(0)
    port.close()


async def test_what_a_receiver_raises_does_not_end_the_drain(context: Context) -> None:
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: raised.append(what))

    def fragile(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        if frames[0] == b"bad":
            raise RuntimeError("as asked")
        port.send(route, frames)

    (port,) = open_ports(context, [HERE], fragile)
    listener = Listener()
    channel = Channel(context, endpoint(port), listener)
    for frame in (b"bad", b"good"):
        channel.send([frame])
    await listener.until(lambda: listener.messages)
    assert listener.messages == [[b"good"]]
    assert len(raised) == 1
    channel.close()
    port.close()


async def test_a_message_of_too_many_frames_is_cut_and_the_next_one_is_whole(context: Context) -> None:
    got: list[int] = []
    (port,) = open_ports(
        context, [HERE], lambda port, route, frames: (got.append(len(frames)), port.send(route, [b""]))[0]
    )
    listener = Listener()
    channel = Channel(context, endpoint(port), listener)
    channel.send([b"x"] * 1_000)
    channel.send([b"a", b"b"])
    await listener.until(lambda: len(listener.messages) == 2)
    assert got == [drain.MAX_FRAMES - 1, 2]
    channel.close()
    port.close()


async def test_large_frames_are_views_and_small_ones_bytes(context: Context) -> None:
    kinds: list[type] = []

    def receive(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        kinds.extend(type(frame) for frame in frames)
        port.send(route, [b""])

    (port,) = open_ports(context, [HERE], receive)
    listener = Listener()
    channel = Channel(context, endpoint(port), listener)
    channel.send([b"small", b"x" * 100_000])
    await listener.until(lambda: listener.messages)
    assert kinds == [bytes, memoryview]
    channel.close()
    port.close()


async def test_closing_within_a_message_ends_the_drain(context: Context) -> None:
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVTIMEO, 60_000)
    number = socket.bind_to_random_port("tcp://127.0.0.1")
    pusher = context.socket(zmq.PUSH)
    pusher.connect(f"tcp://127.0.0.1:{number}")
    for _ in range(10):
        pusher.send(b"x")
    read: list[Any] = []
    ended = asyncio.Event()

    def once(frames: list[Buffer]) -> None:
        read.append(frames)
        reading.close()
        reading.close()
        reading.look()
        ended.set()

    reading = Drain(socket, once)
    await ended.wait()
    reading.read_all()
    reading._turn()
    assert len(read) == 1
    assert read_message(sockets.raw_receive(socket), 0) is not None
    pusher.close(0)
    socket.close(0)


async def test_a_reply_to_who_is_gone_is_counted(context: Context) -> None:
    (port,) = open_ports(context, [HERE], echo)
    assert not port.send(b"nobody", [b"a", b"b"])
    assert port.undelivered == 1
    port.close()


async def test_a_reply_that_fails_does_not_swallow_the_news_of_what_arrived(context: Context) -> None:
    heard: list[bytes] = []
    port = RouterPort(context, HERE, lambda _port, _route, frames: heard.append(bytes(frames[0])))
    peer = context.socket(zmq.DEALER)
    peer.connect(endpoint(port).address)
    await asyncio.to_thread(peer.send, b"first")
    async with asyncio.timeout(60):
        while not heard:
            await asyncio.sleep(0.005)
    for number in range(20):
        peer.send(b"%d" % number)
        time.sleep(0.02)  # noqa: ASYNC251  it arrives while the loop does not look
        assert not port.send(b"nobody", [b"lost"])
        async with asyncio.timeout(60):
            while heard[-1] != b"%d" % number:
                await asyncio.sleep(0.001)
    peer.close(0)
    port.close(0)


async def test_a_peer_that_does_not_read_loses_what_it_was_sent_and_that_is_counted(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "REQUEST_HWM", 4)
    routes: list[bytes] = []
    (port,) = open_ports(context, [HERE], lambda port, route, frames: routes.append(route))
    deaf = context.socket(zmq.DEALER)
    deaf.setsockopt(zmq.RCVHWM, 1)
    deaf.setsockopt(zmq.LINGER, 0)
    deaf.connect(endpoint(port).address)
    deaf.send(b"hello")
    async with asyncio.timeout(60):
        while not routes:
            await asyncio.sleep(0.005)
    results = [port.send(routes[0], [b"x" * 1_000_000]) for _ in range(60)]
    assert results[0]
    assert results.count(False) == port.undelivered > 0
    deaf.close(0)
    port.close(0)


async def test_several_addresses_share_the_number_that_the_system_chose(context: Context) -> None:
    server = Keys(*zmq.curve_keypair())
    ports = open_ports(context, [HERE, Address("127.0.0.2", 0, server)], echo)
    assert ports[0].number == ports[1].number
    assert [port.encrypted for port in ports] == [False, True]
    for port in ports:
        port.close()


async def test_when_one_of_several_addresses_is_taken_none_stays_open(context: Context) -> None:
    (holder,) = open_ports(context, [Address("127.0.0.2", 0)], echo)
    with pytest.raises(Conflict):
        open_ports(context, [Address("127.0.0.1", holder.number), Address("127.0.0.2", holder.number)], echo)
    async with asyncio.timeout(60):
        while (again := opened_again(context, holder.number)) is None:
            await asyncio.sleep(0.005)  # libzmq frees a closed socket's port in its own time
    again.close()
    holder.close()


def opened_again(context: Context, number: int) -> RouterPort | None:
    try:
        return open_ports(context, [Address("127.0.0.1", number)], echo)[0]
    except Conflict:
        return None


async def test_a_channel_tells_of_its_connection_and_of_its_loss_after_all_that_came_before(context: Context) -> None:
    (port,) = open_ports(context, [HERE], echo)
    listener = Listener()
    channel = Channel(context, endpoint(port), listener)
    assert not channel.is_connected
    for number in range(100):
        channel.send([b"%d" % number])
    await listener.until(lambda: len(listener.messages) == 100)
    assert listener.news == ["connected"]
    assert channel.is_connected
    assert channel.backlog == 0
    port.close(0)
    await listener.until(lambda: len(listener.news) > 1)
    assert listener.news[1] == f"lost: the connection to {channel.endpoint.address} was lost"
    assert not channel.is_connected
    channel.close()
    channel.close()


async def test_nobody_there_is_told_and_what_waited_is_dropped(context: Context) -> None:
    with plain_sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = Endpoint.tcp("127.0.0.1", probe.getsockname()[1])
    listener = Listener()
    channel = Channel(context, gone, listener)
    channel.send([b"a"])
    channel.send([b"b"])
    assert channel.backlog == 2
    await listener.until(lambda: listener.news)
    assert listener.news[0] == f"refused: nobody listens at {gone.address}"
    assert listener.unsent[0] == 2
    assert channel.backlog == 0
    channel.close()


async def test_who_listens_and_does_not_shake_hands_is_given_up(context: Context) -> None:
    with plain_sockets.create_server(("127.0.0.1", 0)) as mute:
        listener = Listener()
        channel = Channel(context, Endpoint.tcp("127.0.0.1", mute.getsockname()[1]), listener)
        await listener.until(lambda: listener.news)
        assert listener.news[0].startswith("refused")
        channel.close()


async def test_curve_channels_talk_and_a_plain_one_is_refused(context: Context) -> None:
    server, client = Keys(*zmq.curve_keypair()), Keys(*zmq.curve_keypair())
    gate = Gate(context, lambda key, domain: True)
    (port,) = open_ports(context, [Address("127.0.0.1", 0, server)], echo)
    address = endpoint(port).address
    good, bad = Listener(), Listener()
    dressed = Channel(context, Endpoint(address, server.public, client), good)
    plain = Channel(context, Endpoint(address), bad)
    dressed.send([b"secret"])
    plain.send([b"let me in"])
    await good.until(lambda: good.messages)
    await bad.until(lambda: bad.news)
    assert good.messages == [[b"secret"]]
    assert bad.messages == []
    assert bad.news[0].startswith("refused")
    for channel in (dressed, plain):
        channel.close()
    port.close()
    gate.close()


async def test_an_address_that_is_none_leaves_nothing_open(context: Context) -> None:
    nowhere = Endpoint("tcp://no where")
    with pytest.raises(BadRequest):
        Channel(context, nowhere, Listener())
    with pytest.raises(BadRequest):
        Subscription(context, nowhere, ["a"], lambda *_: None, lambda: None)
    with pytest.raises(Conflict):
        Channel(context, Endpoint("tcp://127.0.0.1:1", server_key=b"x" * 40), Listener())
    context.term()


@pytest.mark.parametrize("room", [1, 2, 3])
async def test_a_process_without_room_for_another_socket_says_so_and_leaves_nothing_open(room: int) -> None:
    narrow: Context = zmq.Context()
    narrow.set(zmq.MAX_SOCKETS, room)
    kept = [narrow.socket(zmq.PAIR)]
    with pytest.raises(Unavailable, match="no more sockets"):
        Channel(narrow, Endpoint.tcp("127.0.0.1", 1), Listener())
    kept.pop().close(0)
    narrow.term()


class Subscriber:
    def __init__(self, context: Context, at: Endpoint, *topics: str) -> None:
        self.live = asyncio.Event()
        self.events: list[tuple[bytes, bytes, bytes]] = []
        self.lives = 0
        self.subscription = Subscription(context, at, topics, lambda *event: self.events.append(event), self._live)

    def _live(self) -> None:
        self.lives += 1
        self.live.set()

    async def have(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.events) < count:
                await asyncio.sleep(0.002)


async def test_a_subscription_is_live_when_the_publisher_says_so_and_misses_nothing_from_then_on(
    context: Context,
) -> None:
    port = EventPort(context, [HERE])
    subscriber = Subscriber(context, endpoint(port), "a")
    async with asyncio.timeout(60):
        await subscriber.live.wait()
    for number in range(1_000):
        port.publish(b"a", b"%d" % number, b"{}")
        port.publish(b"other", b"", b"{}")
        if number % 100 == 99:
            await subscriber.have(
                number + 1
            )  # fewer under way than EVENT_HWM: what a slow I/O thread holds is not lost
    assert [int(head) for _, head, _ in subscriber.events] == list(range(1_000))
    assert port.sent == 2_000
    subscriber.subscription.close()
    port.close()


async def test_connected_is_not_live_and_a_mark_is_told_to_its_subscriber_alone(context: Context) -> None:
    port = EventPort(context, [HERE])
    first, second = Subscriber(context, endpoint(port), "a"), Subscriber(context, endpoint(port), "a")
    bare = context.socket(zmq.SUB)
    bare.connect(endpoint(port).address)
    for topic in (b"a", b"\xff" * 33, b"\xff" * 32):
        bare.setsockopt(zmq.SUBSCRIBE, topic)
    async with asyncio.timeout(60):
        await first.live.wait()
        await second.live.wait()
        while not bare.poll(0):
            await asyncio.sleep(0.005)
    assert bare.recv_multipart() == [b"\xff" * 32]
    assert bare.poll(0) == 0
    assert (first.lives, second.lives) == (1, 1)
    for subscriber in (first, second):
        subscriber.subscription.close()
    bare.close(0)
    port.close()


async def test_a_subscription_is_live_again_after_its_publisher_came_back(context: Context) -> None:
    port = EventPort(context, [HERE])
    subscriber = Subscriber(context, endpoint(port), "b", "a")
    async with asyncio.timeout(60):
        await subscriber.live.wait()
    number = port.number
    port.close(0)
    subscriber.live.clear()
    async with asyncio.timeout(60):
        while True:
            try:
                again = EventPort(context, [Address("127.0.0.1", number)])
                break
            except Conflict:
                await asyncio.sleep(0.01)
        await subscriber.live.wait()
    for topic in (b"a", b"b"):
        again.publish(topic, b"{}", b"{}")
    await subscriber.have(2)
    subscriber.subscription.close()
    again.close()


async def test_a_stuck_subscriber_loses_events_alone(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "EVENT_HWM", 10)
    port = EventPort(context, [HERE])
    stuck = context.socket(zmq.SUB)
    stuck.setsockopt(zmq.RCVHWM, 1)
    for topic in (b"", b"\xffstuck"):
        stuck.setsockopt(zmq.SUBSCRIBE, topic)
    stuck.connect(endpoint(port).address)
    async with asyncio.timeout(60):
        while not stuck.poll(0):
            await asyncio.sleep(0.005)
    awake = Subscriber(context, endpoint(port), "a")
    async with asyncio.timeout(60):
        await awake.live.wait()
    for number in range(200):
        port.publish(b"a", b"%d" % number, b"x" * 200_000)
        await awake.have(number + 1)
    assert len(awake.events) == 200
    stuck.close(0)
    awake.subscription.close()
    port.close(0)


async def test_what_is_no_event_is_passed_over(context: Context) -> None:
    publisher = context.socket(zmq.PUB)
    number = publisher.bind_to_random_port("tcp://127.0.0.1")
    subscriber = Subscriber(context, Endpoint.tcp("127.0.0.1", number), "a")
    async with asyncio.timeout(60):
        while not subscriber.events:
            publisher.send_multipart([b"a", b"alone"])
            publisher.send(b"a")
            publisher.send_multipart([b"a", b"head", b"body"])
            await asyncio.sleep(0.01)
    assert subscriber.events[0] == (b"a", b"head", b"body")
    assert not subscriber.live.is_set()
    subscriber.subscription.close()
    publisher.close(0)


async def test_a_taken_event_port_is_a_conflict_and_nothing_stays_open(context: Context) -> None:
    held = EventPort(context, [HERE])
    with pytest.raises(Conflict):
        EventPort(context, [Address("127.0.0.2", 0), Address("127.0.0.1", held.number)])
    both = EventPort(context, [HERE, Address("127.0.0.2", 0)])
    assert both.number
    for port in (held, both):
        port.close()
