"""Those who wait for a host's models, in the queue for loading: in it while a load could begin for them, out of it meanwhile.

One load at a time per card, joins, batches and ageing are the queue's (common/vram/loading.py). Models that take no VRAM are
never in it: they wait for no card.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.supervisor.models.managed import Managed
from common.supervisor.models.telling import InLine
from common.vram.footprint import Footprints
from common.vram.loading import Load, LoadQueue
from common.vram.residency import Residency


class LoadingLine:
    """One host's; `footprints` are what has been learned of its models."""

    def __init__(self, footprints: Footprints) -> None:
        self._footprints = footprints
        self._queue = LoadQueue()
        self._residency: Residency | None = None

    def join(self, managed: Managed, now: float) -> None:
        """Those who wait for the model are in the queue, with what it needs now."""
        if managed.model.vram and managed.no_room_until <= now:
            for asked in managed.waiting.values():
                self._queue.ask(managed.load_asked(asked, self._footprints))

    def leave(self, ticket: str) -> None:
        """One is in it no more; no matter if it was not."""
        self._queue.withdraw(ticket)

    def withdraw(self, managed: Managed) -> None:
        """Those who wait for the model are in it no more, until it may be loaded again."""
        for ticket in managed.waiting:
            self._queue.withdraw(ticket)

    def next(self, residency: Residency, now: float) -> Load | None:
        """The load that may begin now; `residency` shows the cards as they are."""
        self._residency = residency
        return self._queue.next(residency, now)

    def begin(self, managed: Managed, load: Load, residency: Residency, now: float) -> None:
        """The load begins: its card loads, and those go who are in its way."""
        until = now + managed.seconds(self._footprints)[0]
        self._queue.started(load, until)
        residency.loading(load.card.uuid, until)
        for lease_id in load.victims:
            residency.evict(load.card.uuid, lease_id, now)

    def over(self, managed: Managed, *, loaded: bool) -> None:
        """The load under way, if there is one, is over."""
        begun, managed.begun = managed.begun, None
        if begun is None or not begun.card_uuid:
            return
        if loaded:
            self._queue.loaded(managed.key, begun.card_uuid)
        else:
            self._queue.failed(managed.key, begun.card_uuid)

    def standing(self, ticket: str, models: Iterable[Managed], now: float) -> InLine:
        """How it stands with one who waits."""
        loading = tuple(each.model.name for each in models if each.begun is not None)
        if ticket not in self._queue or self._residency is None:
            return InLine(loading, None)
        return InLine(loading, self._queue.outlook(ticket, self._residency, now))
