"""The way to a far service over real CURVE sockets, from 127.0.0.1 to 127.0.0.2, as clients on this host's loopback see it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from common.client.aio import AsyncClient
from common.client.directory import Place
from common.client.following import Event
from common.client.settings import at_own_pace
from common.config.schema import Ports
from common.errors import Conflict, Interrupted, TandemError, Unavailable
from common.supervisor.relay.offers import Far
from common.supervisor.relay.passage import Passage
from common.supervisor.relay.requests import uncopied
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport import sockets
from common.transport.router_port import RouterPort
from common.transport.sockets import Address, Endpoint, Keys
from common.transport.zap import Gate
from common.wire import bundle, header
from common.wire.frames import Buffer
from common.wire.header import PROTOCOL, CallHeader, CallKind
from tests.common.supervisor.lives import until
from tests.common.supervisor.relay.far_host import (
    FAR,
    NEWS,
    SAY,
    Bare,
    FarService,
    Say,
    far_service,
    key_files,
    new_keys,
)
from tests.lab.nowhere import alone

RELAY, SERVER = new_keys(), new_keys()
KNOWN = [RELAY]


class Here:
    """The relay's end: a passage, and clients of its ports."""

    def __init__(self, numbers: tuple[int, int], server: Keys | None = SERVER) -> None:
        self.context = sockets.new_context()
        self.server = server
        far = Far("pc2", "far_service", "FarService", FAR, Ports(*numbers))
        self.passage = Passage(self.context, SystemClock(), "mainpc", far, self._locate)
        self.passage.open_requests(0)
        self.passage.open_events(0)
        self.passage.refresh(host_joined=False)
        places = {"Far": Place(self.at(self.passage.port), self.at(self.passage.events_port))}
        self.client = AsyncClient(alone(places), SystemClock(), system_rng(), at_own_pace(20.0))
        self._sweeping = asyncio.create_task(self._sweep())

    def at(self, port: int) -> Endpoint:
        return Endpoint.tcp("127.0.0.1", port)

    def _locate(self, far: Far, port: int) -> Endpoint | None:
        return None if self.server is None else Endpoint(f"tcp://{far.address}:{port}", self.server.public, RELAY)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.passage.sweep()

    async def up(self) -> None:
        await until(lambda: self.passage.reach.is_up)

    async def close(self) -> None:
        self._sweeping.cancel()
        await self.client.close()
        self.passage.close()
        await asyncio.get_running_loop().run_in_executor(None, self.context.term)


@asynccontextmanager
async def here(numbers: tuple[int, int], server: Keys | None = SERVER) -> AsyncIterator[Here]:
    relay = Here(numbers, server)
    try:
        yield relay
    finally:
        await relay.close()


@asynccontextmanager
async def joined(tmp_path: Path) -> AsyncIterator[tuple[FarService, Here]]:
    async with far_service(tmp_path, SERVER, KNOWN) as far, here(far.numbers) as relay:
        await relay.up()
        yield far, relay


@asynccontextmanager
async def bare(port: int, *options: int) -> AsyncIterator[Bare]:
    client = Bare(port, *options)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("options", [(), (zmq.REQ_CORRELATE, zmq.REQ_RELAXED)])
async def test_a_client_that_knows_nothing_of_tandem_reaches_a_far_service_at_localhost(
    options: tuple[int, ...], tmp_path: Path
) -> None:
    async with joined(tmp_path) as (_, relay), bare(relay.passage.port, *options) as client:
        assert (await client.ask("say", text="hello", _id="x")) == {"status": "success", "_id": "x", "text": "hello"}
        assert (await client.ask_raw(b"ping"))["service"] == "FarService"
        assert (await client.ask("no_such_verb"))["code"] == "unknown_verb"
        assert (await client.ask_raw(b"{"))["code"] == "bad_request"


def odd_messages(rng: random.Random) -> list[list[bytes]]:
    """Messages of all forms: of any bytes, in half a dress, in a bundle, and whole ones cut short."""
    whole = header.encode(CallHeader(PROTOCOL, CallKind.CALL, 7, "say"))
    pieces = [
        b"",
        b"\xc1",
        b"abcd",
        b"{}",
        b'{"action":"say"}',
        whole,
        whole[:-2],
        b"\x80",
        b"ping",
        bundle.calls([])[0],
    ]
    pieces += [rng.randbytes(rng.randrange(1, 40)) for _ in range(20)]
    return [[rng.choice(pieces) for _ in range(rng.randrange(1, 5))] for _ in range(400)]


async def test_messages_of_any_bytes_get_one_answer_each(tmp_path: Path) -> None:
    messages = odd_messages(random.Random(7))
    async with joined(tmp_path) as (_, relay):
        context = zmq.asyncio.Context()
        client = context.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.RCVTIMEO, 60_000)
        client.connect(f"tcp://127.0.0.1:{relay.passage.port}")
        for message in messages:
            await client.send_multipart(message)
        for _ in messages:
            await client.recv_multipart()
        await client.send(b"ping")
        assert json.loads(await client.recv())["service"] == "FarService"
        assert relay.passage.under_way == 0
        client.close()
        context.term()


async def test_a_thousand_calls_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async with joined(tmp_path) as (_, relay):
        texts = [str(number) for number in range(1_000)]
        calls = [relay.client.call("Far", SAY, Say(text=text, wait_s=0.05)) for text in texts]
        assert [said.text for said in await asyncio.gather(*calls)] == texts
        assert relay.passage.under_way == 0


async def test_callers_of_both_dresses_never_get_each_others_answers(tmp_path: Path) -> None:
    async with joined(tmp_path) as (_, relay), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(bare(relay.passage.port)) for _ in range(5)]
        plain = [client.ask("say", text=f"plain {number}") for number, client in enumerate(clients)]
        native = [relay.client.call("Far", SAY, Say(text=f"native {number}")) for number in range(5)]
        assert [said["text"] for said in await asyncio.gather(*plain)] == [f"plain {number}" for number in range(5)]
        assert [said.text for said in await asyncio.gather(*native)] == [f"native {number}" for number in range(5)]


async def test_a_stream_comes_through_whole_and_in_order(tmp_path: Path) -> None:
    async with joined(tmp_path) as (_, relay):
        items = [item.text async for item in relay.client.stream("Far", SAY, Say(text="part", parts=50))]
        assert items == [*(f"part {number}" for number in range(50)), "part"]


async def test_a_caller_that_withdraws_is_withdrawn_at_the_far_service(tmp_path: Path) -> None:
    async with joined(tmp_path) as (far, relay):
        call = asyncio.create_task(relay.client.call("Far", SAY, Say(wait_s=60.0), timeout_s=60.0))
        await until(lambda: relay.passage.under_way == 1)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await asyncio.wait_for(far.cancelled.wait(), 60)
        await until(lambda: relay.passage.under_way == 0)


async def test_a_call_to_a_far_service_that_is_stuck_dies_with_its_budget() -> None:
    context = sockets.new_context()
    gate = Gate(context, lambda *_: True)
    stuck = RouterPort(context, Address(FAR, 0, SERVER), lambda _port, _route, _frames: None)
    try:
        async with here((stuck.number, 0)) as relay, bare(relay.passage.port) as client:
            await relay.up()
            said = await client.ask("say", _deadline_ms=300, _id=7)
            assert (said["code"], said["_id"]) == ("deadline_exceeded", 7)
            assert "FarService on pc2 did not answer within 0.300 s" in said["message"]
    finally:
        stuck.close(0)
        gate.close()
        context.destroy(linger=0)


async def test_when_the_far_side_vanishes_what_was_under_way_ends_and_what_comes_is_refused_at_once(
    tmp_path: Path,
) -> None:
    async with joined(tmp_path) as (far, relay), bare(relay.passage.port) as client:
        waiting = asyncio.create_task(relay.client.call("Far", SAY, Say(wait_s=60.0), timeout_s=60.0))
        plain = asyncio.create_task(client.ask("say", wait_s=60.0))
        await until(lambda: relay.passage.under_way == 2)
        far.vanish()
        with pytest.raises(Interrupted, match="may or may not have been done"):
            await asyncio.wait_for(waiting, 60)
        assert (await plain)["code"] == "interrupted"
        said = await client.ask("say", _id=1)
        assert (said["code"], said["retryable"], said["_id"]) == ("unavailable", True, 1)
        assert "FarService on pc2 cannot be reached since" in said["message"]
        with pytest.raises(Unavailable, match="look after pc2"):
            await relay.client.call("Far", SAY, Say())


async def test_a_far_service_that_is_back_is_reached_again_by_itself(tmp_path: Path) -> None:
    async with far_service(tmp_path, SERVER, KNOWN) as far, here(far.numbers) as relay:
        await relay.up()
        await far.close()
        await until(lambda: not relay.passage.reach.is_up)
        async with far_service(tmp_path, SERVER, KNOWN, far.numbers):
            await relay.up()
            assert (await relay.client.call("Far", SAY, Say(text="again"))).text == "again"


async def test_a_host_that_has_not_joined_is_told_at_once_with_the_mend_and_reached_once_it_has(tmp_path: Path) -> None:
    async with (
        far_service(tmp_path, SERVER, KNOWN) as far,
        here(far.numbers, None) as relay,
        bare(relay.passage.port) as client,
    ):
        said = await client.ask("say")
        assert said["code"] == "unavailable"
        assert "run `tandem invite pc2` on this host and `tandem join` there" in said["message"]
        relay.server = SERVER
        relay.passage.refresh(host_joined=True)
        await relay.up()
        assert (await client.ask("say", text="hello"))["text"] == "hello"


async def test_a_far_service_with_a_new_key_is_reached_by_it(tmp_path: Path) -> None:
    async with far_service(tmp_path, SERVER, KNOWN) as far, here(far.numbers, new_keys()) as relay:
        await until(lambda: "refused the handshake" in str(relay.passage.reach.unavailable(0.0)))
        relay.server = SERVER
        relay.passage.refresh(host_joined=True)
        await relay.up()


async def test_a_far_service_that_learns_of_the_relay_a_moment_later_is_reached_then(tmp_path: Path) -> None:
    async with far_service(tmp_path, SERVER, []) as far, here(far.numbers) as relay:
        await until(lambda: relay.passage.reach.is_refused)
        key_files(tmp_path, SERVER, KNOWN)

        def refreshed() -> bool:
            relay.passage.refresh(host_joined=True)
            return relay.passage.reach.is_up

        await until(refreshed)


async def test_a_relay_whose_key_is_not_known_there_says_how_to_join(tmp_path: Path) -> None:
    async with far_service(tmp_path, SERVER, []) as far, here(far.numbers) as relay:
        await until(lambda: "tandem invite mainpc" in str(relay.passage.reach.unavailable(0.0)))


def test_a_large_frame_is_sent_as_the_frame_that_came() -> None:
    frame = zmq.Frame(b"x" * 100_000)
    small, view = b"small", memoryview(b"not of libzmq")
    assert uncopied([small, frame.buffer, view]) == [small, frame, view]
    assert uncopied(only := [small]) is only


async def test_large_attachments_pass() -> None:
    heard: list[list[bytes]] = []
    context = sockets.new_context()
    gate = Gate(context, lambda *_: True)

    def echo(port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        heard.append([bytes(frame) for frame in frames])
        port.send(route, frames)

    far = RouterPort(context, Address(FAR, 0, SERVER), echo)
    body = json.dumps({"action": "say", "text": "x" * 8_000_000}).encode()
    try:
        async with here((far.number, 0)) as relay, bare(relay.passage.port) as client:
            await relay.up()
            assert (await client.ask_raw(body))["action"] == "say"
            assert heard[0][2] == body
    finally:
        far.close(0)
        gate.close()
        context.destroy(linger=0)


class Followed:
    """Follows the far service's news over the relay; `live` counts how often the subscription was told to stand."""

    def __init__(self, relay: Here) -> None:
        self.live = 0
        self.texts: list[str] = []
        self.lost = 0
        self.task = asyncio.create_task(self._follow(relay))

    async def _follow(self, relay: Here) -> None:
        async for notice in relay.client.events("Far", [NEWS.name], live=self._is_live):
            if isinstance(notice, Event):
                self.texts.append(notice.entity)
            else:
                self.lost += 1

    def _is_live(self) -> None:
        self.live += 1

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, TandemError):
            await self.task


async def test_live_means_that_nothing_is_missed_for_every_subscriber(tmp_path: Path) -> None:
    async with joined(tmp_path) as (far, relay):
        followers: list[Followed] = []
        for number in range(5):
            followers.append(Followed(relay))
            await until(lambda: followers[-1].live == 1)
            far.publish(f"news {number}")
        await until(lambda: all(follower.texts[-1:] == ["news 4"] for follower in followers))
        for number, follower in enumerate(followers):
            assert follower.texts[-(5 - number) :] == [f"news {each}" for each in range(number, 5)]
            await follower.end()


async def test_after_the_link_was_away_the_subscription_is_live_anew_and_events_come_again(tmp_path: Path) -> None:
    async with far_service(tmp_path, SERVER, KNOWN) as far, here(far.numbers) as relay:
        follower = Followed(relay)
        await until(lambda: follower.live == 1)
        await far.close()
        async with far_service(tmp_path, SERVER, KNOWN, far.numbers) as back:
            await until(lambda: follower.live == 2)
            back.publish("news of the second life")
            await until(lambda: follower.texts)
            assert follower.texts == ["news of the second life"]
        await follower.end()


async def test_a_follower_that_comes_before_the_host_has_joined_is_live_when_it_has(tmp_path: Path) -> None:
    async with far_service(tmp_path, SERVER, KNOWN) as far, here(far.numbers, None) as relay:
        follower = Followed(relay)
        relay.server = SERVER
        relay.passage.refresh(host_joined=True)
        await until(lambda: follower.live)
        far.publish("first")
        await until(lambda: follower.texts == ["first"])
        await follower.end()


async def test_topics_that_nobody_wants_any_more_do_not_cross_the_link(tmp_path: Path) -> None:
    async with joined(tmp_path) as (_, relay):
        follower = Followed(relay)
        await until(lambda: follower.live == 1)
        await follower.end()
        await until(lambda: relay.passage._events._interest.topics() == [])


async def test_a_taken_port_is_a_conflict_and_the_other_ports_go_on(tmp_path: Path) -> None:
    async with joined(tmp_path) as (_, relay):
        far = relay.passage.far
        other = Passage(relay.context, SystemClock(), "mainpc", far, lambda _far, _port: None)
        with pytest.raises(Conflict):
            other.open_requests(relay.passage.port)
        with pytest.raises(Conflict):
            other.open_events(relay.passage.events_port)
        other.close()


async def test_an_address_that_is_none_is_told_and_nothing_breaks() -> None:
    context = sockets.new_context()
    far = Far("pc2", "x", "X", "not an address", Ports(1, 2))

    def locate(far: Far, port: int) -> Endpoint | None:
        return Endpoint(f"tcp://{far.address}:{port}", SERVER.public, RELAY)

    passage = Passage(context, SystemClock(), "mainpc", far, locate)
    passage.refresh(host_joined=True)
    assert "is no address to connect to" in str(passage.reach.unavailable(0.0))
    passage.close()
    context.term()
