"""One model's loan: where it is, what may happen to it there, and in whose way it is.

    asking -> held -> yielding -> resting -> asking       a loan ends from any state where nobody wants it
      ^  \\       \\       |
      |   +> refused <---+  lost
      +--------+

What becomes of it is chosen in loans.py.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import Final

from msgspec import Struct

from common.api.models import ModelReady
from common.errors import Internal

BATCH_S: Final = 60.0
"""How long a model is kept at least, and how long another waits before it has its turn."""


class State(StrEnum):
    """Where a loan is."""

    ASKING = "asking"
    HELD = "held"
    YIELDING = "yielding"
    RESTING = "resting"
    REFUSED = "refused"


class Move(StrEnum):
    """What happens to a loan."""

    ASK = "ask"
    LEND = "lend"
    REFUSE = "refuse"
    LOSE = "lose"
    YIELD = "yield"
    KEEP = "keep"
    REST = "rest"


NEXT: Final[dict[tuple[State, Move], State]] = {
    (State.ASKING, Move.LEND): State.HELD,
    (State.ASKING, Move.REFUSE): State.REFUSED,
    (State.ASKING, Move.ASK): State.ASKING,
    (State.REFUSED, Move.ASK): State.ASKING,
    (State.HELD, Move.YIELD): State.YIELDING,
    (State.HELD, Move.LOSE): State.REFUSED,
    (State.YIELDING, Move.KEEP): State.HELD,
    (State.YIELDING, Move.LOSE): State.REFUSED,
    (State.YIELDING, Move.REST): State.RESTING,
    (State.RESTING, Move.ASK): State.ASKING,
}
"""The legal moves."""


class Loan(Struct):
    """One model's; times are monotonic seconds.

    `host` is where it may be (empty: anywhere), `at` where it waits, `coming` whether it is being loaded there, `due_at` when
    others make room for it; `quiet_since` is when all who had to had made room. `for_card` and `for_host` say what room it may
    wait for, `of_card` and `of_host` what it has, or had when it was on loan last. `held_since` and `sure_until` are of the
    loan itself.
    """

    model: str
    state: State
    number: int
    host: str
    due_at: float
    asked_at: float
    at: str = ""
    why: str = ""
    coming: bool = False
    for_card: bool = True
    for_host: bool = False
    of_card: bool = True
    of_host: bool = False
    failures: int = 0
    retry_at: float = 0.0
    full: bool = True
    pause_s: float = BATCH_S
    quiet_since: float = inf
    held_since: float = 0.0
    sure_until: float = 0.0
    lent: ModelReady | None = None

    def move(self, move: Move) -> None:
        """One legal step; Internal for any other."""
        state = NEXT.get((self.state, move))
        if state is None:
            raise Internal(f"the loan of {self.model} cannot {move}: it is {self.state}, number {self.number}")
        self.state = state

    def may_be_at(self, host: str) -> bool:
        """Whether room on this host may be what it waits for: the answer last told where, else what was asked for."""
        return host == (self.at or self.host or host)

    def is_in_the_way_of(self, turn: Loan) -> bool:
        """Whether what it has, or had, may be what the other waits for."""
        if turn is self or not turn.may_be_at(self.host):
            return False
        room = (self.of_card and turn.for_card) or (self.of_host and turn.for_host)
        return room or self.model == turn.model
