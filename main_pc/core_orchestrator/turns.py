"""What every turn of CoreOrchestrator rests on: the time, and events that leave after their commit and reach the twin.

It decides nothing about agents or requests.
"""

from __future__ import annotations

from collections.abc import Callable

from common.api.words import Message, Topic
from common.service.shell import Shell
from common.wire.events import EventHeader
from main_pc.core_orchestrator.twin import TwinView


class Turns:
    """The common ground of the service's parts; `now` is monotonic seconds, `at` the same moment in RFC 3339."""

    def __init__(self, shell: Shell, twin: TwinView, load: Callable[[], None]) -> None:
        self._shell = shell
        self._twin = twin
        shell.journal.rebuild = load
        self.now = shell.clock.monotonic
        self.at = shell.clock.timestamp

    def publish(self, topic: Topic, entity: str, event: Message) -> None:
        """Publish after the turn's commit, never if it fails, and show it in the twin."""
        self._shell.publisher.publish(topic, entity, event)
        self._shell.journal.hold(lambda failure: self._fold(topic, entity, event) if failure is None else None)

    def _fold(self, topic: Topic, entity: str, event: Message) -> None:
        last = self._shell.publisher.cursor(topic.name)
        header = EventHeader(last.epoch, last.seq, self.at(), entity)
        self._twin.fold(self._shell.settings.service, topic.name, header, event, self.now())
