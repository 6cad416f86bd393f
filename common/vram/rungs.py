"""The rungs by which VRAM is taken back: which of them an owner has, in what order, and how long each may take.

    sleep, unload -> checkpoint -> stop -> term -> kill -> quarantine

It decides which rungs there are; when one is left for the next is the ladder's business (common/vram/ladder.py).
"""

from __future__ import annotations

from typing import Final

import msgspec

from common.api.decisions import RungName
from common.vram.amount import MIB

ASKED: Final[tuple[RungName, ...]] = ("sleep", "unload")
"""The rungs that ask the owner itself; the only ones where no process of it is known."""
ENDING: Final[tuple[RungName, ...]] = ("stop", "term", "kill")
"""The rungs that end its processes."""
KEEPING: Final[tuple[RungName, ...]] = ("sleep", "checkpoint")
"""The rungs after which the weights are in host RAM."""


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What can be done about an owner.

    `not_parked` says why its weights may not stay in host RAM (empty: they may). `spared` says why its processes must live on,
    such as for another lease of theirs (empty: they may be ended).
    """

    known: bool
    sleep: bool = False
    unload: bool = False
    checkpoint: bool = False
    stop: bool = False
    not_parked: str = ""
    spared: str = ""


def rungs_for(means: Means) -> tuple[RungName, ...]:
    """The rungs in order, without the quarantine that is always last.

    Where the weights may not stay in host RAM nobody is put to sleep. An owner with several leases is never frozen or ended for
    one of them.
    """
    free_to_end = means.known and not means.spared
    there: dict[RungName, bool] = {
        "sleep": means.sleep and not means.not_parked,
        "unload": means.unload,
        "checkpoint": means.checkpoint and free_to_end and not means.not_parked,
        "stop": means.stop and free_to_end,
        "term": free_to_end,
        "kill": free_to_end,
    }
    return tuple(rung for rung, exists in there.items() if exists)


class LadderPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of the rungs, in seconds, and what counts as noise.

    A rung has its own time to be answered, then `verify_s` to be seen done (`term_s` after TERM, `kill_s` after KILL). One that
    failed is looked at once more, within `look_s`. Where an owner does not say how long it takes to answer it has `ask_s`, and
    `longest_ask_s` where it says more; once the bytes of one that unloads are gone, `claim_s` at most. `tolerance_bytes`, and at
    most `tolerance_fraction` of what is expected, may stay with a process that lives on (its CUDA context), or be missing where
    only the card's free bytes speak.
    """

    ask_s: float = 10.0
    longest_ask_s: float = 60.0
    checkpoint_s: float = 60.0
    stop_s: float = 20.0
    signal_s: float = 2.0
    verify_s: float = 5.0
    term_s: float = 10.0
    kill_s: float = 10.0
    look_s: float = 2.0
    claim_s: float = 1.0
    tolerance_bytes: int = 512 * MIB
    tolerance_fraction: float = 0.25

    def answer_s(self, rung: RungName, ask_s: float) -> float:
        """How long the rung's act may take; `ask_s` is the owner's own time for an answer."""
        if rung in ASKED:
            return ask_s
        return {"checkpoint": self.checkpoint_s, "stop": self.stop_s}.get(rung, self.signal_s)

    def settle_s(self, rung: RungName) -> float:
        """How long after its act the bytes may take to go."""
        return {"term": self.term_s, "kill": self.kill_s}.get(rung, self.verify_s)

    def longest_s(self, rungs: tuple[RungName, ...], ask_s: float) -> float:
        """The sum of the bounds: no later than this after its beginning a ladder of these rungs has ended."""
        return self.verify_s + sum(self.answer_s(rung, ask_s) + self.settle_s(rung) for rung in rungs)

    def noise_bytes(self, expected_bytes: int) -> int:
        """What may stay or be missing without meaning anything."""
        return min(self.tolerance_bytes, int(expected_bytes * self.tolerance_fraction))


DEFAULT: Final = LadderPolicy()
