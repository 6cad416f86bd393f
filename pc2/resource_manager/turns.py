"""What every turn of ResourceManager rests on: an event goes to the planner, its facts are committed, then it is carried out.

When the commit fails nothing is carried out; the planner takes the decision back and says what follows from that. So memory and
store agree without a rebuild. It decides nothing about leases.
"""

from __future__ import annotations

from collections.abc import Callable

from common.api.leases import LeaseGranted
from common.errors import StorageUnavailable
from common.service.shell import Shell
from pc2.resource_manager.events import Event, Tick
from pc2.resource_manager.instructions import Decision, Instruction, Reply
from pc2.resource_manager.intents import rows
from pc2.resource_manager.planner import Planner


class Turns:
    """The planner on its loop; `perform` carries out one instruction and must not wait."""

    def __init__(self, shell: Shell, planner: Planner, perform: Callable[[Instruction], None]) -> None:
        self._shell = shell
        self._planner = planner
        self._perform = perform
        self.now = shell.clock.monotonic
        self.at = shell.clock.timestamp

    def tell(self, event: Event) -> None:
        """Something happened."""
        self._take(self._planner.handle(event, self.now(), self.at()))

    def tick(self) -> None:
        """Time has passed. What is open is committed first: the planner's sweep must not overtake it."""
        self._shell.journal.commit()
        self.tell(Tick())

    def undelivered(self, call: str, granted: LeaseGranted) -> None:
        """A lease was granted and its caller will not hear of it: it waits for a retry under its key, or is given back."""
        self._take_back(Decision(instructions=(Reply(call, granted),)))

    def _take(self, decision: Decision) -> None:
        if decision.facts:
            self._shell.journal.write([change for fact in decision.facts for change in rows(fact)])
        if decision.instructions:
            self._shell.journal.hold(lambda failure: self._committed(decision, failure))

    def _committed(self, decision: Decision, failure: StorageUnavailable | None) -> None:
        if failure is not None:
            self._take_back(decision)
            return
        for instruction in decision.instructions:
            self._perform(instruction)

    def _take_back(self, decision: Decision) -> None:
        self._take(self._planner.undo(decision, self.now(), self.at()))
