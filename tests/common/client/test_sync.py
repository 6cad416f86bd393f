"""What the synchronous face promises beside the shared suite."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.client import opening
from common.client.directory import SERVICES_VARIABLE, Directory, Place
from common.client.sync import Client
from common.errors import BadRequest, Interrupted
from common.telemetry.system_clock import SystemClock
from common.wire import header
from common.wire.header import PROTOCOL, ReplyHeader, ReplyKind
from tests.common.client.lab import at_port, place_of, router
from tests.common.service.lab import COUNT, ECHO, WRITE, Row, Text, service, until


def made(**places: Place) -> Client:
    return Client(Directory(places), SystemClock(), random.Random(1))


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
            items = client.stream("Lab", COUNT, Text(number=3), timeout_s=20.0)
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
                assert done.wait(10)
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
        async with opening.open_async_client(directory=Directory()) as face:
            assert face.breakers() == []
    monkeypatch.setenv(SERVICES_VARIABLE, "nonsense")
    with pytest.raises(BadRequest, match="nonsense"):
        opening.directory_of_environment()


async def test_a_client_may_be_closed_twice() -> None:
    client = made()
    client.close()
    client.close()
    assert client.breakers() == []
