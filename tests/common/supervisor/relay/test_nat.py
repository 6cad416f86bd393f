"""The relay's table: every call ends exactly once, in its caller's dress, under its caller's id, and no two callers ever meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import Code, Interrupted, NotFound, Unavailable
from common.resilience.bulkhead import BulkheadSettings
from common.supervisor.relay.nat import GRACE_S, LONGEST_S, UNPROMISED_S, Deliver, Forward, Nat, Step
from common.wire import bundle, codec, header, plain
from common.wire.frames import Buffer, Native, Plain, framed
from common.wire.header import PROTOCOL, CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

FAR = "ResourceManager on pc2"
DOWN = Unavailable("pc2 is gone")


def call(call_id: int, budget_ms: int = 0, codec_: Codec = Codec.MSGPACK, verb: str = "ping") -> list[Buffer]:
    return [header.encode(CallHeader(PROTOCOL, CallKind.CALL, call_id, verb, budget_ms, codec_)), b"body"]


def withdraw(call_id: int) -> list[Buffer]:
    return [header.encode(CallHeader(PROTOCOL, CallKind.WITHDRAW, call_id)), b""]


def forwarded(steps: Sequence[Step]) -> Sequence[Buffer]:
    (step,) = steps
    assert isinstance(step, Forward)
    return step.frames


def number_of(frames: Sequence[Buffer]) -> int:
    return int.from_bytes(frames[0], "big")


def answer(sent: Sequence[Buffer], kind: ReplyKind = ReplyKind.FINAL, body: bytes = b"answer") -> list[Buffer]:
    """What a far port sends back for a forwarded message: the envelope echoed, then the reply in its dress."""
    message = framed(sent)
    if isinstance(message, Plain):
        return [*message.envelope, body]
    assert isinstance(message, Native)
    head = header.decode_call(message.header)
    return [*message.envelope, header.encode(ReplyHeader(PROTOCOL, kind, head.id, head.codec)), body]


def error_in(frames: Sequence[Buffer]) -> tuple[str, object]:
    """The code of a refusal, and the id that it is for."""
    message = framed(frames)
    if isinstance(message, Plain):
        said = msgspec.json.decode(message.body)
        assert said["status"] == "error"
        return said["code"], said.get("_id")
    assert isinstance(message, Native)
    head = header.decode_reply(message.header)
    assert head.kind is ReplyKind.ERROR
    return codec.decode_error(head.codec, message.body).code, head.id


def test_a_plain_call_goes_out_under_a_number_and_its_answer_comes_back_as_it_is() -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"r1", [b"", b'{"action":"ping"}'], 0.0))
    assert len(sent[0]) == 4
    assert list(sent[1:]) == [b"", b'{"action":"ping"}']
    assert nat.replied(answer(sent, body=b"{}"), 1.0) == Deliver(b"r1", (b"", b"{}"))
    assert not len(nat)


def test_what_req_correlate_put_before_a_call_is_put_before_its_answer() -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"r1", [b"\0\0\0\7", b"", b'{"action":"ping"}'], 0.0))
    delivered = nat.replied(answer(sent), 0.0)
    assert delivered is not None
    assert delivered.frames == (b"\0\0\0\7", b"", b"answer")


@pytest.mark.parametrize("raw", [b"ping", b"health"])
def test_a_raw_question_of_health_passes(raw: bytes) -> None:
    nat = Nat(FAR)
    assert forwarded(nat.called(b"r1", [raw], 0.0))[2:] == (raw,)


def test_two_callers_with_the_same_native_id_never_meet() -> None:
    nat = Nat(FAR)
    one, two = (forwarded(nat.called(route, call(1), 0.0)) for route in (b"a", b"b"))
    for route, sent in ((b"b", two), (b"a", one)):
        delivered = nat.replied(answer(sent, body=route), 0.0)
        assert delivered is not None
        assert delivered.route == route
        assert header.decode_reply(delivered.frames[0]).id == 1
        assert delivered.frames[1] == route


def test_bodies_and_attachments_pass_as_the_very_objects_that_came() -> None:
    nat = Nat(FAR)
    body, attached = memoryview(b"x" * 50_000), memoryview(b"y" * 50_000)
    head = header.encode(CallHeader(PROTOCOL, CallKind.CALL, 4, "submit_request", attachments=["audio_data"]))
    sent = forwarded(nat.called(b"a", [b"", head, body, attached], 0.0))
    assert sent[3] is body
    assert sent[4] is attached
    assert header.decode_call(sent[2]).attachments == ["audio_data"]


def test_a_stream_stays_open_until_its_last_word() -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"a", call(9), 0.0))
    for _ in range(3):
        part = nat.replied(answer(sent, ReplyKind.PART), 0.0)
        assert part is not None
        assert part.part_of == number_of(sent)
        assert header.decode_reply(part.frames[0]) == ReplyHeader(PROTOCOL, ReplyKind.PART, 9)
    last = nat.replied(answer(sent), 0.0)
    assert last is not None
    assert last.part_of is None
    assert nat.replied(answer(sent), 0.0) is None
    assert nat.strays == 1


def test_a_stream_without_a_budget_lives_while_its_far_side_says_something() -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"a", call(9), 0.0))
    nat.replied(answer(sent, ReplyKind.PART), UNPROMISED_S - 1)
    assert nat.overdue(UNPROMISED_S + 10) == []
    late = nat.overdue(2 * UNPROMISED_S)
    assert [type(step) for step in late] == [Deliver, Forward]


def test_a_stream_with_a_budget_ends_with_it_whatever_is_said() -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"a", call(9, budget_ms=1_000), 0.0))
    nat.replied(answer(sent, ReplyKind.PART), 0.9)
    assert nat.overdue(1.0) == []
    refusal, withdrawal = nat.overdue(1.0 + GRACE_S)
    assert isinstance(refusal, Deliver)
    assert error_in(refusal.frames) == (Code.DEADLINE_EXCEEDED, 9)
    assert isinstance(withdrawal, Forward)
    assert not len(nat)


def test_a_plain_call_dies_with_its_budget_and_its_id_is_echoed() -> None:
    nat = Nat(FAR)
    nat.called(b"a", [b'{"action":"ping","_deadline_ms":500,"_id":"seven"}'], 0.0)
    (refusal,) = nat.overdue(0.5 + GRACE_S)
    assert isinstance(refusal, Deliver)
    assert error_in(refusal.frames) == (Code.DEADLINE_EXCEEDED, "seven")


def test_no_budget_outlives_a_day() -> None:
    nat = Nat(FAR)
    nat.called(b"a", call(1, budget_ms=2**52), 0.0)
    assert len(nat.overdue(LONGEST_S + GRACE_S)) == 2


def test_a_withdrawal_passes_under_the_calls_number_and_the_last_word_is_the_far_sides() -> None:
    nat = Nat(FAR)
    forwarded(nat.called(b"b", call(5), 0.0))
    sent = forwarded(nat.called(b"a", call(5), 0.0))
    passed = forwarded(nat.called(b"a", withdraw(5), 0.0))
    message = framed(passed)
    assert isinstance(message, Native)
    assert header.decode_call(message.header) == CallHeader(PROTOCOL, CallKind.WITHDRAW, number_of(sent))
    delivered = nat.replied(answer(sent, ReplyKind.ERROR), 0.0)
    assert delivered is not None
    assert nat.called(b"a", withdraw(5), 0.0) == []


def test_a_caller_who_is_gone_ends_its_stream_at_the_far_side() -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"a", call(5), 0.0))
    passed = forwarded(nat.caller_gone(number_of(sent)))
    assert number_of(passed) == number_of(sent)
    assert nat.caller_gone(number_of(sent)) == []
    assert nat.replied(answer(sent), 0.0) is None


def test_a_bundle_is_taken_apart() -> None:
    nat = Nat(FAR)
    frames = bundle.calls([frame for call_id in (1, 2, 3) for frame in call(call_id)])
    steps = nat.called(b"a", frames, 0.0)
    assert len(steps) == 3
    assert all(isinstance(step, Forward) and framed(step.frames).envelope for step in steps)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"", b""],
        [b"{"],
        [b"\xff\xfe"],
        [b"two", b"frames"],
        [b"\xc1only"],
        [b"", b"\xc1only"],
        [b"\xc1nohead", b"body"],
        [b"", *bundle.calls([*call(1), *call(2)])],
        [bundle.calls([])[0], b"\x91\xc4\x00"],
    ],
)
@pytest.mark.parametrize("barred", [None, DOWN])
def test_a_malformed_message_is_answered_here_once(frames: list[Buffer], barred: Unavailable | None) -> None:
    nat = Nat(FAR)
    (refusal,) = nat.called(b"a", frames, 0.0, barred)
    assert isinstance(refusal, Deliver)
    assert error_in(refusal.frames)[0] == Code.BAD_REQUEST
    assert not len(nat)


@pytest.mark.parametrize(
    ("frames", "own"),
    [
        ([b'{"action":"ping","_id":[1]}'], [1]),
        ([b"ping"], None),
        (call(8), 8),
        (call(8, codec_=Codec.JSON), 8),
    ],
)
def test_without_a_link_a_call_is_refused_at_once_in_its_dress(frames: list[Buffer], own: object) -> None:
    nat = Nat(FAR)
    (refusal,) = nat.called(b"a", frames, 0.0, DOWN)
    assert isinstance(refusal, Deliver)
    assert error_in(refusal.frames) == (Code.UNAVAILABLE, own)


def test_one_callers_flood_is_overloaded_and_leaves_room_for_another() -> None:
    nat = Nat(FAR, BulkheadSettings(total=8, per_identity=3, guaranteed=1, reserved=2))
    steps = [nat.called(b"a", call(call_id), 0.0)[0] for call_id in range(5)]
    assert [type(step) for step in steps] == [Forward] * 3 + [Deliver] * 2
    assert isinstance(steps[-1], Deliver)
    assert error_in(steps[-1].frames) == (Code.OVERLOADED, 4)
    assert isinstance(nat.called(b"b", call(1), 0.0)[0], Forward)


@pytest.mark.parametrize("said", [b"\xc1\xff", b"", b"{}", b"{\x93\x01\x02\x07", b"\xc1\x93\x01\x05\x00"])
def test_an_answer_that_cannot_be_read_ends_its_native_call_all_the_same(said: bytes) -> None:
    nat = Nat(FAR)
    sent = forwarded(nat.called(b"a", call(7), 0.0))
    delivered = nat.replied([sent[0], b"", said, b""], 0.0)
    assert delivered is not None
    assert error_in(delivered.frames) == (Code.INTERNAL, 7)
    assert not len(nat)


@pytest.mark.parametrize(
    "frames", [[b"1234"], [b"1234", b"x", b"{}"], [b"12345", b"", b"{}"], [b"\0\0\0\1", b"", b"{}"]]
)
def test_what_answers_no_call_is_counted_and_let_go(frames: list[Buffer]) -> None:
    nat = Nat(FAR)
    assert nat.replied(frames, 0.0) is None
    assert nat.strays == 1


def test_numbers_begin_anew_and_pass_over_those_in_use() -> None:
    nat = Nat(FAR)
    held = forwarded(nat.called(b"a", call(1), 0.0))
    nat._last = 2**32 - 1
    assert number_of(forwarded(nat.called(b"a", call(2), 0.0))) == 0
    assert number_of(forwarded(nat.called(b"a", call(3), 0.0))) == number_of(held) + 1


def test_a_number_given_twice_by_one_caller_ends_twice() -> None:
    nat = Nat(FAR)
    one, two = (forwarded(nat.called(b"a", call(1), 0.0)) for _ in range(2))
    assert nat.replied(answer(one), 0.0) is not None
    assert number_of(forwarded(nat.called(b"a", withdraw(1), 0.0))) == number_of(two)
    assert nat.replied(answer(two), 0.0) is not None


class EveryCallEndsOnce(RuleBasedStateMachine):
    """Callers of both dresses, a far side that answers in any order, a link that goes, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.nat = Nat(FAR, BulkheadSettings(total=12, per_identity=6, guaranteed=1, reserved=2))
        self.now = 0.0
        self.opened: Counter[tuple[bytes, object]] = Counter()
        self.ended: Counter[tuple[bytes, object]] = Counter()
        self.far: list[tuple[Sequence[Buffer], tuple[bytes, object]]] = []
        self.told = 0

    def take(self, steps: Sequence[Step], owner: tuple[bytes, object] | None = None) -> None:
        for step in steps:
            if isinstance(step, Deliver):
                self.deliver(step)
            elif owner is not None:
                self.far.append((step.frames, owner))

    def deliver(self, step: Deliver) -> None:
        message = framed(step.frames)
        if isinstance(message, Plain):
            said = msgspec.json.decode(message.body)
            own: object = ("plain", said["_id"] if "_id" in said else said["own"])
        else:
            assert isinstance(message, Native)
            head = header.decode_reply(message.header)
            own = ("native", head.id)
            if head.kind is ReplyKind.PART:
                assert self.opened[step.route, own] > self.ended[step.route, own]
                return
        self.ended[step.route, own] += 1

    @rule(
        route=st.sampled_from([b"a", b"b"]), native=st.booleans(), up=st.booleans(), budget_ms=st.sampled_from([0, 400])
    )
    def call(self, route: bytes, native: bool, up: bool, budget_ms: int) -> None:
        self.told += 1
        own: object = ("native" if native else "plain", self.told % 5 if native else self.told)
        frames: list[Buffer] = call(self.told % 5, budget_ms)
        if not native:
            frames = [b"", msgspec.json.encode({"action": "x", "_id": self.told, "_deadline_ms": budget_ms})]
        self.opened[route, own] += 1
        self.take(self.nat.called(route, frames, self.now, None if up else DOWN), (route, own))

    @rule(route=st.sampled_from([b"a", b"b"]), call_id=st.integers(0, 4))
    def withdraw(self, route: bytes, call_id: int) -> None:
        assert all(isinstance(step, Forward) for step in self.nat.called(route, withdraw(call_id), self.now))

    @rule(pick=st.integers(0, 100), kind=st.sampled_from([ReplyKind.FINAL, ReplyKind.PART, ReplyKind.ERROR]))
    def reply(self, pick: int, kind: ReplyKind) -> None:
        if not self.far:
            return
        sent, (route, own) = self.far[pick % len(self.far)]
        body = plain.failure(NotFound("x")) if isinstance(framed(sent), Plain) else b""
        if isinstance(framed(sent), Plain):
            assert isinstance(own, tuple)
            body = msgspec.json.encode({"own": own[1]})
        delivered = self.nat.replied(answer(sent, kind, body), self.now)
        if delivered is not None:
            assert delivered.route == route
            self.deliver(delivered)

    @rule(seconds=st.sampled_from([0.1, 0.5, UNPROMISED_S]))
    def later(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.nat.overdue(self.now))

    @rule()
    def cut(self) -> None:
        self.take(self.nat.end_all(Interrupted("cut")))
        assert not len(self.nat)

    @invariant()
    def every_call_is_under_way_or_has_ended_once(self) -> None:
        assert all(self.ended[key] <= self.opened[key] for key in self.ended)
        assert self.opened.total() - self.ended.total() == len(self.nat)

    def teardown(self) -> None:
        self.take(self.nat.end_all(DOWN))
        assert self.opened == self.ended
        assert not self.nat._room.in_flight
        assert not self.nat._by_call


TestEveryCallEndsOnce = EveryCallEndsOnce.TestCase
