from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import IdempotencyMismatch
from common.resilience.idempotency import (
    Answered,
    Fact,
    Fresh,
    IdempotencySettings,
    Pending,
    Replies,
    ReplyForgotten,
    ReplyKept,
    Scope,
    digest,
)

KNOBS = IdempotencySettings(keep_s=100.0, keys=3, reply_bytes=40)
SCOPE = Scope("local@mainpc", "acquire_lease", "k-1")
BODY, OTHER_BODY = digest(b"body"), digest(b"other")


def scope(key: str) -> Scope:
    return Scope("local@mainpc", "acquire_lease", key)


def settled(replies: Replies, key: str, now: float, reply: bytes = b"done") -> list[Fact]:
    replies.claim(scope(key), BODY, now)
    return replies.settle(scope(key), reply, now)


def test_the_same_request_gets_the_same_reply() -> None:
    replies = Replies(KNOBS)
    assert replies.claim(SCOPE, BODY, 0.0) == Fresh(SCOPE)
    facts = replies.settle(SCOPE, b"granted", 1.0)
    assert facts == [
        ReplyKept(identity=SCOPE.identity, verb=SCOPE.verb, key=SCOPE.key, digest=BODY, reply=b"granted", at=1.0)
    ]
    assert replies.claim(SCOPE, BODY, 2.0) == Answered(b"granted")


def test_a_duplicate_of_a_request_under_way_joins_it() -> None:
    replies = Replies(KNOBS)
    replies.claim(SCOPE, BODY, 0.0)
    assert replies.claim(SCOPE, BODY, 0.0) == Pending(SCOPE)


def test_the_same_key_with_another_body_is_a_mismatch_before_and_after_the_reply() -> None:
    replies = Replies(KNOBS)
    replies.claim(SCOPE, BODY, 0.0)
    with pytest.raises(IdempotencyMismatch, match="'k-1' of acquire_lease"):
        replies.claim(SCOPE, OTHER_BODY, 0.0)
    replies.settle(SCOPE, b"granted", 0.0)
    with pytest.raises(IdempotencyMismatch):
        replies.claim(SCOPE, OTHER_BODY, 0.0)


def test_a_key_belongs_to_one_identity_and_one_verb() -> None:
    replies = Replies(KNOBS)
    replies.claim(SCOPE, BODY, 0.0)
    assert isinstance(replies.claim(SCOPE._replace(identity="mallory"), OTHER_BODY, 0.0), Fresh)
    assert isinstance(replies.claim(SCOPE._replace(verb="submit_request"), OTHER_BODY, 0.0), Fresh)


def test_an_abandoned_request_is_done_by_the_next_try() -> None:
    replies = Replies(KNOBS)
    replies.claim(SCOPE, BODY, 0.0)
    replies.abandon(SCOPE)
    replies.abandon(SCOPE)
    assert isinstance(replies.claim(SCOPE, OTHER_BODY, 0.0), Fresh)


def test_settling_what_is_not_pending_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Replies(KNOBS).settle(SCOPE, b"", 0.0)


def test_a_reply_is_kept_for_its_time_and_no_longer() -> None:
    replies = Replies(KNOBS)
    settled(replies, "old", 0.0)
    assert isinstance(replies.claim(scope("old"), BODY, 99.0), Answered)
    assert isinstance(replies.claim(scope("old"), OTHER_BODY, 100.0), Fresh)


def test_old_replies_are_forgotten_when_a_new_one_is_kept() -> None:
    replies = Replies(KNOBS)
    settled(replies, "old", 0.0)
    facts = settled(replies, "new", 100.0)
    assert facts[1:] == [ReplyForgotten(identity="local@mainpc", verb="acquire_lease", key="old", at=0.0)]
    assert len(replies) == 1


def test_beyond_the_bound_the_oldest_keys_go() -> None:
    replies = Replies(KNOBS)
    gone = [fact.key for n in range(5) for fact in settled(replies, f"k{n}", float(n))[1:]]
    assert gone == ["k0", "k1"]
    assert len(replies) == 3


def test_beyond_the_bound_of_bytes_the_oldest_keys_go() -> None:
    replies = Replies(KNOBS)
    settled(replies, "small", 0.0, bytes(10))
    facts = settled(replies, "large", 1.0, bytes(35))
    assert [fact.key for fact in facts] == ["large", "small"]
    assert [fact.key for fact in settled(replies, "huge", 2.0, bytes(41))] == ["huge", "large", "huge"]
    assert len(replies) == 0


def test_facts_survive_their_bytes_and_rebuild_the_same_answers() -> None:
    replies, restored = Replies(KNOBS), Replies(KNOBS)
    facts = [fact for n in range(6) for fact in settled(replies, f"k{n % 4}x{n}", float(n), b"r%d" % n)]
    for fact in facts:
        restored.fold(msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=ReplyKept | ReplyForgotten))
    for n in range(6):
        key = scope(f"k{n % 4}x{n}")
        assert replies.claim(key, BODY, 6.0) == restored.claim(key, BODY, 6.0)


def test_a_digest_tells_frames_apart() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(b"ab", memoryview(b"c")) == digest(b"ab", b"c")
    assert len(digest()) == 16


class RepliesMachine(RuleBasedStateMachine):
    """Requests with few keys and two bodies, settled or abandoned at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.replies = Replies(KNOBS)
        self.now = 0.0
        self.pending: dict[Scope, bytes] = {}
        self.kept: dict[Scope, tuple[bytes, bytes, float]] = {}
        self.facts: list[Fact] = []

    @rule(wait_s=st.sampled_from([0.0, 1.0, 60.0]))
    def time_passes(self, wait_s: float) -> None:
        self.now += wait_s

    @rule(key=st.sampled_from("abcdef"), body=st.sampled_from([BODY, OTHER_BODY]))
    def claim(self, key: str, body: bytes) -> None:
        it = scope(key)
        known = self.kept.get(it)
        young = known is not None and known[2] > self.now - KNOBS.keep_s
        expected = self.pending.get(it) or (known[0] if known and young else None)
        if expected is not None and expected != body:
            with pytest.raises(IdempotencyMismatch):
                self.replies.claim(it, body, self.now)
            return
        answer = self.replies.claim(it, body, self.now)
        if it in self.pending:
            assert answer == Pending(it)
        elif known and young:
            assert answer == Answered(known[1])
        else:
            assert answer == Fresh(it)
            self.pending[it] = body

    @rule(size=st.integers(0, 20))
    def settle(self, size: int) -> None:
        if not self.pending:
            return
        it, body = self.pending.popitem()
        facts = self.replies.settle(it, bytes(size), self.now)
        self.facts += facts
        replaced = self.kept.pop(it, None)
        if replaced is not None:
            forgotten = facts.pop(0)
            assert (forgotten.key, forgotten.at) == (it.key, replaced[2])
        assert isinstance(facts[0], ReplyKept)
        self.kept[it] = (body, bytes(size), self.now)
        for gone in facts[1:]:
            del self.kept[scope(gone.key)]

    @rule()
    def abandon(self) -> None:
        if self.pending:
            self.replies.abandon(self.pending.popitem()[0])

    @invariant()
    def no_bound_is_exceeded(self) -> None:
        assert len(self.replies) == len(self.kept) <= KNOBS.keys
        assert self.replies._bytes == sum(len(reply) for _, reply, _ in self.kept.values()) <= KNOBS.reply_bytes

    def teardown(self) -> None:
        restored = Replies(KNOBS)
        for fact in self.facts:
            restored.fold(fact)
        assert restored._kept == self.replies._kept


TestRepliesMachine = RepliesMachine.TestCase
TestRepliesMachine.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
