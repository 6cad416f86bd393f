"""What the asynchronous face promises beside the shared suite."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from common.api import basic
from common.api.words import Empty
from common.client import aio, inboxes, plain_link
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.client.settings import ClientSettings
from common.errors import Cancelled, DeadlineExceeded, Interrupted, Overloaded, Unavailable
from common.resilience.breaker import BreakerSettings, State
from common.resilience.budget import RetrySettings
from common.telemetry.system_clock import SystemClock
from common.transport.sockets import Endpoint
from common.wire import header
from tests.common.client.lab import at_port, place_of, registry, rep, router
from tests.common.service.lab import COUNT, ECHO, FAIL, NOTED, WAIT, Noted, Said, Text, service, until
from tests.lab.nowhere import alone


def made(settings: ClientSettings | None = None, **places: aio.Place) -> AsyncClient:
    return AsyncClient(alone(places), SystemClock(), random.Random(1), settings)


async def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async with service() as lab, made(Lab=place_of(lab.shell)) as client:
        lab.go.set()

        async def ask(number: int) -> None:
            if number % 7 == 0:
                assert (await client.call("Lab", WAIT, Empty())).text == "went"
            data = memoryview(bytes(20_000 if number % 11 == 0 else 5))
            assert await client.call("Lab", ECHO, Text(text=str(number), data=data)) == Said(str(number), len(data))

        for _ in range(5):
            await asyncio.gather(*(ask(number) for number in range(400)))


async def test_a_call_nobody_waits_for_any_more_is_withdrawn() -> None:
    async with service() as lab, made(Lab=place_of(lab.shell)) as client:
        calling = asyncio.create_task(client.call("Lab", WAIT, Empty()))
        await lab.waiting.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await until(lambda: lab.ended == ["cancelled"])


async def test_a_call_cancelled_in_the_turn_it_began_holds_nobody() -> None:
    async with service() as lab, made(Lab=place_of(lab.shell)) as client:
        await client.call("Lab", ECHO, Text())
        calling = asyncio.create_task(client.call("Lab", WAIT, Empty()))
        asyncio.get_running_loop().call_soon(calling.cancel)
        with pytest.raises(asyncio.CancelledError):
            await calling
        await client.call("Lab", ECHO, Text())
        await until(lambda: lab.shell.onion.in_flight == 0)


async def test_a_call_given_up_before_the_connection_stood_never_leaves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        client = made(ClientSettings(retry=RetrySettings(attempts=1)), Lab=at_port(port))
        with pytest.raises(DeadlineExceeded):
            await client.call("Lab", ECHO, Text(text="late"), timeout_s=0.15)
        calling = asyncio.create_task(client.call("Lab", ECHO, Text(text="cancelled")))
        await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    arrived: list[bytes] = []

    def answer(frames: list[bytes]) -> list[bytes]:
        arrived.append(frames[1])
        head = header.decode_call(frames[0])
        return [header.encode(header.ReplyHeader(1, header.ReplyKind.FINAL, head.id)), b"\x81\xa4text\xa4here"]

    async with router(answer, port):
        for _ in range(100):
            try:
                assert (await client.call("Lab", ECHO, Text(text="wanted"), timeout_s=60.0)).text == "here"
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                break
    assert len(arrived) == 1
    assert b"wanted" in arrived[0]
    await client.close()


async def test_closing_ends_calls_under_way_as_interrupted_and_leaves_nothing_open() -> None:
    async with service() as lab:
        client = made(Lab=place_of(lab.shell))
        calls = [asyncio.create_task(client.call("Lab", WAIT, Empty(), idempotent=again)) for again in (True, False)]
        reading = asyncio.create_task(anext(client.stream("Lab", COUNT, Text(text="and wait"))))
        await until(lambda: lab.shell.onion.in_flight == 3)
        async with asyncio.timeout(60):
            await client.close()
            for task in (*calls, reading):
                with pytest.raises(Interrupted, match="closed"):
                    await task


async def test_closing_ends_what_is_followed_and_does_not_wait_for_who_follows() -> None:
    async with service() as lab:
        client = made(Lab=place_of(lab.shell))
        live = asyncio.Event()
        following = client.events("Lab", ["noted"], live=live.set)
        waiting = asyncio.create_task(anext(following))
        await live.wait()
        unread = client.events("Lab", ["beat"])
        async with asyncio.timeout(60):
            await client.close()
            with pytest.raises(Interrupted, match="not followed any more"):
                await waiting
            with pytest.raises(Unavailable):
                await anext(unread)


async def test_closing_ends_calls_to_plain_agents_too() -> None:
    never = asyncio.Event()
    async with rep(lambda request: b"{}", [never]) as port, registry() as names:
        names.put("old", port, "plain")
        client = made(CoreOrchestrator=place_of(names.shell))
        calling = asyncio.create_task(client.call("old", "detect", {}))
        await until(lambda: bool(names.asked) and len(client._links) == 2)
        async with asyncio.timeout(60):
            await client.close()
            with pytest.raises(Interrupted, match="closed"):
                await calling
        never.set()


async def test_the_registrys_events_keep_what_is_remembered_true() -> None:
    async with (
        registry() as names,
        service(service="Old") as old,
        service(service="New") as new,
        made(CoreOrchestrator=place_of(names.shell)) as client,
    ):
        names.put("agent", old.shell.port)
        assert (await client.call("agent", basic.PING)).service == "Old"
        await until(lambda: client._names._heard_at > 0)
        assert (await client.call("agent", basic.PING)).service == "Old"
        asked = len(names.asked)
        for _ in range(20):
            await client.call("agent", basic.PING)
        assert len(names.asked) == asked
        names.put("agent", new.shell.port)
        names.tell("agent")
        await until(lambda: "agent" not in client._names._known)
        assert (await client.call("agent", basic.PING)).service == "New"
        names.shell.publisher._epoch += 1
        names.tell("agent")
        await until(lambda: "agent" not in client._names._known)


async def test_a_registry_without_events_is_asked_again_after_a_moment() -> None:
    async with registry() as names, service() as lab, made(CoreOrchestrator=at_port(names.shell.port)) as client:
        names.put("agent", lab.shell.port)
        await client.call("agent", basic.PING)
        await client.call("agent", basic.PING)
        assert names.asked == ["agent"]


async def test_each_call_ends_at_its_own_deadline_whichever_was_made_first() -> None:
    settings = ClientSettings(retry=RetrySettings(attempts=1))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with made(settings, Lab=at_port(mute.getsockname()[1])) as client:
            patient, *hasty = [
                asyncio.create_task(client.call("Lab", ECHO, Text(), timeout_s=timeout_s))
                for timeout_s in (300.0, 0.2, 0.05, 0.3)
            ]
            ends = await asyncio.gather(*hasty, return_exceptions=True)
            assert [type(end) for end in ends] == [DeadlineExceeded] * 3
            assert not patient.done()
        with pytest.raises(Interrupted):
            await patient


async def test_more_than_the_outbox_holds_is_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.client.link.OUTBOX", 3)
    settings = ClientSettings(retry=RetrySettings(attempts=1))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with made(settings, Lab=at_port(mute.getsockname()[1])) as client:
            calls = [asyncio.create_task(client.call("Lab", ECHO, Text(), timeout_s=0.2)) for _ in range(5)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [DeadlineExceeded] * 3 + [Overloaded] * 2


async def test_a_probe_that_could_not_be_sent_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = BreakerSettings(min_calls=1, cooldown_s=0.001, cooldown_max_s=0.001, probes=1)
    settings = ClientSettings(retry=RetrySettings(attempts=1), breaker=breaker)
    async with service() as lab, made(settings, Lab=place_of(lab.shell)) as client:
        await client.call("Lab", ECHO, Text())
        with pytest.raises(Exception, match="failed inside"):
            await client.call("Lab", FAIL, Text())
        await asyncio.sleep(0.01)
        with pytest.raises(TypeError):
            await client.call("Lab", "echo", {"text": object()})
        assert (await client.call("Lab", ECHO, Text(text="a"))).text == "a"


async def test_a_link_without_calls_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "SWEEP_S", 0.001)
    monkeypatch.setattr(aio, "IDLE_SWEEPS", 3)
    async with service() as lab, made(Lab=place_of(lab.shell)) as client:
        await client.call("Lab", ECHO, Text())
        await until(lambda: not client._links)
        assert (await client.call("Lab", ECHO, Text(text="again"))).text == "again"


async def test_a_link_has_rested_when_no_call_was_under_way_since_it_was_asked() -> None:
    async with service() as lab, made(Lab=place_of(lab.shell)) as client:
        for _ in range(2):
            await client.call("Lab", ECHO, Text())
            (link,) = client._links.values()
            assert not link.has_rested()
            assert link.has_rested()
            assert link.has_rested()


async def test_plain_agents_get_a_connection_for_each_call_under_way_and_a_few_are_kept() -> None:
    go = [asyncio.Event() for _ in range(8)]
    async with rep(lambda request: b'{"status":"success"}') as port, registry() as names:
        names.put("old", port, "plain")
        async with made(CoreOrchestrator=place_of(names.shell)) as client:
            await asyncio.gather(*(client.call("old", "detect", {}) for _ in go))
            (link,) = (link for link in client._links.values() if isinstance(link, plain_link.PlainLink))
            assert 1 <= len(link._idle) <= plain_link.IDLE_KEPT
            assert not link._busy


async def test_a_client_may_live_in_its_services_context() -> None:
    async with service() as lab:
        client = AsyncClient(
            alone({"Lab": place_of(lab.shell)}), SystemClock(), random.Random(1), context=lab.shell.context
        )
        assert (await client.call("Lab", ECHO, Text(text="a"))).text == "a"
        await client.close()
        assert not lab.shell.context.closed


async def test_a_slow_follower_keeps_so_many_events_and_has_the_rest_from_the_ring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inboxes, "INBOX", 5)
    async with service() as lab, made(Lab=place_of(lab.shell)) as client:
        live = asyncio.Event()
        since = {"noted": lab.shell.publisher.cursor("noted")}
        following = client.events("Lab", ["noted"], since, live=live.set)
        first = asyncio.create_task(anext(following))
        await live.wait()
        for number in range(50):
            lab.shell.publisher.publish(NOTED, str(number), Noted(key=str(number)))
        told = [(await first).entity]
        await asyncio.sleep(0.05)
        (inbox,) = client._inboxes._open.values()
        assert inbox.qsize() <= 5
        while len(told) < 50:
            lab.shell.publisher.beat()
            told.append((await anext(following)).entity)
        assert told == [str(number) for number in range(50)]
        await following.aclose()


async def test_a_stream_is_judged_by_its_first_part_and_not_by_how_long_it_is_read() -> None:
    slow = BreakerSettings(min_calls=1, slow_call_s=1.0)
    async with service() as lab, made(ClientSettings(breaker=slow), Lab=place_of(lab.shell)) as client:
        async for _ in client.stream("Lab", COUNT, Text(number=1)):
            await asyncio.sleep(0.6)
        (stats,) = client.breakers()
        assert (stats.calls, stats.slow) == (1, 0)


async def test_a_call_at_a_known_endpoint_hands_its_parts_over() -> None:
    async with service() as lab, made() as client:
        here = Found(Endpoint.tcp("127.0.0.1", lab.shell.port))
        parts: list[Said] = []
        reply = await client.call_at(here, COUNT, Text(number=2), timeout_s=60.0, part=parts.append)
        assert ([part.text for part in parts], reply.text) == (["0", "1"], "done")
        assert client.breakers()[0].calls == 1
        assert client.breaker_at(here.endpoint) == (State.CLOSED, 0.0)


async def test_who_cannot_take_a_part_ends_his_own_call_and_no_other() -> None:
    def refuse(part: Said) -> None:
        raise Cancelled("nobody listens any more")

    async with service() as lab, made() as client:
        here = Found(Endpoint.tcp("127.0.0.1", lab.shell.port))
        refused, fine = await asyncio.gather(
            client.call_at(here, COUNT, Text(number=2, text="and wait"), timeout_s=60.0, part=refuse),
            client.call_at(here, ECHO, Text(text="fine"), timeout_s=60.0),
            return_exceptions=True,
        )
        assert isinstance(refused, Cancelled)
        assert isinstance(fine, Said)
        await until(lambda: lab.ended == ["cancelled"])


async def test_a_cancelled_call_at_a_known_endpoint_is_withdrawn() -> None:
    async with service() as lab, made() as client:
        here = Found(Endpoint.tcp("127.0.0.1", lab.shell.port))
        calling = asyncio.create_task(client.call_at(here, WAIT, Empty(), timeout_s=60.0))
        await lab.waiting.wait()
        calling.cancel()
        await until(lambda: lab.ended == ["cancelled"])


async def test_a_client_may_be_closed_twice() -> None:
    client = made()
    await client.close()
    await client.close()
