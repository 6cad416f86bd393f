"""Which requests were answered before: the same identity, verb and key gets the same reply, and the work is done once.

A key is pending from its first arrival until its reply is settled; one that comes meanwhile joins it. What is settled is
returned as facts, for the shell to commit with the record the work made, and folded back at start. Nothing here stores,
sends or waits. `now` is wall-clock seconds, because what is kept outlives the process.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from common.errors import IdempotencyMismatch


class IdempotencySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is remembered; whichever bound is reached first, the oldest replies go."""

    keep_s: Annotated[float, Meta(gt=0, le=31_536_000, description="seconds")] = 86_400.0
    keys: Annotated[int, Meta(ge=1, le=10_000_000, description="replies kept")] = 100_000
    reply_bytes: Annotated[int, Meta(ge=0, le=2**40, description="bytes of all replies kept")] = 256 * 1024 * 1024


DEFAULT: Final = IdempotencySettings()


class Scope(NamedTuple):
    """What makes a key unique."""

    identity: str
    verb: str
    key: str


class ReplyKept(Struct, frozen=True, kw_only=True, gc=False, tag_field="fact", tag="reply_kept.1"):
    """Fact: the request of this scope, with this body, got this reply at `at` (wall-clock seconds)."""

    identity: str
    verb: str
    key: str
    digest: bytes
    reply: bytes
    at: float


class ReplyForgotten(Struct, frozen=True, kw_only=True, tag_field="fact", tag="reply_forgotten.1"):
    """Fact: the reply of this scope, which was kept at `at`, is no longer kept."""

    identity: str
    verb: str
    key: str
    at: float = 0.0


Fact = ReplyKept | ReplyForgotten


class Fresh(NamedTuple):
    """Not seen before, and pending from now on: do the work, then `settle` or `abandon` it."""

    scope: Scope


class Pending(NamedTuple):
    """The same request is being worked on: wait for its reply, and do nothing else."""

    scope: Scope


class Answered(NamedTuple):
    """The same request was answered: send these bytes again."""

    reply: bytes


def digest(*frames: bytes | memoryview) -> bytes:
    """16 bytes that stand for a request's body and attachments, the frame borders included."""
    whole = blake2b(digest_size=16)
    for frame in frames:
        whole.update(len(frame).to_bytes(8, "big"))
        whole.update(frame)
    return whole.digest()


class Replies:
    """The requests under way and the replies kept, oldest first."""

    __slots__ = ("_bytes", "_kept", "_pending", "_settings")

    def __init__(self, settings: IdempotencySettings = DEFAULT) -> None:
        self._settings = settings
        self._pending: dict[Scope, bytes] = {}
        self._kept: OrderedDict[Scope, ReplyKept] = OrderedDict()  # a plain dict finds its oldest key ever more slowly
        self._bytes = 0

    def claim(self, scope: Scope, body: bytes, now: float) -> Fresh | Pending | Answered:
        """What to do with a request that carries a key; `body` is its digest.

        Raises IdempotencyMismatch when the key stands for another body.
        """
        under_way = self._pending.get(scope)
        if under_way is not None:
            self._same(scope, under_way, body)
            return Pending(scope)
        kept = self._kept.get(scope)
        if kept is not None and kept.at > now - self._settings.keep_s:
            self._same(scope, kept.digest, body)
            return Answered(kept.reply)
        self._pending[scope] = body
        return Fresh(scope)

    def settle(self, scope: Scope, reply: bytes, now: float) -> list[Fact]:
        """Keeps the reply of a pending request; the facts to commit: the reply in whose place it comes, this one, and those that
        had to go.

        Settling what is not pending is a bug and raises KeyError.
        """
        kept = ReplyKept(
            identity=scope.identity,
            verb=scope.verb,
            key=scope.key,
            digest=self._pending.pop(scope),
            reply=reply,
            at=now,
        )
        stale = self._kept.get(scope)
        self.fold(kept)
        return [*([_forgotten(stale)] if stale is not None else []), kept, *self._evict(now)]

    def abandon(self, scope: Scope) -> None:
        """Forgets a pending request that was not done, so that the next try does it."""
        self._pending.pop(scope, None)

    def fold(self, fact: Fact) -> None:
        """Takes a committed fact back in, oldest first; used at start, and decides nothing."""
        self._drop(Scope(fact.identity, fact.verb, fact.key))
        if isinstance(fact, ReplyKept):
            self._kept[Scope(fact.identity, fact.verb, fact.key)] = fact
            self._bytes += len(fact.reply)

    def __len__(self) -> int:
        return len(self._kept)

    def _same(self, scope: Scope, known: bytes, body: bytes) -> None:
        if known != body:
            raise IdempotencyMismatch(
                f"the idempotency key {scope.key!r} of {scope.verb} came before with another body"
            )

    def _evict(self, now: float) -> list[ReplyForgotten]:
        """Each reply goes once, so the cost is constant per reply ever kept."""
        gone: list[ReplyForgotten] = []
        while self._kept:
            scope = next(iter(self._kept))
            if not self._over(self._kept[scope], now):
                break
            gone.append(_forgotten(self._kept[scope]))
            self._drop(scope)
        return gone

    def _over(self, oldest: ReplyKept, now: float) -> bool:
        settings = self._settings
        too_many = len(self._kept) > settings.keys or self._bytes > settings.reply_bytes
        return too_many or oldest.at <= now - settings.keep_s

    def _drop(self, scope: Scope) -> None:
        gone = self._kept.pop(scope, None)
        if gone is not None:
            self._bytes -= len(gone.reply)


def _forgotten(kept: ReplyKept) -> ReplyForgotten:
    return ReplyForgotten(identity=kept.identity, verb=kept.verb, key=kept.key, at=kept.at)
