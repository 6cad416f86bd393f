"""Whether a host's first start is over, and what failed of it; hears what happens to each process and asks nobody.

Every enabled process is to be ready, or to have stopped after it was. One has failed that ended for good before, is
crash-looping, or was not ready within `ready_within_s` of its first launch, restarts included. The start is over when nothing
is missing, or when something failed and nothing that was launched can become ready any more: what still waits then waits for
what failed, or for another host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common.supervisor.desk import Standing
from common.supervisor.instructions import Changed, Instruction, Launch

Verdict = Literal["starting", "ready", "failed"]


class FirstStart:
    """The first start of one host's processes."""

    def __init__(self) -> None:
        self._launched_at: dict[str, float] = {}
        self._was_ready: set[str] = set()

    def note(self, instruction: Instruction, at: float) -> None:
        """Takes in what the desk wants done."""
        match instruction:
            case Launch(name):
                self._launched_at.setdefault(name, at)
            case Changed(name=name, now="ready"):
                self._was_ready.add(name)

    def verdict(self, standings: Sequence[Standing], at: float) -> Verdict:
        """How the start stands at `at`."""
        missing = self.missing(standings)
        if not missing:
            return "ready"
        failed = [one for one in missing if self._failed(one, at)]
        trying = [one for one in missing if one.life and one not in failed]
        return "failed" if failed and not trying else "starting"

    def missing(self, standings: Sequence[Standing]) -> list[Standing]:
        """The enabled processes that are not ready, jobs that were and have ended aside."""
        return [one for one in standings if one.entry.enabled and one.phase != "ready" and not self._was_job(one)]

    def _was_job(self, one: Standing) -> bool:
        return one.phase == "stopped" and one.entry.name in self._was_ready

    def _failed(self, one: Standing, at: float) -> bool:
        if one.phase == "crash-looping" or (one.phase == "stopped" and one.life):
            return True
        launched_at = self._launched_at.get(one.entry.name)
        return launched_at is not None and at >= launched_at + one.entry.health.ready_within_s
