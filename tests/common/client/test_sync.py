"""What the synchronous face promises beside the shared suite."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from common.client import opening, sync
from common.client.blocking_link import BlockingLink
from common.client.directory import SERVICES_VARIABLE, Place
from common.client.sync import Client
from common.errors import BadRequest, Interrupted, Unavailable
from common.telemetry.system_clock import SystemClock
from common.transport.sockets import Endpoint
from common.wire import header
from common.wire.frames import Buffer
from common.wire.header import PROTOCOL, ReplyHeader, ReplyKind
from tests.common.client.lab import at_port, place_of, router
from tests.common.service.lab import COUNT, ECHO, WRITE, Row, Text, service, until
from tests.lab.nowhere import alone, nobody_but


def made(**places: Place) -> Client:
    return Client(alone(places), SystemClock(), random.Random(1))


async def test_threads_share_a_client_and_each_gets_its_own_answers() -> None:
    async with service() as lab:

        def talk(client: Client, number: int) -> bool:
            for turn in range(30):
                text = f"{number}/{turn}"
                if client.call("Lab", ECHO, Text(text=text)).text != text:
                    return False
                items = [item.text for item in client.stream("Lab", COUNT, Text(number=2))]
                if items != ["0", "1", "done"]:
                    return False
            return True

        with ThreadPoolExecutor(6) as pool, made(Lab=place_of(lab.shell)) as client:
            loop = asyncio.get_running_loop()
            assert all(await asyncio.gather(*(loop.run_in_executor(pool, talk, client, n) for n in range(6))))


async def test_calls_and_streams_may_be_made_between_a_streams_items() -> None:
    async with service() as lab:

        def nest() -> list[str]:
            told = []
            with made(Lab=place_of(lab.shell)) as client:
                for outer in client.stream("Lab", COUNT, Text(number=3)):
                    told.append(outer.text)
                    told.append(client.call("Lab", ECHO, Text(text="inner")).text)
                    told += [item.text for item in client.stream("Lab", COUNT, Text(number=1))]
            return told

        each = ["inner", "0", "done"]
        assert await asyncio.to_thread(nest) == ["0", *each, "1", *each, "2", *each, "done", *each]


async def test_a_loss_found_by_one_call_is_told_to_a_stream_begun_before() -> None:
    second = asyncio.Event()

    def one_part(frames: list[bytes]) -> list[bytes] | None:
        head = header.decode_call(frames[0])
        if head.verb != COUNT.name:
            second.set()
            return None
        return [header.encode(ReplyHeader(PROTOCOL, ReplyKind.PART, head.id)), b"\x82\xa4text\xa10\xa4size\x00"]

    def nest(port: int) -> list[str]:
        with made(Lab=at_port(port)) as client:
            items = client.stream("Lab", COUNT, Text(number=3), timeout_s=60.0)
            told = [next(items).text]
            for ends_with_the_connection in (lambda: client.call("Lab", WRITE, Row(key="a")), lambda: next(items)):
                with pytest.raises(Interrupted) as lost:
                    ends_with_the_connection()
                told.append(lost.value.message)
            return told

    async with router(one_part) as port:
        nesting = asyncio.create_task(asyncio.to_thread(nest, port))
        await second.wait()
    first, *losses = await nesting
    assert first == "0"
    assert all("was lost" in loss for loss in losses)


async def test_another_thread_is_served_between_a_streams_items() -> None:
    async with service() as lab:

        def read_slowly(client: Client, first: threading.Event, done: threading.Event) -> list[str]:
            told = []
            for item in client.stream("Lab", COUNT, Text(number=1)):
                told.append(item.text)
                first.set()
                assert done.wait(60)
            return told

        with made(Lab=place_of(lab.shell)) as client:
            first, done = threading.Event(), threading.Event()
            reading = asyncio.create_task(asyncio.to_thread(read_slowly, client, first, done))
            await until(first.is_set)
            assert (await asyncio.to_thread(client.call, "Lab", ECHO, Text(text="a"))).text == "a"
            done.set()
            assert await reading == ["0", "done"]


async def test_a_client_of_this_processes_fabric_reads_where_it_is_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with service() as lab:
        monkeypatch.setenv(SERVICES_VARIABLE, f"Lab={lab.shell.port}@127.0.0.1")
        with opening.open_client() as client:
            assert (await asyncio.to_thread(client.call, "Lab", ECHO, Text(text="a"))).text == "a"
        async with opening.open_async_client() as face:
            assert (await face.call("Lab", ECHO, Text(text="a"))).text == "a"
        async with opening.open_async_client(directory=nobody_but()) as face:
            assert face.breakers() == []
    monkeypatch.setenv(SERVICES_VARIABLE, "nonsense")
    with pytest.raises(BadRequest, match="nonsense"):
        opening.directory_of_environment()


async def test_closing_ends_a_stream_under_way_as_interrupted() -> None:
    async with service() as lab:

        def close_midway() -> None:
            client = made(Lab=place_of(lab.shell))
            items = client.stream("Lab", COUNT, Text(number=3, text="and wait"))
            assert next(items).text == "0"
            client.close()
            with pytest.raises(Interrupted, match="closed"):
                list(items)

        await asyncio.to_thread(close_midway)


async def test_closing_ends_what_another_thread_follows_and_harms_no_socket_of_its() -> None:
    async with service() as lab:
        client = made(Lab=place_of(lab.shell))
        following = asyncio.create_task(asyncio.to_thread(lambda: list(client.events("Lab", ["noted"]))))
        await until(lambda: bool(client._subscriptions))
        await asyncio.to_thread(client.close)
        with pytest.raises(Interrupted, match="closed"):
            await following
        with pytest.raises(Unavailable, match="closed"):
            next(client.events("Lab", ["noted"]))


async def test_an_address_that_is_none_is_not_followed() -> None:
    nowhere = Place(Endpoint.tcp("127.0.0.1", 1), Endpoint("tcp://no where"))
    with made(Lab=nowhere) as client, pytest.raises(BadRequest):
        next(client.events("Lab", ["noted"]))


async def test_connections_are_bounded_and_the_one_unused_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LINKS_KEPT", 2)
    async with service() as one, service() as two, service() as three:

        def talk() -> list[int]:
            with made(One=place_of(one.shell), Two=place_of(two.shell), Three=place_of(three.shell)) as client:
                kept = []
                held = client.stream("One", COUNT, Text(number=2, text="and wait"))
                next(held)
                for name in ("Two", "Three", "One", "Two"):
                    client.call(name, ECHO, Text())
                    kept.append(len(client._links))
                assert next(held).text == "1"
                return kept

        assert await asyncio.to_thread(talk) == [2, 2, 2, 2]


async def test_a_message_that_cannot_leave_at_once_leaves_when_it_can() -> None:
    async with service() as lab:

        def send_late() -> str:
            with made(Lab=place_of(lab.shell)) as client:
                client.call("Lab", ECHO, Text())
                (link,) = client._links.values()
                assert isinstance(link, BlockingLink)
                wire, send, refused = link._wire, link._wire._send, 0

                def hesitant(frame: Buffer, flags: int) -> object:
                    nonlocal refused
                    refused += 1
                    if refused == 1:
                        raise zmq.Again
                    return send(frame, flags)

                wire._send = hesitant
                return str(client.call("Lab", ECHO, Text(text="late"), timeout_s=60.0).text)

        assert await asyncio.to_thread(send_late) == "late"


async def test_a_client_may_be_closed_twice() -> None:
    client = made()
    client.close()
    client.close()
    assert client.breakers() == []
