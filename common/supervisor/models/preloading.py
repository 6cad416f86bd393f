"""Models loaded without anybody who asks: where there is room, and for nobody who would have to go."""

from __future__ import annotations

from typing import Final

from common.api.words import DEFAULT_PRIORITY
from common.errors import TandemError
from common.service.shell import Shell
from common.supervisor.models.managed import Asked, Managed
from common.supervisor.models.roster import Roster

PRELOAD_S: Final = 60.0
"""How long a model that is to be preloaded waits for room."""


class Preloading:
    """One host's."""

    def __init__(self, shell: Shell, roster: Roster) -> None:
        self._log = shell.log
        self._now = shell.clock.monotonic
        self._roster = roster

    def preload(self, managed: Managed) -> None:
        """Has the model loaded where there is room within PRELOAD_S."""
        now, name = self._now(), managed.model.name
        wanted = Asked(
            ticket=f"preload {name}",
            model=name,
            priority=DEFAULT_PRIORITY,
            asked_at=now,
            deadline=now + PRELOAD_S,
            preload=True,
        )
        try:
            self._roster.ask(wanted, "", now)
        except TandemError as error:
            self._log.warning("model %s is not preloaded: %s", name, error.message)
