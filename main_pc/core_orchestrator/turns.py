"""What every turn of CoreOrchestrator rests on: leave to decide, and events that leave after their commit and reach the twin.

A turn decides on memory, so it begins only where memory and store agree. While the store takes nothing, every change is refused
at once instead of being tried, since each failed commit costs a rebuild; the store is probed until it takes something again.
Where not even the rebuild succeeded, memory holds what was never made durable, and what must be true is not told from it.

It decides nothing about agents or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.api.words import Message, Topic
from common.errors import StorageUnavailable
from common.service.shell import Shell
from common.wire.events import EventHeader
from main_pc.core_orchestrator.twin import TwinView

RETRY_AFTER_MS: Final = 1_000


class Turns:
    """The common ground of the service's parts; `now` is monotonic seconds, `at` the same moment in RFC 3339."""

    def __init__(self, shell: Shell, twin: TwinView, load: Callable[[], None]) -> None:
        self._shell = shell
        self._twin = twin
        self._load = load
        self._sound = True
        shell.journal.rebuild = self.rebuild
        self.now = shell.clock.monotonic
        self.at = shell.clock.timestamp

    @property
    def able(self) -> bool:
        """Whether a change may be decided now."""
        return not self._shell.journal.problem

    def begin(self) -> None:
        """Leave to decide a change; StorageUnavailable while the store takes none."""
        if not self.able:
            raise StorageUnavailable(self._shell.journal.problem, retry_after_ms=RETRY_AFTER_MS)

    def look(self) -> None:
        """Leave to tell what must be durable; StorageUnavailable while memory could not be rebuilt after a failed commit."""
        if not self._sound:
            self.begin()

    def rebuild(self) -> None:
        """Load memory from the store; StorageUnavailable when it cannot be read."""
        self._sound = False
        self._load()
        self._sound = True

    def probe(self) -> None:
        """While the store takes nothing: try it, and let changes be decided again once it does; called twice a second."""
        journal = self._shell.journal
        if self.able:
            return
        try:
            self._shell.store.check()
            journal.write(())  # rebuilds memory if that could not be done when the commit failed
        except StorageUnavailable as error:
            journal.problem = error.message
        else:
            journal.problem = ""

    def publish(self, topic: Topic, entity: str, event: Message) -> None:
        """Publish after the turn's commit, never if it fails, and show it in the twin."""
        self._shell.publisher.publish(topic, entity, event)
        self._shell.journal.hold(lambda failure: self._fold(topic, entity, event) if failure is None else None)

    def _fold(self, topic: Topic, entity: str, event: Message) -> None:
        last = self._shell.publisher.cursor(topic.name)
        header = EventHeader(last.epoch, last.seq, self.at(), entity)
        self._twin.fold(self._shell.settings.service, topic.name, header, event, self.now())
