from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api import core_orchestrator as core
from common.api.words import Access, Empty, Verb
from common.client import conversation
from common.client.conversation import ATTACH_FROM, Answer, Conversation, Part
from common.errors import BadRequest, NotFound, TandemError
from common.wire import bundle, codec, header
from common.wire.codec import BodyDecoder
from common.wire.frames import Buffer
from common.wire.header import PROTOCOL, CallKind, Codec, ReplyHeader, ReplyKind

VERB = core.SUBMIT_REQUEST
BY_NAME: Verb[Any, Any] = Verb("detect", dict[str, Any], dict[str, Any], Access.USE)  # type: ignore[type-var]
DONE = {"request_id": "r", "state": "done", "capability": "text"}


def asked(
    talk: Conversation[str], waiter: str, deadline: float | None = None, **fields: Any
) -> tuple[int, list[Buffer]]:
    call_id, frames = talk.call(VERB, core.SubmitRequest(**fields), waiter, 1_500, deadline)
    return call_id, list(frames)


def reply(
    call_id: int, kind: ReplyKind = ReplyKind.FINAL, body: Any = DONE, codec_: Codec = Codec.MSGPACK
) -> list[bytes]:
    return [header.encode(ReplyHeader(PROTOCOL, kind, call_id, codec_)), codec.encode(codec_, body)]


def test_a_call_is_a_header_and_a_body_and_its_answer_finds_its_waiter() -> None:
    talk: Conversation[str] = Conversation()
    call_id, (head, body) = asked(talk, "me", type="text", data="a")
    told = header.decode_call(head)
    assert (told.kind, told.id, told.verb, told.budget_ms, told.codec) == (CallKind.CALL, call_id, VERB.name, 1_500, 0)
    assert BodyDecoder(core.SubmitRequest).decode(Codec.MSGPACK, body).data == "a"
    (heard,) = talk.accept(reply(call_id))
    assert isinstance(heard, Answer)
    assert (heard.waiter, heard.error, heard.value.state) == ("me", None, "done")
    assert len(talk) == 0


def test_a_call_by_name_travels_and_is_answered_in_json() -> None:
    talk: Conversation[str] = Conversation()
    call_id, frames = talk.call(BY_NAME, {"data": b"RIFF"}, "me", 1, None)
    assert header.decode_call(frames[0]).codec is Codec.JSON
    assert bytes(frames[1]) == b'{"data":"UklGRg=="}'
    (heard,) = talk.accept(reply(call_id, body={"a": 1}, codec_=Codec.JSON))
    assert heard.value == {"a": 1}


def test_large_binary_fields_are_frames_of_their_own_uncopied_and_small_ones_stay() -> None:
    talk: Conversation[str] = Conversation()
    large, small = bytearray(ATTACH_FROM), memoryview(b"x" * (ATTACH_FROM - 1))
    _, frames = asked(talk, "me", audio_data=memoryview(large), image_data=small)
    told = header.decode_call(frames[0])
    assert told.attachments == ["audio_data"]
    large[0] = 7
    assert frames[2][0] == 7
    decoded = BodyDecoder(core.SubmitRequest).decode_with(Codec.MSGPACK, frames[1], ["audio_data"], frames[2:])
    assert (len(decoded.audio_data), len(decoded.image_data)) == (ATTACH_FROM, ATTACH_FROM - 1)


def test_parts_leave_the_call_open_and_an_error_ends_it() -> None:
    talk: Conversation[str] = Conversation()
    call_id, _ = asked(talk, "me")
    (part,) = talk.accept(reply(call_id, ReplyKind.PART, {"request_id": "r", "state": "running"}))
    assert isinstance(part, Part)
    assert part.value.state == "running"
    error = codec.error_body(NotFound("no"))
    (heard,) = talk.accept(reply(call_id, ReplyKind.ERROR, error))
    assert isinstance(heard, Answer)
    assert isinstance(heard.error, NotFound)


@pytest.mark.parametrize("kind", [ReplyKind.FINAL, ReplyKind.PART, ReplyKind.ERROR])
def test_a_reply_of_another_shape_ends_the_call_with_what_is_wrong(kind: ReplyKind) -> None:
    talk: Conversation[str] = Conversation()
    call_id, _ = asked(talk, "me")
    (heard,) = talk.accept(reply(call_id, kind, {"state": 7}))
    assert isinstance(heard, Answer)
    assert isinstance(heard.error, BadRequest)
    assert "not of this verb's shape" in heard.error.message


def test_who_does_not_wait_any_more_hears_nothing_and_that_is_counted() -> None:
    talk: Conversation[str] = Conversation()
    call_id, _ = asked(talk, "me")
    frames = talk.withdraw(call_id)
    assert frames is not None
    told = header.decode_call(frames[0])
    assert (told.kind, told.id, frames[1]) == (CallKind.WITHDRAW, call_id, b"")
    assert talk.withdraw(call_id) is None
    assert talk.accept(reply(call_id)) == []
    assert talk.accept([b"plain words"]) == []
    assert talk.strays == 2


def test_a_bundle_holds_many_answers() -> None:
    talk: Conversation[str] = Conversation()
    ids = [asked(talk, str(number))[0] for number in range(3)]
    pairs = [frame for call_id in (*ids[:2], 99) for frame in reply(call_id)]
    heard = talk.accept(bundle.replies(pairs))
    assert [item.waiter for item in heard] == ["0", "1"]
    assert (len(talk), talk.strays) == (1, 1)


def test_calls_end_by_their_deadline_or_with_the_channel() -> None:
    talk: Conversation[str] = Conversation()
    late, _ = asked(talk, "late", deadline=1.0)
    asked(talk, "patient")
    asked(talk, "later", deadline=2.0)
    assert talk.overdue(1.0) == [(late, "late")]
    assert list(talk.take_all()) == ["patient", "later"]
    assert len(talk) == 0


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_any_message_is_nobodys_or_one_bad_request(frames: list[bytes]) -> None:
    talk: Conversation[str] = Conversation()
    asked(talk, "me")
    try:
        heard = talk.accept([b"\xc1" + frames[0], *frames[1:]])
    except BadRequest:
        return
    assert all(item.waiter == "me" for item in heard)


moves = st.tuples(st.sampled_from(["call", "final", "part", "error", "withdraw", "bundle"]), st.integers(0, 7))


@settings(max_examples=60, deadline=None)
@given(st.lists(moves, max_size=40))
def test_every_call_ends_exactly_once_and_with_its_own_answer(story: list[tuple[str, int]]) -> None:
    talk: Conversation[int] = Conversation()
    open_: set[int] = set()
    made = 0
    for move, which in story:
        if move == "call":
            made += 1
            assert talk.call(VERB, core.SubmitRequest(), made, 1, None)[0] == made
            open_.add(made)
        elif move == "withdraw":
            assert (talk.withdraw(which) is not None) == (which in open_)
            open_.discard(which)
        elif move == "part":
            body = {"request_id": str(which), "state": "running"}
            heard = talk.accept(reply(which, ReplyKind.PART, body))
            assert [item.waiter for item in heard] == ([which] if which in open_ else [])
        elif move == "bundle":
            several = sorted(open_)[:3]
            heard = talk.accept(bundle.replies([frame for one in several for frame in reply(one)])) if several else []
            assert [item.waiter for item in heard] == several
            open_ -= set(several)
        else:
            ended = (
                reply(which) if move == "final" else reply(which, ReplyKind.ERROR, codec.error_body(TandemError("x")))
            )
            assert [item.waiter for item in talk.accept(ended)] == ([which] if which in open_ else [])
            open_.discard(which)
        assert len(talk) == len(open_)


def test_verbs_made_for_one_call_each_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "SHAPES_KEPT", 5)
    talk: Conversation[str] = Conversation()
    for number in range(50):
        talk.call(Verb(f"v{number}", Empty, Empty, Access.USE), Empty(), "waiter", 0, None)
    assert len(conversation._shapes) <= 5
