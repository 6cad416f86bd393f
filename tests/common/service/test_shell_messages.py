"""Every message gets exactly one answer, whatever its bytes: over real sockets, at the request port of a real shell."""

from __future__ import annotations

import asyncio
import gc
import json
import random

import msgspec
import psutil
import pytest
import zmq

from common.errors import BadRequest, Conflict, Internal, UnknownVerb
from common.wire.header import Codec, ReplyKind
from tests.common.service.lab import heard, is_error, native, peer, raises, service, withdrawal

DEEP = b'{"action":"echo","text":' + b"[" * 5_000 + b"]" * 5_000 + b"}"

MALFORMED = {
    "empty": [b""],
    "not JSON": [b"hello"],
    "not UTF-8": [b'{"action":"\xff\xfe"}'],
    "an array": [b"[]"],
    "no action": [b"{}"],
    "5,000 levels deep": [DEEP],
    "a wrong type": [b'{"action":"echo","text":7}'],
    "a number beyond 2^53": [b'{"action":"echo","number":9007199254740992}'],
    "an unknown verb": [b'{"action":"ehco"}'],
    "three frames": [b"a", b"b", b"c"],
    "an envelope alone": [b"\x00\x00\x00\x01", b""],
    "two delimiters": [b"", b"", b"{}"],
    "a native header alone": [b"\xc1\x93\x01\x00\x07"],
    "a native header of garbage": [b"\xc1\xff\xff\xff\xff", b"\x80"],
    "a native header 5,000 levels deep": [
        b"\xc1\x9a\x01\x00\x07\xa4ping\x00\x00\xc0\xc0\xc0" + b"\x91" * 5_000 + b"\xc0",
        b"\x80",
    ],
    "a native header of protocol 2": [b"\xc1\x94\x02\x00\x07\xa4ping", b"\x80"],
    "a native body of garbage": [b"\xc1\x94\x01\x00\x07\xa4echo", b"\xc1"],
    "a native body 5,000 levels deep": [b"\xc1\x94\x01\x00\x07\xa4echo", b"\x81\xa4text" + b"\x91" * 5_000 + b"\xc0"],
    "an attachment without a name": [b"\xc1\x94\x01\x00\x07\xa4echo", b"\x80", b"x"],
    "200 frames": [b"x"] * 200,
    "40 KiB that are not JSON": [b"x" * 40_000],
    "an id that is not UTF-8": [b'{"action":"ping","_id":"\xff"}'],
}


@pytest.mark.parametrize("envelope", [(), (b"",), (b"\x00\x00\x00\x09", b"")], ids=["bare", "REQ", "REQ_CORRELATE"])
async def test_every_malformed_shape_gets_exactly_one_error(envelope: tuple[bytes, ...]) -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        for shape, frames in MALFORMED.items():
            if envelope == (b"",) and frames == [b""]:
                continue
            await caller.send(*envelope, *frames)
            await caller.send(b'{"action":"ping","_id":"mark"}')
            answer = await caller.receive()
            text = answer[-1]
            body = msgspec.msgpack.decode(text) if answer[-2:-1] and answer[-2][:1] == b"\xc1" else json.loads(text)
            assert body["code"] in ("bad_request", "unknown_verb"), shape
            assert body["message"] == body["error"], shape
            mark = json.loads((await caller.receive())[-1])
            assert mark.get("_id") == "mark", f"{shape}: more than one answer"


async def test_what_was_dropped_from_the_envelope_is_echoed() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        call = json.dumps({"action": "echo", "text": "a"}).encode()
        assert (await caller.ask(b"", call))[0] == b""
        assert (await caller.ask(b"\xc1\x00\x00\x01", b"", call))[:2] == [b"\xc1\x00\x00\x01", b""]
        assert len(await caller.ask(call)) == 1
        assert (await caller.ask(b"", *native("echo")))[0] == b""


async def test_req_sockets_are_served_with_and_without_correlation() -> None:
    async with service() as lab, peer(lab.shell.port, zmq.REQ) as bare:
        assert (await bare.plain("echo", text="a"))["text"] == "a"
        async with peer(lab.shell.port, zmq.REQ) as careful:
            careful.socket.setsockopt(zmq.REQ_RELAXED, 1)
            careful.socket.setsockopt(zmq.REQ_CORRELATE, 1)
            assert (await careful.plain("echo", text="b"))["text"] == "b"


@pytest.mark.parametrize("word", [b"ping", b"health"])
async def test_the_bare_words_get_the_health_answer(word: bytes) -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        body = json.loads((await caller.ask(word))[0])
        assert (body["status"], body["ready"], body["service"]) == ("ok", True, "Lab")


async def test_both_dresses_and_both_codecs_get_the_same_answer() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        plain = await caller.plain("echo", text="Grüße", _id=[1, None])
        assert plain == {"status": "success", "_id": [1, None], "text": "Grüße", "size": 0}
        for codec in Codec:
            head, body = heard(await caller.ask(*native("echo", {"text": "Grüße"}, 41, codec=codec)))
            assert (head.kind, head.id, head.codec) == (ReplyKind.FINAL, 41, codec)
            assert body == {"text": "Grüße", "size": 0}


async def test_binary_fields_are_base64_bin_or_an_attachment() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        assert (await caller.plain("echo", data="UklGRg=="))["size"] == 4
        assert heard(await caller.ask(*native("echo", {"data": b"RIFF"})))[1]["size"] == 4
        call = b"\xc1" + msgspec.msgpack.encode([1, 0, 5, "echo", 0, 0, None, None, ["data"]])
        assert heard(await caller.ask(call, b"\x80", b"x" * 1_000_000))[1]["size"] == 1_000_000


async def test_a_plain_message_too_large_to_be_copied_is_served() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        assert (await caller.plain("echo", text="x" * 100_000, _id=1))["text"] == "x" * 100_000


async def test_errors_say_what_where_and_whether_to_try_again() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        unknown = await caller.plain("ehco", _id=5)
        assert raises(UnknownVerb, unknown)
        assert unknown["_id"] == 5
        assert "did you mean 'echo'" in unknown["error"]
        assert unknown["details"] == {"did_you_mean": "echo"}
        assert "`info` lists" in (await caller.plain("zzz"))["error"]
        wrong = await caller.plain("echo", text=7)
        assert raises(BadRequest, wrong)
        assert "`$.text`" in wrong["error"]
        asked = await caller.plain("fail", text="conflict")
        assert raises(Conflict, asked)
        assert (asked["details"], asked["retryable"]) == ({"where": "here"}, False)


@pytest.mark.parametrize("text", ["bug", "unsayable error", "unsayable reply", "strided reply"])
async def test_a_bug_in_a_handler_is_one_internal_error_and_the_service_goes_on(text: str) -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        assert raises(Internal, await caller.plain("fail", text=text))
        assert is_error(await caller.ask(*native("fail", {"text": text})), "internal")
        meter = (await caller.plain("stats"))["verbs"]["fail"]
        assert (meter["count"], meter["errors"], meter["in_flight"]) == (2, 2, 0)


async def test_a_withdrawal_of_nothing_is_no_request_and_gets_no_answer() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        await caller.send(*withdrawal(99))
        assert heard(await caller.ask(*native("echo", call_id=7)))[0].id == 7


def fuzzed(rng: random.Random) -> list[bytes]:
    """A message: noise, or something nearly right."""
    seeds = [
        b'{"action":"echo","text":"a","number":1,"_id":7}',
        b'{"action":"wait","_deadline_ms":1}',
        b"\xc1\x99\x01\x00\x07\xa4echo\xcd\x05\xdc\x00\xc0\xc0\xc0",
        b"\xc1\x94\x01\x00\x07\xa4ping",
        b"\x81\xa4text\xa1a",
        b"",
        b"\x00\x00\x00\x01",
        DEEP,
    ]
    frames = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        frame = bytearray(rng.choice(seeds) if rng.random() < 0.8 else rng.randbytes(rng.randrange(64)))
        for _ in range(rng.choice((0, 0, 1, 3))):
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        frames.append(bytes(frame[: rng.randrange(1, 60)] if rng.random() < 0.2 else frame))
    return frames


def is_withdrawal(frames: list[bytes]) -> bool:
    """Whether the frames withdraw a call, which is no request."""
    from common.wire import header
    from common.wire.frames import Native, framed

    message = framed(frames)
    try:
        return isinstance(message, Native) and header.decode_call(message.header).kind is header.CallKind.WITHDRAW
    except BadRequest:
        return False


async def test_ten_thousand_fuzzed_messages_get_one_answer_each_and_memory_stays_flat() -> None:
    rng = random.Random(20_260_101)
    async with service() as lab, peer(lab.shell.port) as caller:
        lab.go.set()
        rss_bytes = 0
        for batch in range(40):
            wanted = 0
            for _ in range(250):
                frames = fuzzed(rng)
                await caller.send(*frames)
                wanted += not is_withdrawal(frames)
            for _ in range(wanted):
                await caller.receive()
            if batch == 10:
                gc.collect()
                rss_bytes = psutil.Process().memory_info().rss
        assert (await caller.plain("echo", text="still here"))["text"] == "still here"
        gc.collect()
        assert psutil.Process().memory_info().rss - rss_bytes < 8 * 2**20
        assert lab.shell.onion.in_flight == 0
        assert all(meter.in_flight == 0 for meter in lab.shell.meters)


async def test_many_callers_and_tasks_at_once_never_stall_the_drain() -> None:
    async with service() as lab:
        lab.go.set()

        async def talk(number: int) -> None:
            async with peer(lab.shell.port) as caller:
                for turn in range(20):
                    for slot in range(16):
                        await caller.send(*native("wait" if slot % 2 else "echo", call_id=slot))
                    assert {heard(await caller.receive())[0].id for _ in range(16)} == set(range(16)), (number, turn)

        await asyncio.gather(*(talk(number) for number in range(8)))
