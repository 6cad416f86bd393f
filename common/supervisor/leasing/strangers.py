"""Programs without a lease on this host's cards: after each look those that grow are yielded to, and what went may come back.

The rules decide (common/vram/yielding.py), the table's writer has the leases go, and a card whose memory a stranger is taking
takes no new lease meanwhile. That there is room again is told as `may-return` of `leases.changed`, and to `back`, which has the
host's own engines loaded again; the receipt of a return names the program. Nothing here knows how to signal a stranger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from common.api.decisions import Receipt
from common.api.leases import Lease, LeaseChanged
from common.errors import StorageUnavailable
from common.service.shell import Shell
from common.supervisor.leasing.sampling import Look
from common.supervisor.leasing.writer import LeaseWriter
from common.vram.amount import amount
from common.vram.yielding import BringBack, CardLook, Park, Yielding, look_of


def nobody(_: Lease) -> None:
    """Runs no engine that could be loaded again."""


class Strangers:
    """One host's peace with its strangers: `away` made way and are not back, `back` hears for whom there is room again."""

    def __init__(self, shell: Shell, writer: LeaseWriter, look_soon: Callable[[], None]) -> None:
        self.back: Callable[[Lease], None] = nobody
        self.away = 0
        self._shell = shell
        self._writer = writer
        self._look_soon = look_soon
        self._cards: defaultdict[str, Yielding] = defaultdict(Yielding)
        self._away: dict[str, Lease] = {}
        self._returning: dict[str, str] = {}
        writer.remark = self._remark

    def looked(self, look: Look) -> None:
        """Takes in a look that the writer has measured."""
        now, table = self._shell.clock.monotonic(), self._writer.table
        leases = table.leases(now)
        samples = {sample.uuid: sample for sample in look.samples}
        for card in table.cards(now):
            uuid = card.card_uuid
            # Whose lease ended while it was looked at is no stranger; the next look tells.
            if (sample := samples.get(uuid)) is not None and not self._writer.settling.concerns(uuid):
                weighs = card.strangers or self._cards[uuid].away
                residents = table.residents(uuid, now) if weighs else ()
                uses = {use.pid: use.used_bytes or 0 for use in sample.processes or ()}
                gone = look.families.gone
                seen = look_of(card, leases, residents, look.began_at, sample.problem, uses, gone)
                self._yield(uuid, seen, leases)
        self._forget_those_back(leases)
        self._close()

    def _yield(self, uuid: str, look: CardLook, leases: Sequence[Lease]) -> None:
        yielding = self._cards[uuid]
        said = yielding.look(look, self._writer.table.horizon.seconds)
        self._park(yielding, [each for each in said if isinstance(each, Park)], leases)
        for each in said:
            if isinstance(each, BringBack):
                self._tell(each)

    def _park(self, yielding: Yielding, parks: Sequence[Park], leases: Iterable[Lease]) -> None:
        if not parks:
            return
        names, at = {each.resident.lease_id for each in parks}, self._shell.clock.timestamp()
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            for name in names:
                yielding.forget(name)  # nobody asked it to go: the next look chooses anew
            return
        self._writer.see_ram()
        now, reason = self._shell.clock.monotonic(), parks[0].reason
        self._away |= {lease.lease_id: lease for lease in leases if lease.lease_id in names}
        self._writer.record(self._writer.table.evict(tuple(sorted(names)), reason, now, at, yielded=True))

    def _tell(self, back: BringBack) -> None:
        reason = f"{amount(back.resident.bytes)} fit again: {back.cause}"
        self._shell.log.info("lease %s of %s: %s", back.resident.lease_id, back.resident.model, reason)
        lease = self._away.get(back.resident.lease_id)
        if lease is not None:
            self._returning[lease.model] = f"returned after {back.cause}"
            self._writer.tell(LeaseChanged(change="may-return", lease=lease, reason=reason))
            self.back(lease)

    def _remark(self, receipt: Receipt) -> Receipt:
        """The receipt; that of the return of what had made way says after what it returned."""
        comes = receipt.decision == "unparked" or (receipt.decision == "granted" and receipt.need_bytes > 0)
        if not comes or receipt.model not in self._returning:
            return receipt
        return msgspec.structs.replace(receipt, reason=f"{receipt.reason}; {self._returning.pop(receipt.model)}")

    def _forget_those_back(self, leases: Sequence[Lease]) -> None:
        """Whose model has been leased anew meanwhile, by whomever, need not come back."""
        here = {(lease.model, lease.config) for lease in leases if lease.state == "held" and not lease.shares}
        living = {lease.lease_id for lease in leases}
        for yielding in self._cards.values():
            for each in yielding.away:
                if each.lease_id not in living and (each.model, each.config) in here:
                    yielding.forget(each.lease_id)
        waited_for = {each.lease_id for yielding in self._cards.values() for each in yielding.away}
        self.away = len(waited_for)
        self._away = {name: lease for name, lease in self._away.items() if name in waited_for}

    def _close(self) -> None:
        """Has the cards whose memory strangers take take no lease; that shows with the next look, so it is had soon."""
        closed = {uuid: why for uuid, each in self._cards.items() if (why := each.frozen or each.holding)}
        if closed.keys() != self._writer.closed.keys():
            self._look_soon()
        self._writer.closed = closed
