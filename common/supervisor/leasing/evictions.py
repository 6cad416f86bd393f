"""The evictions of one host: decided by its lease table, carried out by the evictor, and written down when they have ended.

ResourceManager asks for room here, holders say here whether their leases are in use. What a restart or a failed commit left
unfinished is begun again, for an expiring lease is never revived; what came of an eviction while nothing could be written is
kept until it can be. It decides nothing of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from common.api import leases, supervisor
from common.api.decisions import Rung
from common.api.leases import LeaseChanged, LeaseMarked, MarkLease
from common.api.supervisor import MakeRoom, RoomPromised
from common.errors import StorageUnavailable
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.leasing.evicting import Evictor
from common.supervisor.leasing.footprints import Learning
from common.supervisor.leasing.metrics import EvictionFigures
from common.supervisor.leasing.parking import Parking
from common.supervisor.leasing.rung_acts import FindUnloader
from common.supervisor.leasing.sampling import Look
from common.supervisor.leasing.waiting import Seat
from common.supervisor.leasing.writer import LeaseWriter
from common.vram.cards import ProcessId
from common.vram.ladder import Outcome
from common.vram.lease_decision import Decision, EvictionOrder
from common.vram.lease_room import PATIENCE_S
from common.vram.placement import Candidate
from common.vram.rungs import LadderPolicy

AGAIN_S: Final = 1.0
SOONEST_S: Final = 0.02
"""Way is made anew for a caller at most this often; once a lease has become idle, which may help, the second."""


class Evictions:
    """What the table wants evicted; `record` writes a decision down, `look_soon` has the cards looked at without delay.

    `serve_soon` has the line tried: the look that ended an eviction shows what it gave back, and no other is waited for.
    """

    def __init__(
        self,
        shell: Shell,
        writer: LeaseWriter,
        record: Callable[[Decision], object],
        look_soon: Callable[[], None],
        serve_soon: Callable[[], None],
        unloader: FindUnloader,
        policy: LadderPolicy,
        learning: Learning,
    ) -> None:
        self._shell = shell
        self._writer = writer
        self._record = record
        self._serve_soon = serve_soon
        self._learning = learning
        self._figures = EvictionFigures()
        self._now = shell.clock.monotonic
        self._parking = Parking(writer)
        self._evictor = Evictor(shell, look_soon, self._ended, unloader, policy, self._parking.refuses)
        self._unwritten: list[tuple[EvictionOrder, Outcome, list[Rung]]] = []
        self._idled_at = float("-inf")
        self._retry: asyncio.TimerHandle | None = None
        writer.listeners.append(self._heard)

    def __len__(self) -> int:
        return len(self._evictor)

    def add_routes(self) -> None:
        """Serves make_room and mark_lease."""
        self._shell.handle(supervisor.MAKE_ROOM, self._make_room)
        self._shell.handle(leases.MARK_LEASE, self._mark)
        self._figures.show(self._shell.metrics)

    def begin(self, order: EvictionOrder) -> None:
        """Has these leases' memory taken back."""
        self._evictor.evict(order)

    def concerns(self, owner: ProcessId) -> bool:
        """Whether an eviction from this owner is under way or not written down yet, which tells of its end as well."""
        return self._evictor.concerns(owner) or any(order.owner == owner for order, _, _ in self._unwritten)

    def resume(self) -> None:
        """Writes down what could not be before, and begins what has to go and is not under way.

        That was left by an earlier life, or by a commit that failed.
        """
        unwritten, self._unwritten = self._unwritten, []
        for order, outcome, rungs in unwritten:
            self._ended(order, outcome, rungs)
        if self._unwritten:
            return
        for pending in self._writer.table.pending_evictions():
            self._evictor.evict(pending.order)

    def make_way(self, seat: Seat, kept: Collection[str], *, draining: bool) -> None:
        """Has leases go for a caller that waits, where that helps, and keeps for it what they give back.

        `kept` are cards kept for others; with `draining` also leases in use go, when their use ends.
        """
        now = self._now()
        idled = self._idled_at >= seat.way_at
        if (early_s := seat.way_at + (SOONEST_S if idled else AGAIN_S) - now) > 0:
            if idled:
                self._serve_within(early_s)
            return
        seat.way_at = now
        self._writer.see_ram()
        at = self._shell.clock.timestamp()
        queued = self._learning.queued()
        decision = self._writer.table.evict_for(seat.asked, now, at, PATIENCE_S, kept, queued, draining=draining)
        if isinstance(decision.reply, RoomPromised):
            self._record(decision)

    def forget_way(self, seat: Seat) -> None:
        """The caller waits no more, and nothing is kept for it; what goes for it goes all the same."""
        self._record(self._writer.table.forget_room(seat.asked.lease_id))

    def rooms(self) -> dict[str, list[Candidate]]:
        """Per lease id for which room was made, those cards as it sees them."""
        table, now = self._writer.table, self._now()
        return {
            lease_id: [card for card in table.candidates(now, lease_id) if card.uuid in uuids]
            for lease_id, uuids in table.reserved().items()
        }

    def looked(self, look: Look) -> None:
        """Takes in a look at the cards."""
        self._evictor.looked(look)

    async def close(self) -> None:
        """Leaves what is under way to the next life."""
        if self._retry is not None:
            self._retry.cancel()
        await self._evictor.close()

    def _heard(self, change: LeaseChanged) -> None:
        """A lease that nobody uses any more may go for somebody who waits."""
        lease = change.lease
        if change.change == "marked" and lease.state == "held" and not lease.in_use:
            self._idled_at = self._now()
            self._serve_soon()

    def _serve_within(self, seconds: float) -> None:
        """Has the line tried then, once, however many wait for that."""
        if self._retry is None:
            self._retry = self._shell.loop.call_later(seconds, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._serve_soon()

    def _make_room(self, asked: MakeRoom, _call: Call) -> RoomPromised:
        self._writer.make_sound()
        self._writer.see_ram()
        planned, at = self._learning.room(asked), self._shell.clock.timestamp()
        reply = self._record(self._writer.table.make_room(planned, self._now(), at))
        assert isinstance(reply, RoomPromised)
        return reply

    def _mark(self, asked: MarkLease, _call: Call) -> LeaseMarked:
        self._writer.make_sound()
        reply = self._record(self._writer.table.mark(asked, self._now(), self._shell.clock.timestamp()))
        assert isinstance(reply, LeaseMarked)
        return reply

    def _ended(self, order: EvictionOrder, outcome: Outcome, rungs: list[Rung]) -> None:
        """Writes down what came of it; where nothing can be written now, `resume` comes back to it."""
        self._parking.over(order)
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            self._unwritten.append((order, outcome, rungs))
            return
        self._figures.ended[outcome.rung, outcome.kind] += 1
        self._figures.expected_bytes += order.expected_bytes
        self._figures.returned_bytes += outcome.returned_bytes
        self._shell.log.info("eviction of %s: %s, %s", ", ".join(order.lease_ids), outcome.kind, outcome.reason)
        if outcome.kind == "parked":
            for lease_id in order.lease_ids:
                self._record(self._parked(order, lease_id, outcome, rungs))
        else:
            self._record(self._over(order, outcome, rungs))
        self._serve_soon()

    def _parked(self, order: EvictionOrder, lease_id: str, outcome: Outcome, rungs: list[Rung]) -> Decision:
        """Of several leases each keeps its part."""
        parts = len(order.lease_ids)
        left, moved = outcome.left_bytes // parts, outcome.returned_bytes // parts
        at = self._shell.clock.timestamp()
        return self._writer.table.parked(lease_id, left, moved, rungs, self._now(), at)

    def _over(self, order: EvictionOrder, outcome: Outcome, rungs: list[Rung]) -> Decision:
        table, now, at = self._writer.table, self._now(), self._shell.clock.timestamp()
        if outcome.kind == "evicted":
            return table.evicted(order.lease_ids, rungs, outcome.returned_bytes, now, at)
        return table.quarantined(order.lease_ids, outcome.left_bytes, rungs, now, at)
