"""Models on loan for tasks: which is asked for, kept, given back, and who makes room for whom.

A model is asked for when a task could begin but for it, and kept while its tasks wait or run: tasks of one model run together,
and models change once for many of them. When another model has been waited for for BATCH_S, or for CALLER_S by a caller of
ResourceManager, and might have their room, those that were held for BATCH_S begin no more tasks, are given back when what runs
has ended, and rest: until the other is on its way, is not wanted any more, or has not come for BATCH_S after all of them made
room. The next such turn of a model for which that was in vain comes later and later, MOST_PAUSE_S at most. So nobody waits for
ever, and a model that cannot come costs the others little. Room is that of cards, or that of a host's RAM, disk and cores: a
model that has none of what is waited for goes on. What a caller waits for may also be a use of the very model on loan.

A loan that is not known to have been renewed in time counts as lost. A refused one is asked for again after a pause that
doubles with each refusal, from AGAIN_S to MOST_AGAIN_S.

It asks nobody and reads no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from common.api.models import ModelProgress, ModelReady
from common.errors import DeadlineExceeded, NoCapacity, Overloaded, TandemError
from pc2.resource_manager.callers import Caller
from pc2.resource_manager.tasks.loan import BATCH_S, Loan, Move, State
from pc2.resource_manager.tasks.wants import NOTHING, Need

CALLER_S: Final = 1.0
MOST_PAUSE_S: Final = 960.0
AGAIN_S: Final = 1.0
MOST_AGAIN_S: Final = 30.0
FULL: Final = (NoCapacity, Overloaded, DeadlineExceeded)
"""Refusals for want of room; after any other nobody need make room."""
NOBODY: Final[Mapping[int, Caller]] = {}
_DOUBLINGS: Final = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for the model, on this host (empty: any), and report what comes of it under this number."""

    model: str
    number: int
    host: str
    priority: int


@dataclass(frozen=True, slots=True)
class Desist:
    """Nobody wants it any more: stop asking; nothing more is to be reported."""

    model: str
    number: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Stop renewing the loan and give it back."""

    model: str
    number: int
    lent: ModelReady


Step = Ask | Desist | GiveBack


class Loans:
    """Every loan that is asked for, held, or to be asked for again."""

    def __init__(self) -> None:
        self._loans: dict[str, Loan] = {}
        self._callers: dict[int, Loan] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._loans)

    # questions

    def states(self) -> Counter[str]:
        """How many loans are in each state."""
        return Counter(loan.state.value for loan in self._loans.values())

    def lent(self, model: str) -> ModelReady | None:
        """The loan on which a task may begin; None where there is none."""
        loan = self._loans.get(model)
        return loan.lent if loan is not None and loan.state is State.HELD else None

    def reason(self, model: str) -> str:
        """Why no task may begin on the model."""
        loan = self._loans.get(model)
        if loan is None:
            return f"it waits for {model}, which is about to be asked for"
        match loan.state:
            case State.RESTING:
                return f"{model} was given back to make room for a model that others waited for; it comes after that"
            case State.YIELDING:
                return f"{model} is given back when what runs on it has ended: others wait for their model"
            case _:
                return f"it waits for {model}: {loan.why}"

    # what becomes of asking

    def told(self, model: str, number: int, part: ModelProgress) -> bool:
        """How the wait goes; whether that is news."""
        loan = self._current(model, number)
        if loan is None:
            return False
        before, loan.at, loan.why = loan.why, part.host, _progress(part)
        loan.coming = part.phase != "queued"
        loan.for_card, loan.for_host = part.for_card, part.for_host
        return before != loan.why

    def granted(self, model: str, number: int, ready: ModelReady, now: float) -> bool:
        """It is on loan; whether anybody still wants that: else it is to be given back."""
        loan = self._current(model, number)
        if loan is None:
            return False
        loan.move(Move.LEND)
        loan.lent, loan.host, loan.held_since, loan.why = ready, ready.host, now, ""
        loan.sure_until = now + ready.lease.expires_in_s
        loan.of_card, loan.of_host = bool(ready.lease.card_uuid), ready.of_host
        loan.failures, loan.full, loan.pause_s, loan.quiet_since = 0, True, BATCH_S, inf
        return True

    def refused(self, model: str, number: int, error: TandemError, now: float) -> None:
        """It cannot be had for now."""
        loan = self._current(model, number)
        if loan is None:
            return
        loan.move(Move.REFUSE)
        loan.failures += 1
        loan.full, loan.coming = isinstance(error, FULL), False
        loan.why = error.message
        pause_s = min(MOST_AGAIN_S, AGAIN_S * 2.0 ** min(loan.failures - 1, _DOUBLINGS))
        loan.retry_at = now + max(pause_s, min(MOST_AGAIN_S, (error.retry_after_ms or 0) / 1000))
        if loan.quiet_since <= loan.asked_at:
            self._end_turn(loan, now)

    def renewed(self, model: str, number: int, until: float) -> None:
        """The loan lives until then at least."""
        loan = self._current(model, number)
        if loan is not None:
            loan.sure_until = until

    def lost(self, model: str, number: int, why: str, now: float) -> None:
        """The loan has ended under its tasks."""
        loan = self._current(model, number)
        if loan is not None and loan.lent is not None:
            self._lose(loan, why, now)

    def end(self) -> list[Step]:
        """Everything is given back."""
        steps = [_leave(loan) for loan in self._loans.values() if loan.state in (State.ASKING, *_OURS)]
        self._loans = {}
        return steps

    # what is to be done

    def look(self, needs: Mapping[str, Need], now: float, callers: Mapping[int, Caller] = NOBODY) -> list[Step]:
        """The steps that `needs`, by model, those who wait beside the tasks, and the time call for.

        Who has waited longest is asked for first.
        """
        self._take_in(callers)
        turns = self._turns(needs, now)
        models = sorted(needs.keys() | self._loans.keys(), key=lambda model: (needs.get(model, NOTHING).since, model))
        return [step for model in models for step in self._decide(model, needs.get(model, NOTHING), turns, now)]

    def _decide(self, model: str, need: Need, turns: Sequence[Loan], now: float) -> list[Step]:
        loan = self._loans.get(model)
        if loan is None:
            return [self._ask_first(model, need, now)] if need.free else []
        match loan.state:
            case State.ASKING | State.REFUSED | State.RESTING:
                return self._not_held(loan, need, turns, now)
            case _:
                return self._ours(loan, need, turns, now)

    def _not_held(self, loan: Loan, need: Need, turns: Sequence[Loan], now: float) -> list[Step]:
        if not need.waits and (not need.running or loan.state is State.RESTING):
            del self._loans[loan.model]
            return [_leave(loan)] if loan.state is State.ASKING else []
        if loan.state is State.RESTING:
            if _has_to_yield(loan, turns):
                return []
            loan.due_at = now + BATCH_S
        elif not _elsewhere(loan, need) and (loan.state is State.ASKING or loan.retry_at > now):
            return []
        return [self._ask(loan, need, now)] if need.free or need.running else []

    def _ours(self, loan: Loan, need: Need, turns: Sequence[Loan], now: float) -> list[Step]:
        if loan.sure_until <= now:
            self._lose(loan, "it could not be renewed in time", now)
            return []
        if not need.running and not need.unsure and (not need.waits or loan.host not in need.able):
            del self._loans[loan.model]
            return [_leave(loan), *([self._ask_first(loan.model, need, now)] if need.free else [])]
        if not _has_to_yield(loan, turns):
            if loan.state is State.YIELDING:
                loan.move(Move.KEEP)
            return []
        if loan.state is State.HELD and now - loan.held_since >= BATCH_S:
            loan.move(Move.YIELD)
        if loan.state is State.HELD or need.running:
            return []
        loan.move(Move.REST)
        step = _leave(loan)
        loan.lent = None
        return [step]

    # turns

    def _take_in(self, callers: Mapping[int, Caller]) -> None:
        for number, caller in callers.items():
            loan = self._callers.get(number)
            if loan is None:
                due_at = caller.since + CALLER_S
                loan = Loan(caller.model, State.ASKING, number, caller.host, due_at, caller.since)
                self._callers[number] = loan
            loan.at, loan.coming = caller.at, caller.coming
            loan.for_card, loan.for_host = caller.for_card, caller.for_host
        for number in self._callers.keys() - callers.keys():
            del self._callers[number]

    def _turns(self, needs: Mapping[str, Need], now: float) -> list[Loan]:
        wanted = (loan for model, loan in self._loans.items() if needs.get(model, NOTHING).waits)
        turns = []
        for loan in (*wanted, *self._callers.values()):
            if not _waits(loan) or loan.due_at > now or loan.coming:
                loan.quiet_since = inf
            elif self._goes_on(loan, now):
                turns.append(loan)
        return turns

    def _goes_on(self, turn: Loan, now: float) -> bool:
        """Whether the turn goes on; it ends when all have made room for long enough and the model did not come."""
        others = [each for each in self._loans.values() if each.is_in_the_way_of(turn)]
        if any(each.state in _OURS for each in others) or all(each.state is not State.RESTING for each in others):
            turn.quiet_since = inf
        elif turn.quiet_since == inf:
            turn.quiet_since = turn.retry_at = now
        elif now - turn.quiet_since >= BATCH_S:
            self._end_turn(turn, now)
            return False
        return True

    def _end_turn(self, loan: Loan, now: float) -> None:
        loan.due_at = now + loan.pause_s
        loan.pause_s = min(MOST_PAUSE_S, 2 * loan.pause_s)
        loan.quiet_since = inf

    # moves

    def _ask_first(self, model: str, need: Need, now: float) -> Ask:
        loan = self._loans[model] = Loan(model, State.REFUSED, 0, "", now + BATCH_S, now)
        return self._ask(loan, need, now)

    def _ask(self, loan: Loan, need: Need, now: float) -> Ask:
        loan.move(Move.ASK)
        self._number += 1
        loan.number, loan.asked_at, loan.at, loan.coming = self._number, now, "", False
        if need.free:
            loan.host = next(iter(need.free)) if len(need.free) == 1 else ""
        loan.why = loan.why or "it was asked for"
        return Ask(loan.model, loan.number, loan.host, need.priority)

    def _lose(self, loan: Loan, why: str, now: float) -> None:
        loan.move(Move.LOSE)
        loan.lent, loan.retry_at, loan.due_at = None, now + AGAIN_S, now + BATCH_S
        loan.why = f"its loan has ended: {why}"

    def _current(self, model: str, number: int) -> Loan | None:
        loan = self._loans.get(model)
        return loan if loan is not None and loan.number == number else None


_OURS: Final = (State.HELD, State.YIELDING)


def _leave(loan: Loan) -> Step:
    if loan.lent is None:
        return Desist(loan.model, loan.number)
    return GiveBack(loan.model, loan.number, loan.lent)


def _waits(loan: Loan) -> bool:
    """Whether room is what it waits for."""
    return loan.state is State.ASKING or (loan.state is State.REFUSED and loan.full)


def _elsewhere(loan: Loan, need: Need) -> bool:
    """Whether it was asked of one host alone, is not coming there, and could be used on another by now."""
    return bool(loan.host) and not loan.coming and not need.free <= {loan.host}


def _has_to_yield(loan: Loan, turns: Sequence[Loan]) -> bool:
    return any(loan.is_in_the_way_of(turn) for turn in turns)


def _progress(part: ModelProgress) -> str:
    eta = f", about {part.eta_s:.0f} s" if part.eta_s is not None else ""
    why = f": {part.reason}" if part.reason else ""
    return f"{part.phase} on {part.host}{eta}{why}"
