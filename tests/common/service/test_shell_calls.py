"""Calls that wait: deadlines, withdrawals, admission and draining."""

from __future__ import annotations

import asyncio

import pytest

from common.api.words import Empty, Verb
from common.errors import Conflict, DeadlineExceeded, Internal, Overloaded, Unavailable
from common.resilience.bulkhead import Bulkhead, BulkheadSettings
from common.service.call import Call
from common.wire import bundle, header
from common.wire.header import ReplyKind
from tests.common.service.lab import WAIT, Peer, Said, heard, is_error, native, peer, raises, service, until, withdrawal


async def test_a_call_past_its_deadline_is_cancelled_and_answered() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        assert raises(DeadlineExceeded, await caller.plain("wait", _deadline_ms=1))
        assert is_error(await caller.ask(*native("wait", budget_ms=1)), "deadline_exceeded")
        assert lab.ended == ["cancelled", "cancelled"]
        assert lab.shell.onion.in_flight == 0


async def test_a_call_without_a_deadline_waits_as_long_as_it_takes() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        await caller.send(b'{"action":"wait"}')
        await lab.waiting.wait()
        lab.shell.onion.sweep()
        lab.go.set()
        assert b"went" in (await caller.receive())[0]


async def test_a_handler_that_takes_its_time_to_clean_up_is_cancelled_once() -> None:
    cleaned = asyncio.Event()
    cancels = 0
    verb = Verb("slow", Empty, Said, WAIT.access)

    async def slow(request: Empty, call: Call) -> Said:
        nonlocal cancels
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancels += 1
            try:
                await cleaned.wait()
            except asyncio.CancelledError:
                cancels += 1
            raise
        return Said(text="")

    async with service() as lab, peer(lab.shell.port) as caller:
        lab.shell.handle(verb, slow)
        await caller.send(*native("slow", budget_ms=1))
        await until(lambda: cancels == 1)
        for _ in range(3):
            lab.shell.onion.sweep()
            await asyncio.sleep(0)
        cleaned.set()
        assert is_error(await caller.receive(), "deadline_exceeded")
        assert cancels == 1


async def test_a_withdrawal_cancels_the_callers_own_call_only() -> None:
    async with service() as lab, peer(lab.shell.port) as one, peer(lab.shell.port) as other:
        await one.send(*native("wait", call_id=5))
        await other.send(*native("wait", call_id=5))
        await until(lambda: lab.shell.onion.in_flight == 2)
        await one.send(*withdrawal(5))
        assert is_error(await one.receive(), "cancelled")
        assert lab.shell.onion.in_flight == 1
        lab.go.set()
        assert heard(await other.receive())[1]["text"] == "went"


async def test_a_call_withdrawn_in_the_turn_it_came_is_answered_and_leaves_no_trace() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        for call_id in range(50):
            await caller.send(*native("wait", call_id=call_id))
            await caller.send(*withdrawal(call_id))
        for _ in range(50):
            assert is_error(await caller.receive(), "cancelled")
        assert lab.shell.onion.in_flight == 0
        assert lab.shell.meters.of("wait").in_flight == 0


async def test_parts_come_before_the_answer_and_plain_callers_get_the_answer_alone() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        await caller.send(*native("count", {"number": 3}))
        replies = [heard(await caller.receive()) for _ in range(4)]
        assert [head.kind for head, _ in replies] == [ReplyKind.PART] * 3 + [ReplyKind.FINAL]
        assert [body["text"] for _, body in replies] == ["0", "1", "2", "done"]
        assert await caller.plain("count", number=3) == {"status": "success", "text": "done", "size": 3}


async def test_streaming_to_a_caller_that_is_gone_ends_the_work() -> None:
    async with service() as lab:
        async with peer(lab.shell.port) as caller:
            await caller.send(*native("count", {"number": 1_000_000_000}))
            await caller.receive()
        await until(lambda: lab.shell.onion.in_flight == 0)
        assert lab.shell.counters()["replies_undelivered"] >= 1


async def test_beyond_the_bulkhead_the_flooder_is_told_to_come_back_and_the_polite_caller_is_served() -> None:
    async with service() as lab, peer(lab.shell.port) as flooder, peer(lab.shell.port) as polite:
        settings = BulkheadSettings(total=8, per_identity=4, guaranteed=2, reserved=4)
        lab.shell.onion._bulkhead = Bulkhead(settings)
        for call_id in range(20):
            await flooder.send(*native("wait", call_id=call_id))
        refusals = [await flooder.receive() for _ in range(18)]
        assert all(is_error(frames, "overloaded") for frames in refusals)
        assert heard(refusals[0])[1]["retry_after_ms"] == 100
        await polite.send(*native("wait", call_id=1))
        await until(lambda: lab.shell.onion.in_flight == 3)
        assert raises(Overloaded, await flooder.plain("wait"))
        lab.go.set()
        assert heard(await polite.receive())[1]["text"] == "went"


async def test_a_draining_service_ends_what_is_under_way_and_takes_nothing_new() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        await caller.send(*native("wait", call_id=1))
        await lab.waiting.wait()
        draining = asyncio.create_task(lab.shell.drain())
        await until(lambda: lab.shell.phase == "draining")
        refused = await caller.plain("echo", text="late")
        assert raises(Unavailable, refused)
        assert refused["retry_after_ms"] == 500
        health = await caller.plain("ping")
        assert (health["phase"], health["ready"]) == ("draining", False)
        lab.go.set()
        assert heard(await caller.receive())[1]["text"] == "went"
        await draining
        await lab.shell.drain()


async def test_draining_ends_in_time_and_what_was_not_done_is_unavailable() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        await caller.send(*native("wait", call_id=1))
        await lab.waiting.wait()
        await lab.shell.drain(within_s=0)
        assert is_error(await caller.receive(), "unavailable")
        assert lab.ended == ["cancelled"]


async def test_a_verb_has_one_handler() -> None:
    async with service() as lab:
        with pytest.raises(Conflict, match="two handlers for verb 'wait'"):
            lab.shell.handle(WAIT, lab.wait)


async def test_a_call_knows_its_circumstances() -> None:
    calls: list[Call] = []
    verb = Verb("look", Empty, Said, WAIT.access)

    def look(request: Empty, call: Call) -> Said:
        calls.append(call)
        return Said(text=call.identity)

    async with service(host="pc2") as lab, peer(lab.shell.port) as caller:
        lab.shell.handle(verb, look)
        assert (await caller.plain("look"))["text"] == "local@pc2"
        await caller.ask(*native("look", budget_ms=2_000))
        plain, dressed = calls
        assert (plain.verb, plain.streams, plain.deadline, plain.budget_s(0.0, 4.0)) == ("look", False, None, 4.0)
        assert dressed.streams
        assert dressed.deadline == pytest.approx(dressed.arrived + 2.0)
        assert dressed.budget_s(dressed.arrived, 60.0) == pytest.approx(2.0)
        assert dressed.budget_s(dressed.arrived + 3.0, 60.0) == 0.0
        assert plain.patience_s(0.0, 4.0) == 4.0
        assert dressed.patience_s(dressed.arrived, 1.0) == 1.0
        assert dressed.patience_s(dressed.arrived, 60.0) == pytest.approx(1.8)
        assert dressed.patience_s(dressed.arrived + 1.5, 60.0) == pytest.approx(0.4)
        assert dressed.patience_s(dressed.arrived + 3.0, 60.0) == 0.0


async def test_a_bug_in_a_handler_that_waits_is_one_internal_error() -> None:
    verb = Verb("buggy", Empty, Said, WAIT.access)

    async def buggy(request: Empty, call: Call) -> Said:
        raise RuntimeError("a bug, as asked")

    async with service() as lab, peer(lab.shell.port) as caller:
        lab.shell.handle(verb, buggy)
        assert raises(Internal, await caller.plain("buggy"))


def bundled(*pairs: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Calls in one message."""
    return bundle.calls([frame for pair in pairs for frame in pair])


async def answers(caller: Peer, count: int) -> dict[int, tuple[ReplyKind, dict[str, object]]]:
    """That many native answers by their ids, bundled or not."""
    found: dict[int, tuple[ReplyKind, dict[str, object]]] = {}
    while len(found) < count:
        frames = await caller.receive()
        head = header.decode_reply(frames[0])
        pairs = bundle.unbundled(frames[1]) if head.kind is ReplyKind.BUNDLE else [(frames[0], frames[1])]
        for pair in pairs:
            inner, body = heard(list(pair))
            assert inner.id not in found, "answered twice"
            found[inner.id] = (inner.kind, body)
    return found


async def test_each_call_of_a_bundle_gets_its_own_answer() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        calls = [
            native("echo", {"text": "a"}, 1),
            native("fail", {"text": "conflict"}, 2),
            native("nothing", call_id=3),
            native("wait", call_id=4),
            native("write", {"key": "k"}, 5),
            native("echo", {"text": 7}, 6),
            native("echo", {"text": "x" * 10_000}, 7),
        ]
        await caller.send(*bundled(*calls[:6], withdrawal(99)))
        await caller.send(*bundled(calls[6]))
        lab.go.set()
        found = await answers(caller, 7)
        assert [found[number][0] is ReplyKind.FINAL for number in range(1, 8)] == [
            True,
            False,
            False,
            True,
            True,
            False,
            True,
        ]
        assert [found[number][1]["code"] for number in (2, 3, 6)] == ["conflict", "unknown_verb", "bad_request"]


async def test_what_is_no_bundle_gets_one_error_and_nothing_of_it_is_done() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        head, body = bundled(native("write", {"key": "a"}), (b"\xc1\xff", b""))
        for frames in ((head, body), (head, b"\x80"), (head, b""), (b"", *bundled(native("write", {"key": "a"})))):
            assert b"bad_request" in (await caller.ask(*frames))[-1]
        assert lab.rows == {}


async def test_streaming_to_a_bundling_caller_that_is_gone_ends_the_work() -> None:
    async with service() as lab:
        async with peer(lab.shell.port) as caller:
            await caller.send(*bundled(native("count", {"number": 1_000_000_000}), native("echo", call_id=2)))
            await caller.receive()
        await until(lambda: lab.shell.onion.in_flight == 0)
