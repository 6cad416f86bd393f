"""One call as its handler sees it: who asks, until when, and a way to send parts before the answer."""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from common.errors import Cancelled, TandemError
from common.security.rights import Standing
from common.security.tokens import Checked
from common.service.reply import Reply

ANSWER_S: Final = 0.2
ANSWER_SHARE: Final = 0.2
"""What is left of a caller's budget for the answer's way: this share of it, and no more than ANSWER_S."""


class Authorized(NamedTuple):
    """Who a caller is and what it may, with all that it has shown; `token` is the good token among that."""

    identity: str
    scopes: tuple[str, ...]
    token: Checked | None = None


class Call:
    """The circumstances of one request; `deadline` is on this process's monotonic clock, None for no deadline.

    `identity` is who asks, and `scopes` what it may do, both with all that it has shown; `binding` is what a token issued to it
    is bound to, its CURVE key in Z85 or `local@HOST`. `caller` is who asks by its connection alone, `token` the token that it has
    shown; `dismissed` is why the call was ended before its time, for one that was.
    """

    __slots__ = (
        "_gone",
        "_reply",
        "arrived",
        "caller",
        "deadline",
        "dismissed",
        "identity",
        "scopes",
        "token",
        "trace",
        "verb",
    )

    def __init__(
        self, reply: Reply, verb: str, caller: Standing, arrived: float, deadline: float | None, trace: str | None
    ) -> None:
        self._reply = reply
        self._gone = False
        self.caller = caller
        self.dismissed: TandemError | None = None
        self.verb = verb
        self.identity = caller.identity
        self.scopes = caller.scopes
        self.token: Checked | None = None
        self.arrived = arrived
        self.deadline = deadline
        self.trace = trace

    @property
    def host(self) -> str:
        """The host that the caller is on, or speaks for."""
        return self.caller.host

    @property
    def binding(self) -> str:
        """What a token for this caller is bound to; empty for one that is not known."""
        return self.caller.bindings[0] if self.caller.bindings else ""

    @property
    def streams(self) -> bool:
        """Whether the caller gets parts; plain callers get the final answer alone."""
        return self._reply.streams

    def budget_s(self, now: float, at_most: float) -> float:
        """The seconds this call may still wait: what the caller left, and never more than `at_most`."""
        return at_most if self.deadline is None else max(0.0, min(at_most, self.deadline - now))

    def patience_s(self, now: float, at_most: float) -> float:
        """The seconds its handler may wait, at most `at_most`, so that the answer still arrives in the caller's time."""
        left_s = self.budget_s(now, inf)
        return min(at_most, left_s - min(ANSWER_S, left_s * ANSWER_SHARE))

    def part(self, value: object) -> None:
        """Send a piece of the answer before it; Cancelled when the caller is gone, so that the work stops."""
        if self._gone or not self._reply.part(value):
            self._gone = True
            raise Cancelled(f"the caller of {self.verb} is gone")
