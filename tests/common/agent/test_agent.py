from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from common.agent import membership
from common.api import agent as agent_api
from common.api import basic
from common.client.opening import open_async_client
from common.errors import BadRequest, Conflict, DeadlineExceeded, Internal, NotFound
from tandem import Agent, Call, verb
from tests.common.agent.lab import Registry, fabric, serving, standing
from tests.common.service.lab import peer, raises, until


class Found(msgspec.Struct):
    words: list[str]


class Lab(Agent):
    """Every kind of method."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.go = threading.Event()
        self.threads: list[str] = []
        self.order: list[int] = []
        self.story: list[str] = []

    async def started(self) -> None:
        self.story.append("started")

    async def stopping(self) -> None:
        self.story.append("stopping")

    @verb(capability="text", idempotent=True)
    def detect(self, data: str, limit: Annotated[int, Meta(ge=1, le=9)] = 3) -> dict[str, Any]:
        """The language of a text.

        More is not in the summary.
        """
        self.threads.append(threading.current_thread().name)
        return {"language": data[:limit]}

    @verb(name="find_words", capability="words")
    async def find(self, image_data: bytes) -> Found:
        assert type(image_data) is bytes
        return Found(words=[image_data.decode()])

    @verb
    async def double(self, number: int, label: bytes = b"none") -> int:
        self.threads.append(threading.current_thread().name)
        return number * 2 if label == b"none" else -number

    @verb
    def who(self, call: Call) -> str:
        return f"{call.identity}/{call.verb}"

    @verb
    def ordered(self, number: int) -> None:
        self.order.append(number)
        if number == 0:
            assert self.go.wait(60)

    @verb
    def count(self, to: int) -> Iterator[int]:
        for number in range(to):
            self.threads.append(threading.current_thread().name)
            yield number

    @verb
    def endless(self) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            self.story.append(f"left on {threading.current_thread().name}")

    @verb
    async def endless_async(self) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            self.story.append("left on the loop")

    @verb
    async def tick(self, to: int) -> AsyncIterator[str]:
        for number in range(to):
            yield str(number)

    @verb
    def broken(self, text: str) -> None:
        raise RuntimeError(text)

    @verb
    def exhausted(self) -> int:
        return next(iter(()))

    @verb
    async def missing(self) -> None:
        raise NotFound("nothing here")


async def test_typed_methods_are_verbs_with_defaults_and_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, peer(agent.shell.port) as caller:
        assert (await caller.plain("detect", data="Grüße"))["language"] == "Grü"
        assert (await caller.plain("detect", data="Grüße", limit=1))["language"] == "G"
        wrong = await caller.plain("detect", data="a", limit=10)
        assert raises(BadRequest, wrong)
        assert "`$.limit`" in wrong["error"]
        assert "missing required field `data`" in (await caller.plain("detect"))["error"]
        assert (await caller.plain("double", number=4))["result"] == 8
        assert raises(BadRequest, await caller.plain("double", number=2**53))
        assert (await caller.plain("who"))["result"] == "local@mainpc/who"


async def test_def_methods_run_on_one_worker_thread_and_async_ones_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, peer(agent.shell.port) as caller:
        await caller.plain("detect", data="a")
        await caller.plain("count", to=1)
        await caller.plain("double", number=1)
        assert agent.threads == ["worker_0", "worker_0", threading.current_thread().name]


async def test_bytes_come_as_bytes_however_they_travelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, open_async_client() as client:
        async with peer(agent.shell.port) as caller:
            assert (await caller.plain("find_words", image_data="UklGRg=="))["words"] == ["RIFF"]
        here = f"tcp://127.0.0.1:{agent.shell.port}"
        assert (await client.call(here, "find_words", {"image_data": b"RIFF"}))["words"] == ["RIFF"]
        assert (await client.call(here, "double", {"number": 3, "label": b"x"}))["result"] == -3


async def test_work_waits_its_turn_and_what_waited_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, open_async_client() as client:
        here = f"tcp://127.0.0.1:{agent.shell.port}"
        calls = [asyncio.create_task(client.call(here, "ordered", {"number": number})) for number in range(4)]
        await until(lambda: agent.shell.onion.in_flight == 4)
        with pytest.raises(DeadlineExceeded):
            await client.call(here, "ordered", {"number": 99}, timeout_s=0.15)
        agent.go.set()
        await asyncio.gather(*calls)
        await client.call(here, "ordered", {"number": 4})
        assert agent.order == [0, 1, 2, 3, 4]


async def test_generators_stream_to_native_callers_and_are_gathered_for_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, open_async_client() as client:
        here = f"tcp://127.0.0.1:{agent.shell.port}"
        items = [item async for item in client.stream(here, "count", {"to": 3})]
        assert items == [{"item": 0}, {"item": 1}, {"item": 2}, {"count": 3, "items": []}]
        assert [item async for item in client.stream(here, "tick", {"to": 1})] == [
            {"item": "0"},
            {"count": 1, "items": []},
        ]
        async with peer(agent.shell.port) as caller:
            assert await caller.plain("tick", to=2) == {"status": "success", "count": 2, "items": ["0", "1"]}


@pytest.mark.parametrize(("method", "left"), [("endless", "left on worker_0"), ("endless_async", "left on the loop")])
async def test_a_generator_whose_caller_left_is_closed_where_it_ran(
    monkeypatch: pytest.MonkeyPatch, method: str, left: str
) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, open_async_client() as client:
        items = client.stream(f"tcp://127.0.0.1:{agent.shell.port}", method)
        assert await anext(items) == {"item": 1}
        await items.aclose()
        await until(lambda: left in agent.story)
        await until(lambda: agent.shell.onion.in_flight == 0)


@pytest.mark.parametrize("text", ["as asked", "\udcff not UTF-8"], ids=["text", "not UTF-8"])
async def test_an_unexpected_error_is_internal_to_the_caller_and_an_event_to_the_fabric(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, peer(agent.shell.port) as caller:
        with monkeypatch.context() as quiet:
            quiet.setattr(agent.log, "disabled", True)  # what is not UTF-8 is for the log's own tests
            agent.report_error(RuntimeError(text), details={"verb": "broken", "odd": object()})
        assert raises(Internal, await caller.plain("broken", text="as asked"))
        since = basic.EventsSince(topic=agent_api.ERROR_REPORTED.name, epoch=agent.shell.publisher._epoch, seq=0)
        odd, plain = (
            msgspec.convert(event.event, agent_api.ErrorReported) for event in agent.shell.publisher.since(since).events
        )
        assert odd.error_type == "RuntimeError"
        assert "unsayable" in odd.details
        assert (plain.agent, plain.message, plain.details) == ("lab", "as asked", {"verb": "broken"})


async def test_a_method_that_exhausts_an_iterator_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, peer(agent.shell.port) as caller:
        assert raises(Internal, await caller.plain("exhausted", _deadline_ms=5_000))


async def test_an_expected_error_is_the_callers_and_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab")) as agent, peer(agent.shell.port) as caller:
        assert raises(NotFound, await caller.plain("missing"))
        assert agent.shell.publisher.cursor(agent_api.ERROR_REPORTED.name).seq == 0


async def test_an_agent_tells_of_its_verbs_and_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch), serving(Lab("lab", metadata={"m": 1})) as agent, peer(agent.shell.port) as caller:
        info = msgspec.convert(await caller.plain("info"), basic.Info)
        verbs = {found.name: found for found in info.verbs}
        assert (info.service, info.metadata) == ("lab", {"m": 1})
        assert verbs["detect"].summary == "The language of a text."
        assert (verbs["detect"].idempotent, verbs["count"].streams, verbs["double"].streams) == (True, True, False)
        health = await caller.plain("ping")
        assert (health["ready"], health["lacks"]) == (True, [])
        assert agent.story == ["started"]
    assert agent.story == ["started", "stopping"]


async def test_an_agent_registers_with_what_it_offers_and_leaves_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch) as around:
        async with serving(Lab("lab")) as agent:
            await until(lambda: "lab" in around.registry.agents)
            told = around.registry.agents["lab"]
            assert sorted(told.capabilities) == ["text", "words"]
            assert told.verbs == {"text": "detect", "words": "find_words"}
            assert told.idempotent == ["text"]
            assert (told.port, told.dress, told.location, told.boot, told.pid) == (
                agent.shell.port,
                "native",
                "mainpc",
                agent.shell.boot,
                os.getpid(),
            )
            assert told.health_check_port == agent.shell.health_port
            assert told.events_port == agent.shell.events_port
        assert around.registry.agents == {}


async def test_an_agent_beats_and_registers_again_with_a_registry_that_forgot_or_began_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "TTL_S", 0.03)
    async with fabric(monkeypatch) as around, serving(Lab("lab")):
        registry = around.registry
        await until(lambda: len(registry.beats) >= 3)
        assert registry.registrations == 1
        registry.agents.clear()
        await until(lambda: registry.registrations == 2)
        registry.boot = "boot-2"
        await until(lambda: registry.registrations == 3)
        beats = len(registry.beats)
        await until(lambda: len(registry.beats) > beats + 2)
        assert registry.registrations == 3


async def test_an_agent_is_ready_without_a_registry_and_says_that_it_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "TTL_S", 0.03)
    monkeypatch.setattr(membership, "RETRY_S", 0.01)
    monkeypatch.setattr(membership, "RETRY_MAX_S", 0.02)
    async with fabric(monkeypatch) as around:
        port = around.registry.shell.port
        await around.registry.shell.close(drain_s=0)
        async with serving(Lab("lab")) as agent, peer(agent.shell.port) as caller:
            assert (await caller.plain("double", number=1))["result"] == 2
            await until(lambda: bool(agent.shell.lacks))
            health = await caller.plain("ping")
            assert health["ready"]
            assert health["lacks"]
            async with standing("CoreOrchestrator", port) as again:
                registry = Registry(again)
                await until(lambda: registry.registrations == 1)
                await until(lambda: not agent.shell.lacks)


async def test_a_registration_that_cannot_be_said_is_a_lack_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "RETRY_S", 0.01)
    async with fabric(monkeypatch) as around, serving(Lab("lab", metadata={"odd": object()})) as agent:
        await until(lambda: bool(agent.shell.lacks))
        assert "TypeError" in agent.shell.lacks[membership.LACK]
        agent._settings.metadata["odd"] = "mended"
        await until(lambda: "lab" in around.registry.agents)


async def test_a_registry_that_is_gone_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch) as around, serving(Lab("lab")), asyncio.timeout(60):
        await until(lambda: "lab" in around.registry.agents)
        await around.registry.shell.close(drain_s=0)


async def test_the_supervisors_environment_names_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_AGENT_NAME", "language-2")
    monkeypatch.setenv("TANDEM_HOST", "pc2")
    async with fabric(monkeypatch) as around, serving(Lab("language")) as agent:
        await until(lambda: "language-2" in around.registry.agents)
        assert (agent.host, around.registry.agents["language-2"].location) == ("pc2", "pc2")


async def test_an_agent_that_cannot_start_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unlucky(Agent):
        async def started(self) -> None:
            raise RuntimeError("the model is not there")

    async with fabric(monkeypatch):
        unlucky = Unlucky("unlucky")
        with pytest.raises(RuntimeError, match="the model is not there"):
            async with serving(unlucky):
                pass
        assert unlucky.shell.context.closed
        async with serving(Lab("lab")) as lab:
            with pytest.raises(Conflict, match="taken"):
                async with serving(Lab("second", port=lab.shell.port)):
                    pass


SCRIPT = """
    import threading
    from tandem import Agent, verb

    class Slow(Agent):
        @verb(capability="slow")
        def work(self) -> str:
            print("working", flush=True)
            threading.Event().wait(0.5)
            return "done"

        async def started(self) -> None:
            print(f"port {self.shell.port}", flush=True)

        async def stopping(self) -> None:
            print("stopping", flush=True)

    Slow("slow").run()
"""


async def test_a_told_process_ends_what_is_under_way_and_then_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SCRIPT))
    async with fabric(monkeypatch) as around:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                port = int((await process.stdout.readline()).split()[1])
                await until(lambda: "slow" in around.registry.agents)
                async with open_async_client() as client:
                    calling = asyncio.create_task(client.call(f"tcp://127.0.0.1:{port}", "work"))
                    assert await process.stdout.readline() == b"working\n"
                    process.send_signal(signal.SIGTERM)
                    assert (await calling)["result"] == "done"
                assert b"stopping" in await process.stdout.read()
                assert await process.wait() == 0
            assert around.registry.agents == {}
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
