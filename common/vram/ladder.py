"""How VRAM is taken back from one owner on one card: rung by rung, each bounded, each proven by a look at the card.

What an owner answers is a claim and only recorded. A rung is done when a look that began after its act shows the owner's bytes
gone, down to what it may keep. Where the driver hides processes the card's free bytes must have risen instead, and the outcome
says `unverified`. A look that failed shows nothing. Free bytes are compared with their sign, so that falling ones are no success.
Of an owner that was shown to hold nothing, no look can show that it gave anything back, and its load may be on the way: it is
watched until the rung's time is over.
Of an owner that is being ended the end is waited for as well, for alive it may take what it does not hold yet. One that ends by
itself is climbed no further: its bytes go, or are quarantined. Whatever happens, the ladder ends within the
sum of its bounds (common/vram/rungs.py). It acts on nothing: it says what to do, and is told what came of it.

    ladder = Ladder(target, policy, now)
    perform(ladder.begin())                    the first rung
    perform(ladder.step(event, now))           whatever happened; a Tick at `next_at`, and as often as the card may be looked at
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from common.api.decisions import Rung, RungName
from common.vram.amount import amount
from common.vram.cards import ProcessId
from common.vram.rungs import DEFAULT, ENDING, KEEPING, LadderPolicy

Kind: TypeAlias = Literal["evicted", "parked", "quarantined"]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is to come back, from whom, and by which rungs (rungs.rungs_for).

    `held_bytes` is what the last look showed the owner to hold on the card, None where its processes are hidden; `free_bytes`
    what that look showed free, None where there was none. `keep_bytes` are its other leases on the card, `residual_bytes` what it
    may keep asleep. `ask_s` is the owner's own time for an answer.
    """

    owner: ProcessId | None
    rungs: tuple[RungName, ...]
    expected_bytes: int
    held_bytes: int | None
    free_bytes: int | None
    keep_bytes: int = 0
    residual_bytes: int = 0
    ask_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Answered:
    """The act of a rung is over: done or not, in the words of whoever did it."""

    rung: RungName
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Looked:
    """A look that began at `began_at`: the owner's bytes (None: hidden) and the card's free ones (None: the look failed)."""

    began_at: float
    owner_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class OwnerGone:
    """No process of the owner lives any more."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = Answered | Looked | OwnerGone | Tick


@dataclass(frozen=True, slots=True)
class Act:
    """Do what the rung says, and tell `Answered`."""

    rung: RungName


@dataclass(frozen=True, slots=True)
class Look:
    """Have the card looked at soon, and tell `Looked`."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the eviction, by which rung; what came back, and what stays with the owner beyond what it may keep.

    `verified` is False where only the card's free bytes told so.
    """

    kind: Kind
    rung: RungName
    returned_bytes: int
    left_bytes: int
    verified: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The ladder has ended; nothing follows."""

    outcome: Outcome


Action: TypeAlias = Act | Look | Finish


@dataclass(slots=True)
class _Step:
    """One rung, under way or over; bytes are what the owner was shown to hold before and after its act."""

    rung: RungName
    began_at: float
    due: float
    before: int
    after: int
    verified: bool
    answered: bool = False
    refused_at: float | None = None
    claimed: str = ""
    seen: bool = False
    freed: bool = False
    freed_at: float = 0.0
    took_s: float = 0.0

    def report(self) -> Rung:
        unseen = "" if self.seen else "no look at the card followed"
        return Rung(
            rung=self.rung,
            claimed="; ".join(filter(None, (self.claimed, unseen))),
            took_s=self.took_s,
            bytes_before=self.before,
            bytes_after=self.after,
            outcome=self._outcome(),
            verified=self.verified,
        )

    def _outcome(self) -> Literal["freed", "part", "nothing", "failed"]:
        if self.freed:
            return "freed"
        if self.after < self.before:
            return "part"
        return "nothing" if self.answered and self.refused_at is None and self.seen else "failed"


class Ladder:
    """One climb; events in, actions out. Times are readings of one monotonic clock, in seconds."""

    def __init__(self, target: Target, policy: LadderPolicy = DEFAULT, now: float = 0.0) -> None:
        self.target = target
        self.outcome: Outcome | None = None
        self.next_at = now
        self._policy = policy
        self._now = now
        self._steps: list[_Step] = []
        self._to_climb = list(target.rungs)
        self._gone = False
        self._shown = target.expected_bytes if target.held_bytes is None else target.held_bytes
        self._first = self._most = self._shown
        self._verified = target.held_bytes is not None

    def begin(self) -> tuple[Action, ...]:
        """The first rung, before any event; the end at once where the owner has none."""
        return self._climb()

    def step(self, event: Event, now: float) -> tuple[Action, ...]:
        """What follows from the event; nothing once the ladder has ended."""
        if self.outcome is not None:
            return ()
        self._now = now
        match event:
            case Answered():
                return self._answered(event)
            case Looked():
                return self._looked(event)
            case OwnerGone():
                return self._owner_gone()
            case _:
                return self._ticked()

    def rungs(self) -> list[Rung]:
        """Every rung so far, in order, as receipts show it; a quarantine with the bytes that stay."""
        found = [step.report() for step in self._steps]
        if self.outcome is not None and self.outcome.kind == "quarantined":
            left = self.outcome.left_bytes
            last = Rung(
                rung="quarantine",
                claimed=self.outcome.reason,
                took_s=0.0,
                bytes_before=left,
                bytes_after=left,
                outcome="nothing",
                verified=self._verified,
            )
            found.append(last)
        return found

    def _climb(self) -> tuple[Action, ...]:
        """The next rung, or the quarantine where there is none."""
        if not self._to_climb or self._gone:
            return self._finish("quarantined", "quarantine")
        rung = self._to_climb.pop(0)
        due = self._now + self._policy.answer_s(rung, self.target.ask_s)
        self._steps.append(_Step(rung, self._now, due, self._shown, self._shown, self._verified))
        self.next_at = due
        return Act(rung), Look()

    def _answered(self, event: Answered) -> tuple[Action, ...]:
        step = next((one for one in self._steps if one.rung == event.rung and not one.answered), None)
        if step is None:
            return ()
        step.answered = True
        step.refused_at = None if event.ok else self._now
        step.claimed = event.text if step is self._steps[-1] else f"{event.text} (after its time)"
        if step is not self._steps[-1] or self._gone:
            return ()
        if step.freed and event.ok and not self._held_nothing(step):
            return self._freed(step)
        self._wait(step, self._policy.settle_s(step.rung) if event.ok else self._policy.look_s)
        return (Look(),)

    def _looked(self, event: Looked) -> tuple[Action, ...]:
        step = self._steps[-1]
        shown = self._shown_by(event)
        if shown is None:
            return ()
        self._most = max(self._most, shown)
        if event.began_at <= step.began_at:
            return ()
        self._shown = step.after = shown
        self._verified = step.verified = event.owner_bytes is not None
        freed = shown <= self._allowed(step.rung)
        if freed and not step.freed:
            step.freed_at = self._now
        step.seen, step.freed = True, freed
        if freed:
            return self._freed(step)
        if step.refused_at is not None and event.began_at > step.refused_at and not self._gone:
            return self._given_up(step)
        return ()

    def _owner_gone(self) -> tuple[Action, ...]:
        if not self._gone:
            self._gone = True
            self._wait(self._steps[-1], self._policy.verify_s)
        return (Look(),)

    def _ticked(self) -> tuple[Action, ...]:
        step = self._steps[-1]
        if self._now < step.due and not self._says_nothing(step):
            return (Look(),)
        if not step.answered:
            step.claimed = f"no answer within {self._now - step.began_at:.1f} s"
        done = step.freed and (self._gone or step.rung not in ENDING or not self._to_climb)
        return self._end_as(step, self._kind(step)) if done else self._given_up(step)

    def _wait(self, step: _Step, seconds: float) -> None:
        step.due = self.next_at = self._now + seconds

    def _given_up(self, step: _Step) -> tuple[Action, ...]:
        step.took_s = self._now - step.began_at
        return self._climb()

    def _freed(self, step: _Step) -> tuple[Action, ...]:
        """The bytes are gone. Whether the weights are kept only the owner can say, so its answer is waited for.

        One that unloads has a moment for its answer too, which is on its way: who leaves now would cut it short in its work.
        Of one that is being ended the end is waited for: alive, it may yet take what it does not hold.
        """
        if self._gone:
            return self._end_as(step, "evicted")
        if step.rung in ENDING or not step.answered or self._held_nothing(step):
            return ()
        return self._end_as(step, self._kind(step))

    def _kind(self, step: _Step) -> Kind:
        """What a freed step came to: the weights are kept where the owner, which lives, has said so."""
        kept = step.rung in KEEPING and step.answered and step.refused_at is None and not self._gone
        return "parked" if kept else "evicted"

    def _held_nothing(self, step: _Step) -> bool:
        """Whether there was nothing to be seen going, so that its absence shows nothing of what the owner did."""
        return self._most <= self._allowed(step.rung)

    def _says_nothing(self, step: _Step) -> bool:
        """Whether an owner that unloaded had its moment to say so."""
        hushed = step.freed and not step.answered and step.rung == "unload" and not self._held_nothing(step)
        return hushed and self._now - step.freed_at >= self._policy.claim_s

    def _end_as(self, step: _Step, kind: Kind) -> tuple[Action, ...]:
        step.took_s = self._now - step.began_at
        return self._finish(kind, step.rung)

    def _finish(self, kind: Kind, rung: RungName) -> tuple[Action, ...]:
        left = max(0, self._shown - self._kept)
        self.outcome = Outcome(
            kind=kind,
            rung=rung,
            returned_bytes=max(0, self._first - self._shown),
            left_bytes=left,
            verified=self._verified,
            reason=self._reason(kind, rung, left),
        )
        return (Finish(self.outcome),)

    def _reason(self, kind: Kind, rung: RungName, left: int) -> str:
        doubt = "" if self._verified else "; unverified: its processes are hidden, so the card's free bytes told it"
        if kind != "quarantined":
            how = "its owner ended by itself" if self._gone and rung not in ENDING else f"by {rung}"
            return f"{how}{doubt}"
        tried = ", ".join(step.rung for step in self._steps) or "nothing, for nothing could be tried"
        why = "though its owner has ended" if self._gone else f"after {tried}"
        return f"{amount(left)} stay {why}{doubt}"

    def _shown_by(self, look: Looked) -> int | None:
        """What the look shows the owner to hold; None where it shows nothing of that."""
        if look.free_bytes is None or look.owner_bytes is not None:
            return None if look.free_bytes is None else look.owner_bytes
        if self.target.free_bytes is None:
            return None
        risen = look.free_bytes - self.target.free_bytes
        return min(self.target.expected_bytes, max(0, self.target.expected_bytes - risen))

    def _allowed(self, rung: RungName) -> int:
        """The most that the owner may be shown to hold for the rung to be done."""
        target, noise = self.target, self._policy.noise_bytes(self.target.expected_bytes)
        if rung in ENDING or self._gone:
            return self._kept if self._verified else noise
        return self._kept + target.residual_bytes + noise

    @property
    def _kept(self) -> int:
        """What is the owner's for other leases; what the card's free bytes tell leaves those out."""
        return self.target.keep_bytes if self._verified else 0
