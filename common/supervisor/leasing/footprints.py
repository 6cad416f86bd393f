"""What this host learns of models from the leases on its cards: their bytes, and how long each of their loads took.

A lease's owner is looked at with its cards. It has loaded when it says so, when it holds LOADED_FRACTION of its lease, or when it
has not grown for SETTLED_S; from then on it warms up, and its looks count. A load is timed from its grant to that moment, where a
look saw it begin. Leases of the host's own engines are left to whoever runs these: that one knows their loads to the millisecond,
and teaches the same footprints. The rules are those of common/vram/footprint.py; nothing here measures, grants or corrects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from common.api.decisions import PlanLease
from common.api.leases import Lease, LeaseChanged
from common.api.supervisor import AdmitLease, MakeRoom
from common.errors import StorageUnavailable
from common.service.shell import Shell
from common.supervisor.leasing.metrics import LoadFigures
from common.supervisor.leasing.writer import LeaseWriter
from common.vram import lease_facts
from common.vram.amount import MIB
from common.vram.cards import ProcessId
from common.vram.demand import ModelKey
from common.vram.footprint import Footprints, Tier
from common.vram.lease_view import LOADED_FRACTION

ENGINES: Final = "supervisor@{}"
"""The identity under which a host's supervisor leases for its own engines."""
GROWTH_BYTES: Final = 64 * MIB
SETTLED_S: Final = 10.0
OVERDUE_S: Final = 1.0
"""A load that should be over is expected to take so long yet."""
GIVEN_UP: Final = 3.0
PATIENCE_S: Final = 30.0
"""Who has loaded nothing for GIVEN_UP times the seconds of its load and PATIENCE_S more is not waited for."""
APART_S: Final = 0.25
"""Of looks that follow each other more closely, as they do while memory is waited for, one counts: they all show one moment."""
KEPT_S: Final = 2.0
"""What was learned is stored at most this often."""
MOST_WARM: Final = 1_024
"""For so many models it is remembered that they were loaded in this life, and so are expected in the page cache."""


class _Load(msgspec.Struct):
    """One lease from its grant on; `timed` while its load is seen from its beginning, `grew_at` when it last took more.

    `counted_at` is when a look at it counted last.
    """

    began_at: float
    tier: Tier
    timed: bool
    load_s: float
    card_uuids: list[str]
    own: bool
    held_bytes: int = 0
    grew_at: float = 0.0
    seen: bool = False
    loaded_at: float | None = None
    counted_at: float = float("-inf")


class Learning:
    """One host's; `known` are its footprints, with which its engines are planned too."""

    def __init__(self, shell: Shell, host: str, writer: LeaseWriter, known: Footprints) -> None:
        self.known = known
        self.figures = LoadFigures()
        self._shell = shell
        self._engines = ENGINES.format(host)
        self._writer = writer
        self._now = shell.clock.monotonic
        self._loads: dict[str, _Load] = {}
        self._asleep: set[str] = set()
        self._warm: set[ModelKey] = set()
        self._kept_at = float("-inf")
        writer.listeners.append(self._heard)

    def planned(self, asked: AdmitLease) -> AdmitLease:
        """The request with the bytes that its model has been seen to need here, where that is known of what it declares."""
        need = self._need(asked.model, asked.config, asked.bytes)
        if need == asked.bytes:
            return asked
        return msgspec.structs.replace(asked, bytes=need, declared_bytes=asked.bytes)

    def room(self, asked: MakeRoom) -> MakeRoom:
        """The same of a request to make room."""
        need = self._need(asked.model, asked.config, asked.bytes)
        return asked if need == asked.bytes else msgspec.structs.replace(asked, bytes=need)

    def plan(self, asked: PlanLease) -> tuple[PlanLease, float]:
        """The same of a question what would happen, and how long a load would take."""
        need, key = self._need(asked.model, asked.config, asked.bytes), ModelKey(asked.model, asked.config)
        tier: Tier = "cached" if key in self._warm else "cold"
        seconds = self.known.load_seconds(key, tier, need * asked.cards) if need else 0.0
        return (asked if need == asked.bytes else msgspec.structs.replace(asked, bytes=need)), seconds

    def granted(self, asked: AdmitLease) -> None:
        """Takes down what was declared for a model that was leased."""
        if not asked.share:
            self.known.declared(ModelKey(asked.model, asked.config), asked.declared_bytes or asked.bytes)

    def looked(self) -> None:
        """Takes in a look that the writer has measured."""
        now = self._now()
        leases = [lease for lease in self._writer.table.leases(now) if not lease.shares]
        alone = Counter((_owner(lease), uuid) for lease in leases for uuid in lease.card_uuids)
        loaded = []
        for lease in leases:
            if lease.state != "held":
                continue
            load = self._loads.get(lease.lease_id)
            if load is None:
                load = self._loads[lease.lease_id] = self._begun(lease, now, timed=False)
            if load.own or not lease.verified:
                continue
            if all(alone[_owner(lease), uuid] == 1 for uuid in lease.card_uuids):
                loaded += [lease.lease_id] if self._follow(lease, load, now) else []
        self._forget(leases)
        self._mark(loaded, now)

    def keep(self, every_s: float = KEPT_S) -> None:
        """Has what was learned stored, not sooner than that after the last time; no matter where the store takes nothing."""
        now = self._now()
        if now - self._kept_at < every_s:
            return
        with suppress(StorageUnavailable):
            self._writer.make_sound()
            self._kept_at = now
            if changes := self.known.changes():
                self._shell.journal.write(changes)
                self._shell.journal.hold(lambda failure: self.known.unkept() if failure is not None else None)

    def queued(self) -> dict[str, float]:
        """By card, the seconds of loading that go on there: of leases whose model is not loaded and takes a known time to."""
        now = self._now()
        seconds: dict[str, float] = {}
        for load in self._loads.values():
            passed_s = now - load.began_at
            if load.loaded_at is None and load.load_s and passed_s < GIVEN_UP * load.load_s + PATIENCE_S:
                left_s = max(OVERDUE_S, load.load_s - passed_s)
                seconds |= {uuid: seconds.get(uuid, 0.0) + left_s for uuid in load.card_uuids}
        return seconds

    def _need(self, model: str, config: str, declared: int) -> int:
        """As learned, but no more than any card could hold: what was seen to fit has to fit again, growth or not."""
        need = self.known.need_bytes(ModelKey(model, config), declared)
        if need <= declared:
            return need
        cards = self._writer.table.candidates(self._now())
        return max(declared, min(need, max((card.capacity_bytes for card in cards), default=need)))

    def _heard(self, change: LeaseChanged) -> None:
        lease, now = change.lease, self._now()
        if lease.shares:
            return
        if change.change == "granted":
            self._loads[lease.lease_id] = self._begun(lease, now, timed=True)
        elif change.change == "marked" and lease.loaded and lease.lease_id in self._loads:
            self._has_loaded(lease, self._loads[lease.lease_id], now)
        elif change.change == "parked":
            self._asleep.add(lease.lease_id)
            self._loads.pop(lease.lease_id, None)
        elif change.change in lease_facts.ENDS:
            self._loads.pop(lease.lease_id, None)
            self._asleep.discard(lease.lease_id)

    def _begun(self, lease: Lease, now: float, *, timed: bool) -> _Load:
        key = ModelKey(lease.model, lease.config)
        tier: Tier = "cached" if key in self._warm else "cold"
        if lease.lease_id in self._asleep:
            tier = "parked"
            self._asleep.discard(lease.lease_id)
        return _Load(
            began_at=now,
            tier=tier,
            timed=timed,
            load_s=lease.load_s,
            card_uuids=lease.card_uuids,
            own=lease.identity == self._engines,
            held_bytes=0 if timed else lease.measured_bytes,
            grew_at=now,
            loaded_at=now if lease.loaded and not timed else None,
        )

    def _follow(self, lease: Lease, load: _Load, now: float) -> bool:
        """Takes in what the lease is seen to hold; whether it is loaded with this look."""
        held = lease.measured_bytes
        if load.loaded_at is not None:
            if now - load.counted_at >= APART_S:
                load.counted_at = now
                self.known.looked(ModelKey(lease.model, lease.config), held, now - load.loaded_at)
            return False
        first, load.seen = not load.seen, True
        if held > load.held_bytes + GROWTH_BYTES:
            load.held_bytes, load.grew_at = held, now
        enough = 0 < lease.bytes * LOADED_FRACTION <= held
        if not enough and not (held and now - load.grew_at >= SETTLED_S):
            return False
        load.timed = load.timed and enough and not first
        self._has_loaded(lease, load, now)
        return True

    def _has_loaded(self, lease: Lease, load: _Load, now: float) -> None:
        """Its model is loaded from now on; teaches how long that took, where its beginning was seen."""
        if load.loaded_at is not None:
            return
        load.loaded_at, key = now, ModelKey(lease.model, lease.config)
        if len(self._warm) >= MOST_WARM:
            self._warm.clear()
        self._warm.add(key)
        if load.timed:
            seconds = now - load.began_at
            self.figures.loads[load.tier] += 1
            self.figures.seconds[load.tier] += seconds
            if not load.own:
                held = max(lease.bytes, lease.measured_bytes) * len(lease.card_uuids)
                self.known.loaded(key, load.tier, seconds, held)

    def _forget(self, leases: Iterable[Lease]) -> None:
        """What is followed of leases that are gone, such as by a table that was restored without them."""
        living = {lease.lease_id for lease in leases}
        self._loads = {name: load for name, load in self._loads.items() if name in living}
        self._asleep &= living

    def _mark(self, loaded: Sequence[str], now: float) -> None:
        """Takes down that leases are loaded; where that cannot be stored now, their weights are no less there."""
        with suppress(StorageUnavailable):
            if loaded:
                self._writer.make_sound()
                self._writer.record(self._writer.table.loaded(loaded, now))


def _owner(lease: Lease) -> ProcessId:
    return ProcessId(lease.owner.pid, lease.owner.start_time)
