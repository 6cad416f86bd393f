"""What both faces of the client promise, by one suite over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from common.api import basic
from common.api import core_orchestrator as core
from common.api.words import Empty
from common.client import blocking_link, conversation, link
from common.client.directory import Place
from common.client.settings import ClientSettings
from common.errors import (
    BadRequest,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Internal,
    Interrupted,
    NotFound,
    Overloaded,
    TandemError,
    Unavailable,
    UnknownVerb,
)
from common.resilience.breaker import BreakerSettings
from common.resilience.budget import RetrySettings
from common.service.call import Call
from common.wire import header
from common.wire.header import CallKind
from tests.common.client.lab import FACES, AsyncFace, Face, SyncFace, at_port, place_of, registry, rep, router
from tests.common.service.lab import COUNT, ECHO, FAIL, READ, WAIT, WRITE, Row, Said, Text, service, until
from tests.lab.nowhere import alone

ONCE = ClientSettings(retry=RetrySettings(attempts=1))


@pytest.fixture(params=list(FACES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(kind: str, settings: ClientSettings | None = None, **places: Place) -> AsyncIterator[Face]:
    """A client of that kind that knows these places."""
    face = FACES[kind](alone(places), settings)
    try:
        yield face
    finally:
        await face.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_verb_by_its_types_and_by_its_name_gets_the_same_answer(kind: str) -> None:
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        assert await face.call("Lab", ECHO, Text(text="Grüße")) == Said(text="Grüße")
        assert await face.call("Lab", "echo", {"text": "Grüße"}) == {"text": "Grüße", "size": 0}
        assert (await face.call("Lab", basic.PING)).service == "Lab"
        address = f"tcp://127.0.0.1:{lab.shell.port}"
        assert (await face.call(address, "ping"))["service"] == "Lab"


async def test_errors_come_back_as_they_were_raised(kind: str) -> None:
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        with pytest.raises(Conflict, match="as asked") as caught:
            await face.call("Lab", FAIL, Text(text="conflict"))
        assert caught.value.details == {"where": "here"}
        with pytest.raises(UnknownVerb, match="did you mean 'echo'"):
            await face.call("Lab", "ehco")
        with pytest.raises(Internal):
            await face.call("Lab", FAIL, Text(text="bug"))


async def test_large_binary_fields_travel_as_frames_of_their_own(kind: str) -> None:
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        for size in (0, 10, 100_000, 8_000_000):
            assert (await face.call("Lab", ECHO, Text(data=memoryview(bytes(size))))).size == size


async def test_an_agent_is_found_by_its_name_and_remembered(kind: str) -> None:
    async with service() as lab, registry() as names, opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
        names.put("echo-agent", lab.shell.port)
        for _ in range(3):
            assert (await face.call("echo-agent", ECHO, Text(text="a"))).text == "a"
        assert len(names.asked) <= 2
        with pytest.raises(NotFound, match="no agent 'nobody'"):
            await face.call("nobody", ECHO, Text())


async def test_an_agent_that_moved_is_found_where_it_is_now(kind: str) -> None:
    async with registry() as names, opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
        async with service(service="Old") as old:
            names.put("agent", old.shell.port)
            assert (await face.call("agent", basic.PING)).service == "Old"
        async with service(service="New") as new:
            names.put("agent", new.shell.port)
            assert (await face.call("agent", basic.PING)).service == "New"


async def test_looking_a_name_up_keeps_to_the_calls_budget(kind: str) -> None:
    async with router(lambda frames: None) as silent, opened(kind, CoreOrchestrator=at_port(silent)) as face:
        before = time.monotonic()
        with pytest.raises(TandemError):
            await face.call("agent", ECHO, Text(), timeout_s=0.3)
        with pytest.raises(TandemError):
            await face.stream("agent", COUNT, Text(), timeout_s=0.3)
        assert time.monotonic() - before < 25.0


async def test_nobody_there_is_unavailable_at_once_and_opens_the_breaker(kind: str) -> None:
    settings = ClientSettings(retry=RetrySettings(attempts=1), breaker=BreakerSettings(min_calls=3, cooldown_s=30.0))
    async with opened(kind, settings, Gone=at_port(free_port())) as face:
        for _ in range(3):
            with pytest.raises(Unavailable, match="nobody listens"):
                await face.call("Gone", ECHO, Text())
        with pytest.raises(Unavailable, match="breaker") as caught:
            await face.call("Gone", ECHO, Text())
        assert caught.value.details == {"breaker": "open"}
        (stats,) = face.breakers()
        assert (stats.state, stats.failures, stats.opened) == ("open", 3, 1)


async def test_a_service_that_comes_back_is_reached_again(kind: str) -> None:
    port = free_port()
    async with opened(kind, Lab=at_port(port)) as face:
        async with service(port=port, service="First"):
            assert (await face.call("Lab", basic.PING)).service == "First"
        async with service(port=port, service="Second"):
            assert (await face.call("Lab", basic.PING, timeout_s=60.0)).service == "Second"


class Deserter:
    """Takes a call and dies of it; the next one answers."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.got = asyncio.Event()

    def take(self, frames: list[bytes]) -> None:
        self.calls.append(header.decode_call(frames[0]).verb)
        self.got.set()


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_lost_connection_interrupts_at_once_and_only_what_is_idempotent_is_sent_again(
    kind: str, idempotent: bool
) -> None:
    deserter, port = Deserter(), free_port()
    verb, request = (READ, Row(key="a")) if idempotent else (WRITE, Row(key="a"))
    async with opened(kind, Lab=at_port(port)) as face:
        async with router(deserter.take, port):
            calling = asyncio.create_task(face.call("Lab", verb, request, timeout_s=60.0))
            await deserter.got.wait()
        async with service(port=port) as lab:
            if idempotent:
                assert (await calling).text == ""
            else:
                with pytest.raises(Interrupted, match="lost"):
                    await calling
                assert lab.rows == {}
        assert deserter.calls == [verb.name]


async def test_the_caller_may_say_that_a_verb_is_idempotent(kind: str) -> None:
    deserter, port = Deserter(), free_port()
    async with opened(kind, Lab=at_port(port)) as face:
        async with router(deserter.take, port):
            calling = asyncio.create_task(face.call("Lab", WRITE, Row(key="a"), timeout_s=60.0, idempotent=True))
            await deserter.got.wait()
        async with service(port=port) as lab:
            await calling
            assert lab.rows == {"a": ""}


async def test_a_request_that_may_carry_a_key_is_one_request_however_often_it_is_sent(kind: str) -> None:
    sent: list[core.SubmitRequest] = []

    def take(frames: list[bytes]) -> None:
        sent.append(msgspec.msgpack.decode(frames[1], type=core.SubmitRequest))

    def submit(asked: core.SubmitRequest, call: Call) -> core.RequestStatus:
        sent.append(asked)
        return core.RequestStatus(request_id="req-1", state="done", capability="text")

    port = free_port()
    async with opened(kind, CoreOrchestrator=at_port(port)) as face:
        async with router(take, port):
            calling = asyncio.create_task(
                face.call(core.SERVICE, core.SUBMIT_REQUEST, core.SubmitRequest(type="text"), timeout_s=60.0)
            )
            await until(lambda: bool(sent))
        async with service(port=port) as lab:
            lab.shell.handle(core.SUBMIT_REQUEST, submit)
            assert (await calling).state == "done"
    first, second = sent
    assert first.idempotency_key
    assert first == second


async def test_what_is_retryable_is_tried_again_within_the_budget(kind: str) -> None:
    attempts = 0

    def busy_twice(frames: list[bytes]) -> list[bytes]:
        nonlocal attempts
        attempts += 1
        head = header.decode_call(frames[0])
        error = attempts < 3
        reply = header.ReplyHeader(1, header.ReplyKind.ERROR if error else header.ReplyKind.FINAL, head.id)
        busy = {"code": "overloaded", "error": "busy", "message": "busy", "retryable": True, "retry_after_ms": 1}
        return [header.encode(reply), msgspec.msgpack.encode(busy if error else {"text": "at last"})]

    async with router(busy_twice) as port, opened(kind, Lab=at_port(port)) as face:
        assert (await face.call("Lab", WRITE, Row(key="a"))).text == "at last"
        assert attempts == 3
        attempts = -1_000
        with pytest.raises(Overloaded):
            await face.call("Lab", WRITE, Row(key="a"))
        assert attempts == -996


async def test_a_silent_service_is_given_up_at_the_deadline_and_told_so(kind: str) -> None:
    kinds: list[CallKind] = []
    budgets: list[int] = []

    def silent(frames: list[bytes]) -> None:
        head = header.decode_call(frames[0])
        kinds.append(head.kind)
        budgets.append(head.budget_ms)

    async with router(silent) as port, opened(kind, Lab=at_port(port)) as face:
        before = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await face.call("Lab", WAIT, Empty(), timeout_s=0.2)
        assert 0.15 < time.monotonic() - before < 25.0
        assert 0 < budgets[0] <= 200


async def test_an_answer_that_comes_too_late_meets_no_other_call(kind: str) -> None:
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        late = asyncio.create_task(face.call("Lab", WAIT, Empty(), timeout_s=0.2))
        with pytest.raises(DeadlineExceeded):
            await late
        lab.go.set()
        for number in range(20):
            assert (await face.call("Lab", ECHO, Text(text=str(number)))).text == str(number)


async def test_a_stream_brings_its_parts_and_then_its_answer(kind: str) -> None:
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        items = await face.stream("Lab", COUNT, Text(number=3))
        assert [item.text for item in items] == ["0", "1", "2", "done"]
        assert [item["text"] for item in await face.stream("Lab", "count", {"number": 1})] == ["0", "done"]
        with pytest.raises(BadRequest):
            await face.stream("Lab", "count", {"number": "three"})


async def test_leaving_a_stream_early_withdraws_the_call(kind: str) -> None:
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        items = await face.stream("Lab", COUNT, Text(number=3, text="and wait"), take=2)
        assert [item.text for item in items] == ["0", "1"]
        await until(lambda: lab.shell.onion.in_flight == 0)
        assert lab.ended == ["cancelled"]


async def test_a_stream_nobody_takes_is_withdrawn_when_too_much_of_it_waits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (conversation, link, blocking_link):
        monkeypatch.setattr(module, "PARTS_KEPT", 5)
    async with service() as lab, opened(kind, Lab=place_of(lab.shell)) as face:
        taken: list[str] = []

        async def read() -> None:
            if isinstance(face, AsyncFace):
                async for item in face.client.stream("Lab", COUNT, Text(number=50, text="and wait")):
                    taken.append(item.text)
                    await until(lambda: bool(lab.ended))
            else:
                await asyncio.to_thread(read_between_calls, face)

        def read_between_calls(face: SyncFace) -> None:
            for item in face.client.stream("Lab", COUNT, Text(number=50, text="and wait")):
                taken.append(item.text)
                while not lab.ended:
                    face.client.call("Lab", ECHO, Text())

        with pytest.raises(Cancelled, match="5 of its parts wait"):
            await read()
        assert taken[0] == "0"
        assert 5 <= len(taken) <= 10
        assert (await face.call("Lab", ECHO, Text(text="on"))).text == "on"


async def test_streams_are_judged_by_the_breaker_as_calls_are(kind: str) -> None:
    settings = ClientSettings(breaker=BreakerSettings(min_calls=3, cooldown_s=30.0))
    async with opened(kind, settings, Gone=at_port(free_port())) as face:
        for _ in range(3):
            with pytest.raises(Unavailable, match="nobody listens"):
                await face.stream("Gone", COUNT, Text())
        with pytest.raises(Unavailable, match="breaker"):
            await face.stream("Gone", COUNT, Text())
        assert face.breakers()[0].state == "open"


async def test_a_stream_of_an_agent_that_moved_finds_it_the_next_time(kind: str) -> None:
    async with registry() as names, opened(kind, CoreOrchestrator=at_port(names.shell.port)) as face:
        async with service() as old:
            names.put("agent", old.shell.port)
            assert len(await face.stream("agent", COUNT, Text(number=1))) == 2
        async with service() as new:
            names.put("agent", new.shell.port)
            with suppress(Unavailable):
                await face.stream("agent", COUNT, Text(number=1))
            assert len(await face.stream("agent", COUNT, Text(number=1))) == 2


async def test_a_streams_loss_is_told_while_it_is_read(kind: str) -> None:
    deserter, port = Deserter(), free_port()
    async with opened(kind, Lab=at_port(port)) as face:
        async with router(deserter.take, port):
            reading = asyncio.create_task(face.stream("Lab", COUNT, Text(number=3)))
            await deserter.got.wait()
        with pytest.raises(Interrupted):
            await reading


@pytest.mark.parametrize(
    "reply",
    [b"\xc1\xff", b"", b"not a reply", b"\xc1\x93\x01\x02\x63"],
    ids=["garbage", "empty", "plain", "foreign id"],
)
async def test_what_is_no_reply_of_ours_is_passed_over(kind: str, reply: bytes) -> None:
    def answer(frames: list[bytes]) -> list[bytes]:
        return [reply, b"\x80"]

    async with router(answer) as port, opened(kind, Lab=at_port(port)) as face:
        with pytest.raises(DeadlineExceeded):
            await face.call("Lab", WAIT, Empty(), timeout_s=0.2)


async def test_a_reply_of_another_shape_is_the_answer_to_a_bad_call(kind: str) -> None:
    def answer(frames: list[bytes]) -> list[bytes]:
        head = header.ReplyHeader(1, header.ReplyKind.FINAL, header.decode_call(frames[0]).id)
        return [header.encode(head), msgspec.msgpack.encode({"text": 7})]

    async with router(answer) as port, opened(kind, Lab=at_port(port)) as face:
        with pytest.raises(BadRequest, match="not of this verb's shape"):
            await face.call("Lab", WAIT, Empty())


async def test_an_address_that_is_none_is_the_callers_mistake(kind: str) -> None:
    async with opened(kind) as face:
        with pytest.raises(BadRequest, match="no address to connect to"):
            await face.call("tcp://not an address", ECHO, Text())


async def test_a_closed_client_opens_nothing(kind: str) -> None:
    async with service() as lab, opened(kind, ONCE, Lab=place_of(lab.shell)) as face:
        assert (await face.call("Lab", ECHO, Text(text="a"))).text == "a"
        await face.close()
        with pytest.raises(Unavailable, match="closed"):
            await face.call("Lab", ECHO, Text())


def told(request: dict[str, Any], **fields: Any) -> bytes:
    """A plain agent's answer."""
    return json.dumps({"status": "success", "heard": request["action"], **fields}).encode()


async def test_a_plain_agent_is_called_in_its_own_dress(kind: str) -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> bytes:
        seen.append(request)
        return told(request, text="plain", size=len(request.get("data", "")))

    async with rep(answer) as port, registry() as names, opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
        names.put("old", port, "plain")
        assert (await face.call("old", "detect", {"text": "a"}))["heard"] == "detect"
        assert await face.call("old", ECHO, Text(data=memoryview(b"RIFF"))) == Said(text="plain", size=8)
        assert await face.stream("old", COUNT, Text(number=1)) == [Said(text="plain", size=0)]
        assert seen[0]["text"] == "a"
        assert 0 < seen[0]["_deadline_ms"] <= 30_000


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (b"not JSON", BadRequest, "not a JSON object"),
        (b"[]", BadRequest, "not a JSON object"),
        (b'{"a":9007199254740992}', BadRequest, "2\\^53"),
        (b'{"status":"error","error":"old words"}', Internal, "old words"),
        (b'{"status":"error"}', Internal, "answered with an error"),
        (b'{"status":"error","code":"not_found","message":"no"}', NotFound, "no"),
        (b'{"status":"error","code":"conflict","message":"no","retry_after_ms":"soon","details":7}', Conflict, "no"),
        (b'{"status":"success","text":7}', BadRequest, "not of this verb's shape"),
    ],
)
async def test_what_a_plain_agent_answers_wrongly_is_a_typed_error(
    kind: str, reply: bytes, error: type[TandemError], said: str
) -> None:
    async with rep(lambda _: reply) as port, registry() as names:
        names.put("old", port, "plain")
        async with opened(kind, ONCE, CoreOrchestrator=place_of(names.shell)) as face:
            with pytest.raises(error, match=said):
                await face.call("old", ECHO, Text())


async def test_a_plain_agents_hint_to_come_back_is_heeded(kind: str) -> None:
    answers = [
        b'{"status":"error","code":"overloaded","message":"busy","retry_after_ms":1,"details":{"queue":3}}',
        b'{"status":"success","text":"at last"}',
    ]
    async with rep(lambda _: answers.pop(0)) as port, registry() as names:
        names.put("old", port, "plain")
        async with opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
            assert (await face.call("old", ECHO, Text())).text == "at last"


async def test_a_plain_agents_late_answer_never_meets_another_call(kind: str) -> None:
    first = asyncio.Event()
    delays = [first]
    async with rep(lambda request: told(request, number=request["number"]), delays) as port, registry() as names:
        names.put("old", port, "plain")
        async with opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
            with pytest.raises(DeadlineExceeded):
                await face.call("old", "say", {"number": 0}, timeout_s=0.2)
            first.set()
            for number in range(1, 6):
                assert (await face.call("old", "say", {"number": number}))["number"] == number


async def test_what_a_plain_agent_says_twice_never_meets_another_call(kind: str) -> None:
    def answer(frames: list[bytes]) -> list[bytes]:
        return [b"", told(json.loads(frames[-1]), number=json.loads(frames[-1])["number"])]

    async with router(answer, times=2) as port, registry() as names:
        names.put("old", port, "plain")
        async with opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
            for number in range(5):
                assert (await face.call("old", "say", {"number": number}))["number"] == number
                await asyncio.sleep(0.05)


async def test_a_plain_agent_that_is_gone_is_unavailable(kind: str) -> None:
    async with registry() as names, opened(kind, ONCE, CoreOrchestrator=place_of(names.shell)) as face:
        names.put("old", free_port(), "plain")
        with pytest.raises(Unavailable, match="nobody listens"):
            await face.call("old", ECHO, Text())


async def test_the_registrys_answer_may_be_a_plain_reply_or_a_typed_one(kind: str) -> None:
    async with registry() as names, opened(kind, CoreOrchestrator=place_of(names.shell)) as face:
        names.put("a", 1)
        asked = core.AgentName(agent_name="a")
        assert (await face.call(core.SERVICE, core.GET_AGENT_ENDPOINT, asked)).port == 1
