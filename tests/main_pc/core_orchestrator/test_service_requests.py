"""Requests through the service: real sockets, agents in both dresses, callers in both dresses."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from common.api.core_orchestrator import (
    SERVICE,
    SUBMIT_REQUEST,
    RequestProgress,
    RequestStatus,
    SubmitRequest,
)
from common.client import agent_calls
from common.client.opening import open_async_client
from common.errors import IdempotencyMismatch, NoProvider, StorageUnavailable
from common.service.call import Call
from common.store.memory import MemoryStore
from common.telemetry.system_clock import SystemClock
from main_pc.core_orchestrator.request_limits import Limits as RequestLimits
from main_pc.core_orchestrator.service import Limits
from tests.lab.service_process import ask
from tests.main_pc.core_orchestrator.fabric import Dict, PlainAgent, core, directory, native_agent

NATIVE: Dict = {"dress": "native"}

Plain = Callable[[Callable[[Dict], Dict]], PlainAgent]


@pytest.fixture
def plain() -> Iterator[Plain]:
    """Makes plain agents that end with the test."""
    with ExitStack() as agents:
        yield lambda answer: agents.enter_context(PlainAgent(answer))


class Bench:
    """A native agent's work that is held until it is let go; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Dict] = []
        self.go = asyncio.Event()

    async def work(self, request: Dict, _call: Call) -> Dict:
        self.asked.append(request)
        await self.go.wait()
        return {"result": request["data"].upper()}


async def shout(request: Dict, _call: Call) -> Dict:
    return {"result": request["data"].upper()}


async def test_a_plain_caller_gets_a_plain_agents_answer(plain: Plain) -> None:
    agent = plain(lambda asked: {"status": "success", "words": asked["data"].split(), "verb": asked["action"]})
    async with core() as hub:
        await ask(
            hub.shell.port, "register_agent", agent_name="splitter", host="localhost", port=agent.port,
            capabilities=["text"], verbs={"text": "split"},
        )  # fmt: skip
        answer = await ask(hub.shell.port, "submit_request", type="text", data="one two")
        assert (answer["status"], answer["state"], answer["agent_name"]) == ("success", "done", "splitter")
        assert answer["result"] == {"words": ["one", "two"], "verb": "split"}
        again = await ask(hub.shell.port, "get_request", request_id=answer["request_id"])
        assert again == answer


async def test_binary_data_reaches_agents_in_both_dresses_whole(plain: Plain) -> None:
    audio = bytes(range(256)) * 256
    agent = plain(lambda asked: {"status": "success", "result": len(base64.b64decode(asked["audio_data"]))})

    async def measure(request: Dict, _call: Call) -> Dict:
        return {"result": [bytes(request["audio_data"]) == audio, request["params"]]}

    async with core() as hub, native_agent("ear", audio=measure) as ear:
        await hub.register("plain", agent.port, "length")
        await hub.register("ear", ear.port, "audio", **NATIVE)
        sent = SubmitRequest(capability="length", audio_data=memoryview(audio))
        assert (await hub.client.call(SERVICE, SUBMIT_REQUEST, sent)).result == len(audio)
        text = base64.b64encode(audio).decode()
        heard = await ask(hub.shell.port, "submit_request", type="audio", audio_data=text, params={"rate": 8})
        assert heard["result"] == [True, {"rate": 8}]


async def test_a_native_caller_who_stays_sees_states_and_parts_and_a_plain_one_gets_them_together() -> None:
    async def count(request: Dict, call: Call) -> Dict:
        for number in range(3):
            call.part({"item": number})
        return {"count": 3, "items": []}

    async with core() as hub, native_agent("counter", count=count) as agent:
        await hub.register("counter", agent.port, "count", **NATIVE)
        items = [item async for item in hub.client.stream(SERVICE, SUBMIT_REQUEST, SubmitRequest(capability="count"))]
        *progress, last = items
        assert all(isinstance(item, RequestProgress) for item in progress)
        assert [item.part for item in progress if item.part is not None] == [0, 1, 2]
        assert [item.state for item in progress if item.part is None][-1] == "running"
        assert isinstance(last, RequestStatus)
        assert (last.state, last.result) == ("done", {"count": 3, "items": [0, 1, 2]})
        plain = await ask(hub.shell.port, "submit_request", capability="count")
        assert plain["result"] == {"count": 3, "items": [0, 1, 2]}


async def test_an_agent_that_streams_more_than_a_result_may_be_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_calls, "MAX_MESSAGE_BYTES", 10_000)
    stopped = asyncio.Event()

    async def flood(request: Dict, call: Call) -> Dict:
        try:
            while True:
                call.part({"item": "x" * 100})
                await asyncio.sleep(0)
        finally:
            stopped.set()

    async with core() as hub, native_agent("flooder", flood=flood) as agent:
        await hub.register("flooder", agent.port, "flood", **NATIVE)
        assert (await hub.submit("flood"))["code"] == "too_large"
        async with asyncio.timeout(60):
            await stopped.wait()


async def test_a_caller_waits_no_longer_than_it_said_or_its_own_budget_and_then_gets_the_state() -> None:
    bench = Bench()
    async with core() as hub, native_agent("slow", slow=bench.work) as agent:
        await hub.register("slow", agent.port, "slow", **NATIVE)
        began = time.monotonic()
        told = await ask(hub.shell.port, "submit_request", capability="slow", data="a", wait_s=0.3)
        assert (told["status"], told["state"]) == ("success", "running")
        assert 0.3 <= time.monotonic() - began < 25.0
        budget = await ask(hub.shell.port, "submit_request", capability="slow", data="b", _deadline_ms=400)
        assert (budget["status"], budget["state"]) == ("success", "running")
        at_once = await ask(hub.shell.port, "submit_request", capability="slow", data="c", wait=False)
        assert at_once["state"] == "running"
        bench.go.set()
        assert (await hub.until_state(told["request_id"], "done"))["result"] == "A"


async def test_a_caller_who_leaves_is_forgotten_and_its_request_goes_on() -> None:
    bench = Bench()
    async with core() as hub, native_agent("slow", slow=bench.work) as agent:
        await hub.register("slow", agent.port, "slow", **NATIVE)
        leaver = asyncio.create_task(hub.submit("slow", data="a", idempotency_key="k", wait_s=30))
        while not bench.asked:
            await asyncio.sleep(0.01)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        bench.go.set()
        again = await hub.submit("slow", data="a", idempotency_key="k")
        assert (again["state"], again["result"], len(bench.asked)) == ("done", "A", 1)
        stats = await hub.call("stats")
        assert stats["verbs"]["submit_request"]["in_flight"] == 0


async def test_a_native_caller_whose_connection_is_gone_is_found_out_by_the_next_part() -> None:
    bench = Bench()
    async with core() as hub, native_agent("slow", slow=bench.work) as agent:
        await hub.register("slow", agent.port, "slow", **NATIVE)
        leaver = open_async_client(None, directory(CoreOrchestrator=(hub.shell.port, hub.shell.events_port)))

        async def stay() -> None:
            async for _ in leaver.stream(SERVICE, SUBMIT_REQUEST, SubmitRequest(capability="slow", wait_s=30)):
                pass

        staying = asyncio.create_task(stay())
        while not bench.asked:
            await asyncio.sleep(0.01)
        staying.cancel()
        await leaver.close()
        bench.go.set()
        await hub.until_state(bench.asked[0]["request_id"], "done")
        stats = await hub.call("stats")
        assert stats["verbs"]["submit_request"]["in_flight"] == 0


async def test_a_key_finds_its_request_and_another_body_is_a_mismatch() -> None:
    async with core() as hub, native_agent("a", text=shout) as agent:
        await hub.register("a", agent.port, "text", **NATIVE)
        first = await hub.submit("text", data="x", idempotency_key="k")
        assert await hub.submit("text", data="x", idempotency_key="k") == first
        with pytest.raises(IdempotencyMismatch):
            await hub.submit("text", data="y", idempotency_key="k")


async def test_without_anyone_who_offers_it_a_request_is_refused_at_once() -> None:
    async with core() as hub:
        with pytest.raises(NoProvider):
            await hub.submit("text", data="x")


async def test_waiting_requests_go_by_priority_and_age_lifts_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    later_s = 0.0
    monkeypatch.setattr(SystemClock, "monotonic", lambda _: time.monotonic() + later_s)
    bench = Bench()
    limits = Limits(requests=RequestLimits(ageing_s=0.1))
    async with core(limits=limits) as hub, native_agent("one", work=bench.work) as agent:
        await hub.register("one", agent.port, "work", metadata={"concurrency": 1}, **NATIVE)
        ids = [(await hub.submit("work", data="busy", wait=False))["request_id"]]
        for data, priority in (("old", 10), ("low", 10), ("high", 90)):
            ids.append((await hub.submit("work", data=data, priority=priority, wait=False))["request_id"])
        later_s = 15.0  # worth 150 points
        ids.append((await hub.submit("work", data="late", priority=100, wait=False))["request_id"])
        positions = {
            data: (await hub.call("get_request", request_id=request_id))["position"]
            for data, request_id in zip(("busy", "old", "low", "high", "late"), ids, strict=True)
        }
        assert positions == {"busy": 0, "high": 1, "old": 2, "low": 3, "late": 4}
        assert "at its limit" in (await hub.call("get_request", request_id=ids[1]))["reason"]
        bench.go.set()
        for request_id in ids:
            await hub.until_state(request_id, "done")
        assert [asked["data"] for asked in bench.asked] == ["busy", "high", "old", "low", "late"]


async def test_a_request_is_cancelled_while_it_waits_while_it_runs_and_stays_as_it_ended() -> None:
    bench = Bench()
    async with core() as hub, native_agent("one", work=bench.work) as agent:
        await hub.register("one", agent.port, "work", metadata={"concurrency": 1}, **NATIVE)
        running = asyncio.create_task(hub.submit("work", data="a", wait_s=20))
        while not bench.asked:
            await asyncio.sleep(0.01)
        queued = await hub.submit("work", data="b", wait=False)
        cancelled = await hub.call("cancel_request", request_id=queued["request_id"])
        assert (cancelled["state"], cancelled["code"]) == ("cancelled", "cancelled")
        request_id = bench.asked[0]["request_id"]
        assert (await hub.call("cancel_request", request_id=request_id))["state"] == "cancelled"
        assert (await running)["state"] == "cancelled"
        bench.go.set()
        done = await hub.submit("work", data="c")
        assert (done["state"], [asked["data"] for asked in bench.asked]) == ("done", ["a", "c"])
        assert (await hub.call("cancel_request", request_id=done["request_id"]))["state"] == "done"
        missing = await ask(hub.shell.port, "cancel_request", request_id="req-none")
        assert missing["code"] == "not_found"


async def test_a_plain_agent_whose_request_was_cancelled_is_busy_until_it_answers(plain: Plain) -> None:
    letting = asyncio.Event()
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    def slow(asked: Dict) -> Dict:
        seen.append(asked["data"])
        asyncio.run_coroutine_threadsafe(letting.wait(), loop).result(60)
        return {"status": "success", "result": asked["data"]}

    agent = plain(slow)
    async with core() as hub:
        await hub.register("p", agent.port, "text")
        first = await hub.submit("text", data="a", wait=False)
        assert (await hub.call("cancel_request", request_id=first["request_id"]))["state"] == "cancelled"
        second = await hub.submit("text", data="b", wait_s=0.2)
        assert second["state"] == "queued"
        letting.set()
        assert (await hub.until_state(second["request_id"], "done"))["result"] == "b"
        assert seen == ["a", "b"]


async def test_a_request_that_is_not_done_in_its_time_expires_and_its_agent_is_told() -> None:
    left = asyncio.Event()

    async def forever(_request: Dict, _call: Call) -> Dict:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return {}

    async with core() as hub, native_agent("a", text=forever) as agent:
        await hub.register("a", agent.port, "text", **NATIVE)
        told = await hub.submit("text", data="x", deadline_s=0.3)
        assert (told["state"], told["code"]) == ("expired", "deadline_exceeded")
        async with asyncio.timeout(60):
            await left.wait()


@pytest.mark.parametrize(("idempotent", "state", "code"), [(["work"], "done", ""), ([], "failed", "interrupted")])
async def test_an_agent_that_dies_midway_loses_only_what_must_not_be_done_twice(
    idempotent: list[str], state: str, code: str
) -> None:
    bench = Bench()
    async with core() as hub, native_agent("b", work=shout) as other:
        async with native_agent("a", work=bench.work) as dying:
            await hub.register("a", dying.port, "work", idempotent=idempotent, **NATIVE)
            request = await hub.submit("work", data="x", wait=False)
            while not bench.asked:
                await asyncio.sleep(0.01)
            await hub.register("b", other.port, "work", idempotent=idempotent, **NATIVE)
            for port in dying._ports:
                port.close(0)
        ended = await hub.until_state(request["request_id"], "done", "failed")
        assert (ended["state"], ended["code"]) == (state, code)
        assert ended["agent_name"] == ("b" if state == "done" else "a")


async def test_an_agent_that_moved_is_no_longer_heard_where_it_was() -> None:
    bench = Bench()
    async with core() as hub, native_agent("a", work=bench.work) as old, native_agent("a", work=shout) as new:
        await hub.register("a", old.port, "work", idempotent=["work"], **NATIVE)
        request = await hub.submit("work", data="x", wait=False)
        while not bench.asked:
            await asyncio.sleep(0.01)
        await hub.register("a", new.port, "work", idempotent=["work"], **NATIVE)
        ended = await hub.until_state(request["request_id"], "done")
        assert (ended["result"], ended["attempts"]) == ("X", 2)


async def test_a_breaker_that_is_open_holds_requests_back_and_shows_in_stats() -> None:
    async def broken(_request: Dict, _call: Call) -> Dict:
        raise RuntimeError("a bug")

    async with core() as hub, native_agent("a", text=broken) as agent:
        await hub.register("a", agent.port, "text", **NATIVE)
        for _ in range(10):
            assert (await hub.submit("text", data="x"))["code"] == "internal"
        waiting = await hub.submit("text", data="x", wait=False)
        stats = await hub.call("stats")
        breakers = {breaker["endpoint"]: breaker["state"] for breaker in stats["breakers"]}
        assert breakers[f"tcp://127.0.0.1:{agent.port}"] == "open"
        assert (
            "the breaker is open for a" in (await hub.call("get_request", request_id=waiting["request_id"]))["reason"]
        )


async def test_what_a_breaker_held_back_is_answered_once_its_agent_is_mended() -> None:
    is_mended = False

    async def broken(_request: Dict, _call: Call) -> Dict:
        if not is_mended:
            raise RuntimeError("a bug")
        return {"result": "fine"}

    async with core() as hub, native_agent("a", text=broken) as agent:
        await hub.register("a", agent.port, "text", **NATIVE)
        for _ in range(10):
            await hub.submit("text", data="x")
        waiting = await hub.submit("text", data="x", wait=False)
        assert waiting["state"] == "queued"
        is_mended = True
        ended = await hub.until_state(waiting["request_id"], "done")
        assert ended["result"] == "fine"


@pytest.mark.parametrize(
    "answer",
    [{"status": "error", "error": "no such page", "code": "not_found"}, {"status": "success", "result": 2**70}],
)
async def test_what_an_agent_refuses_or_garbles_fails_its_request_and_nothing_else(answer: Dict, plain: Plain) -> None:
    agent = plain(lambda _asked: answer)
    async with core() as hub:
        await hub.register("p", agent.port, "text")
        failed = await hub.submit("text", data="x")
        assert (failed["state"], failed["result"]) == ("failed", None)
        assert failed["code"] in ("not_found", "bad_request")


async def test_an_answer_heard_while_the_disk_is_full_is_kept_until_it_can_be_made_durable() -> None:
    bench, store = Bench(), MemoryStore()
    async with core(store) as hub, native_agent("a", once=bench.work) as agent:
        await hub.register("a", agent.port, "once", **NATIVE)
        waiting = asyncio.create_task(hub.submit("once", data="x", wait_s=20))
        while not bench.asked:
            await asyncio.sleep(0.01)
        store.failure = StorageUnavailable("memory: is full")
        bench.go.set()
        while not hub.shell.journal.problem:
            await asyncio.sleep(0.01)
        asked = await ask(hub.shell.port, "get_request", request_id=bench.asked[0]["request_id"])
        assert asked["code"] == "storage_unavailable"
        store.failure = None
        ended = await waiting
        assert (ended["state"], ended["result"], len(bench.asked)) == ("done", "X", 1)


async def test_after_a_restart_a_run_is_repeated_where_that_is_safe_and_interrupted_where_not() -> None:
    tables: dict[str, dict[str, bytes]] = {}
    bench = Bench()
    async with native_agent("a", safe=bench.work, once=bench.work) as agent:
        async with core(MemoryStore(tables)) as hub:
            await hub.register("a", agent.port, "safe", "once", idempotent=["safe"], **NATIVE)
            safe = await hub.submit("safe", data="s", idempotency_key="k", wait=False)
            once = await hub.submit("once", data="o", wait=False)
            kept = {table: dict(rows) for table, rows in tables.items()}
        bench.go.set()
        async with core(MemoryStore(kept)) as hub:
            done = await hub.submit("safe", data="s", idempotency_key="k")
            assert (done["request_id"], done["state"], done["result"]) == (safe["request_id"], "done", "S")
            lost = await hub.call("get_request", request_id=once["request_id"])
            assert (lost["state"], lost["code"]) == ("failed", "interrupted")


async def test_a_service_that_stops_answers_those_who_stay_with_the_state_and_the_next_life_goes_on() -> None:
    tables: dict[str, dict[str, bytes]] = {}
    bench = Bench()
    async with native_agent("a", work=bench.work) as agent:
        async with core(MemoryStore(tables)) as hub:
            await hub.register("a", agent.port, "work", idempotent=["work"], **NATIVE)
            staying = asyncio.create_task(ask(hub.shell.port, "submit_request", capability="work", data="x", wait_s=9))
            while not bench.asked:
                await asyncio.sleep(0.01)
        told = await staying
        assert (told["status"], told["state"]) == ("success", "running")
        bench.go.set()
        async with core(MemoryStore(tables)) as hub:
            assert (await hub.until_state(told["request_id"], "done"))["result"] == "X"


async def test_old_requests_are_let_go_of() -> None:
    limits = Limits(requests=RequestLimits(kept=1))
    async with core(limits=limits) as hub, native_agent("a", text=shout) as agent:
        await hub.register("a", agent.port, "text", **NATIVE)
        first, second = [await hub.submit("text", data="x") for _ in range(2)]
        hub.service._dispatching.trim()
        gone = await ask(hub.shell.port, "get_request", request_id=first["request_id"])
        assert gone["code"] == "not_found"
        assert (await hub.call("get_request", request_id=second["request_id"]))["state"] == "done"
