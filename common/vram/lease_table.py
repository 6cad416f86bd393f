"""The one writer's table of the leases on one host's cards: what is granted, shared, evicted, corrected, ended and refused.

Decisions and facts are apart. A deciding method changes nothing: it returns a Decision with the facts to be committed, the
reply, and the instructions to carry out once they are. `apply` folds a fact in, and is called for every fact in order, before
the next decision. Measurements are no facts: `measure` takes them in directly, and nothing of them is kept over a restart.

How a lease ends. A lease whose owner process is pinned on this host (pid and start time) lives as long as that process does;
`owner_died` ends it. Any other ends when its TTL runs out without a renewal, and is never revived. A lease that others share
outlives its holder's letting go until the last of them has ended; a share ends with the lease that it shares. A lease that has
to go (`make_room`, `evict_for`, `evict`) expires: nothing is admitted to it any more, an order goes out for its owner, and
`evicted`, `parked` or `quarantined` says what the card showed. The leases of a card that is gone from the bus end after a
grace; a card that could not be read, or a missing measurement, ends none.

How a shell drives it:

    table = LeaseTable.restored(host, store, now)       watch table.owners(), tell owner_died of those gone
    commit and apply open_epoch().facts                 FULL, before the first grant
    carry out table.pending_evictions()                 what had to go before a restart has to go still
    at each look at the cards                           table.measure(...), then publish table.cards(now), and corrections(...)
    at each look at the host                            table.resources.measure(...)
    at each request                                     decision = table.admit(...); apply and commit the facts
                                                        (lease_facts.rows), then perform the instructions and reply
    twice a second or more                              table.expire(...)
    when a watched process ended                        table.owner_died(...)

An owner arrives with its start time looked up and its host filled in; one with `start_time` 0 counts as not pinned.
After a commit that failed, throw the table away and restore another: a new epoch makes its tokens rise all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from common.api.decisions import Decided, LeasePlan, PlanLease, Rung
from common.api.gpus import Card
from common.api.host_memory import HostMemory
from common.api.leases import Lease, MarkLease, Owner, ReleaseLease, RenewLease
from common.api.supervisor import AdmitLease, MakeRoom
from common.api.words import Timestamp
from common.store.protocol import RecordStore
from common.vram import (
    footprint,
    lease_admission,
    lease_beside,
    lease_changes,
    lease_ending,
    lease_evictions,
    lease_facts,
    lease_outcomes,
    lease_room,
    lease_view,
)
from common.vram.cards import CardSample, ProcessId
from common.vram.demand import Demand, Horizon
from common.vram.eviction import Resident
from common.vram.footprint import FootprintPolicy, Footprints
from common.vram.lease_beside import Wanted
from common.vram.lease_decision import Decision, Evict
from common.vram.lease_facts import EpochOpened, Fact, Forgotten
from common.vram.lease_room import NOTHING_QUEUED, PATIENCE_S
from common.vram.lease_state import LeaseState
from common.vram.ledger import DEFAULT, LedgerPolicy
from common.vram.placement import Candidate
from common.vram.resources import HostAccount


class LeaseTable:
    """One host's leases and cards; `now` is this host's monotonic clock in seconds, `at` the time of day for people."""

    def __init__(self, host: str, policy: LedgerPolicy = DEFAULT, footprints: Footprints | None = None) -> None:
        self._state = LeaseState(host, policy, footprints)

    @classmethod
    def restored(
        cls,
        host: str,
        store: RecordStore,
        now: float,
        policy: LedgerPolicy = DEFAULT,
        footprints: Footprints | None = None,
    ) -> LeaseTable:
        """The table that the store holds; every TTL starts anew, and an epoch must be opened. `footprints` are read here.

        Raises CorruptRecord, and StorageUnavailable while the store cannot be read.
        """
        table = cls(host, policy, footprints)
        for fact in lease_facts.load(store):
            table._state.apply(fact, now)
        table._state.epoch_open = False
        return table

    def apply(self, fact: Fact, now: float) -> None:
        """Folds a decided fact in; TTLs begin at `now`."""
        self._state.apply(fact, now)
        self._state.observe(fact, now)

    def measure(self, samples: Sequence[CardSample], tree: Mapping[int, int], problem: str = "") -> None:
        """Takes one look at the host's cards; `problem` says why there was none (card_book.CardBook.measure)."""
        self._state.book.measure(samples, tree, problem)

    @property
    def resources(self) -> HostAccount:
        """The host's RAM, disk and cores, to be told of each look at them; the leases on them are counted by the table."""
        return self._state.resources

    @property
    def demand(self) -> Demand:
        """How often each model is used; to be read alone."""
        return self._state.demand

    @property
    def horizon(self) -> Horizon:
        """How far ahead evictions look; to be read alone."""
        return self._state.horizon

    def __len__(self) -> int:
        return len(self._state.live)

    def owners(self) -> frozenset[ProcessId]:
        """The pinned processes on which leases hang, or whose bytes are in quarantine."""
        return frozenset(self._state.owned)

    def candidates(self, now: float, lease_id: str = "") -> list[Candidate]:
        """The cards as placement sees them; for `lease_id`, what is reserved for it is free."""
        return list(self._state.book.candidates(now, lease_id))

    def doubtful(self, card_uuid: str) -> bool:
        """Whether an owner on the card may hold more by now than it leased and the last look showed."""
        return self._state.book.doubtful(card_uuid)

    def reserved(self) -> dict[str, frozenset[str]]:
        """Per lease id for which room is kept, the cards that it is kept on."""
        return {lease_id: frozenset(rooms) for lease_id, rooms in self._state.reservations.items()}

    def missing(self) -> dict[str, str]:
        """This host with the reason why cards may be missing or of unknown size; empty when all is known."""
        why = self._state.book.missing()
        return {self._state.host: why} if why else {}

    def cards(self, now: float) -> list[Card]:
        """The cards as the lease verbs show them."""
        return self._state.book.cards(now, lease_view.loading(self._state))

    def host_memory(self) -> HostMemory:
        """What the host has beside its cards, and what is leased of it."""
        return self._state.resources.view(self._state.host)

    def keep_of_host(self, wanted: Wanted, lease_id: str, model: str, until: float, own: str = "") -> Decision:
        """Keeps of the host's RAM, disk and cores what others go for, for that lease id; `own` is the lease that it wakes."""
        return lease_beside.keep(self._state, wanted, lease_id, model, until, own)

    def short_of_host(self, asked: AdmitLease) -> str:
        """Why the host's RAM, disk or cores do not do for the request by now, or the empty string."""
        return lease_admission.short_of_host(self._state, asked)

    def leases(self, now: float) -> list[Lease]:
        """The live leases, in the order of their grants."""
        return [lease_view.lease(self._state, record, now) for record in self._state.live.values()]

    def asleep(self) -> int:
        """How many leases are parked."""
        return sum(record.state == "parked" for record in self._state.live.values())

    def residents(self, card_uuid: str, now: float) -> list[Resident]:
        """The leases on the card as an eviction for people weighs them."""
        return lease_evictions.residents(self._state, card_uuid, lease_evictions.HIGHEST_PRIORITY, now)

    def beside_cards(self, priority: int, now: float) -> list[Lease]:
        """The leases but shares as an eviction for the host's RAM, disk or cores weighs them; who must stay is told as pinned."""
        return lease_evictions.beside_cards(self._state, priority, now)

    def plan(
        self,
        asked: PlanLease,
        now: float,
        kept: Collection[str] = (),
        missing_files: Sequence[str] = (),
        load_s: float = 0.0,
    ) -> LeasePlan:
        """What would happen to the request now; `kept` are cards kept for others, `missing_files` what the host lacks."""
        return lease_admission.plan(self._state, asked, now, kept, missing_files, load_s)

    def open_epoch(self) -> Decision:
        """Opens the next fence epoch; its fact must survive power loss before anything is granted."""
        return Decision(facts=(EpochOpened(self._state.fence.next_epoch().epoch),))

    def admit(
        self,
        asked: AdmitLease,
        now: float,
        at: Timestamp,
        kept: Collection[str] = (),
        missing_files: Sequence[str] = (),
    ) -> Decision:
        """Grants the request, a share or an old lease awake again, or refuses it; it never waits.

        `kept` are cards kept for others; room reserved for this lease id is its own all the same. The same lease id, or the same
        identity and idempotency key, with the same body answers with the same lease, with `conflict` once that lease has ended,
        and with `stale_fence` while it has to go; another body is `idempotency_mismatch`. What was asked `anew` gets another
        lease where the one under its key was given back. `missing_files` are those of the request that this host lacks.
        """
        return lease_admission.admit(self._state, asked, now, at, kept, missing_files)

    def make_room(self, asked: MakeRoom, now: float, at: Timestamp) -> Decision:
        """Has leases of the named card go until the bytes are free for the lease id, and keeps them for it.

        The reply is RoomPromised, again the same one while that is enough; or `no_capacity` with every lease that was weighed,
        `too_large`, `not_found` for an unknown card, `conflict` for a lease that has ended.
        """
        return lease_room.make_room(self._state, asked, now, at)

    def evict_for(
        self,
        asked: AdmitLease,
        now: float,
        at: Timestamp,
        patience_s: float = PATIENCE_S,
        kept: Collection[str] = (),
        queued: Mapping[str, float] = NOTHING_QUEUED,
        draining: bool = False,
    ) -> Decision:
        """Makes room for a request that `admit` refused with `no_capacity`, where that costs least; as `make_room` else.

        `queued` are the seconds of loading that go on and wait by card. `draining`: leases in use may have to go too, when their
        use ends; nobody new is let in to them meanwhile. What it wants of host RAM, disk and cores is kept for it as well.
        """
        return lease_admission.evict_for(self._state, asked, now, at, patience_s, kept, queued, draining)

    def forget_room(self, lease_id: str) -> Decision:
        """Keeps nothing for the lease id any more: nobody wants it. What was to go for it goes all the same."""
        return lease_room.forget_room(self._state, lease_id)

    def evict(
        self,
        lease_ids: Sequence[str],
        reason: str,
        now: float,
        at: Timestamp,
        *,
        yielded: bool = False,
        for_good: bool = False,
    ) -> Decision:
        """Has these leases go, those in use when their use ends, and with them what ends with their processes.

        `yielded`: to a stranger. `for_good`: not to sleep, for what is wanted is the host's and not the card's. Left alone are
        shares, leases unknown or expiring already, and those whose process is needed for another lease and cannot be asked for
        this one alone.
        """
        decided: Decided = "yielded" if yielded else "expiring"
        going = lease_evictions.able_to_go(self._state, lease_ids)
        return lease_room.expire(self._state, going, reason, now, at, decided=decided, for_good=for_good)[0]

    def not_parked(self, lease_ids: Sequence[str], beside_bytes: int = 0) -> str:
        """Why the weights of these leases may not go into host RAM now, beside those on their way there; empty: they may."""
        live = [self._state.live[each] for each in lease_ids if each in self._state.live]
        return lease_evictions.not_parked_together(self._state, live, beside_bytes) if live else ""

    def pending_evictions(self) -> list[Evict]:
        """The orders for all leases that have to go and that nobody uses, as they stand."""
        return lease_outcomes.pending_evictions(self._state)

    def evicted(
        self, lease_ids: Sequence[str], rungs: Sequence[Rung], returned_bytes: int, now: float, at: Timestamp
    ) -> Decision:
        """Looks showed these leases' bytes gone: they end."""
        return lease_outcomes.evicted(self._state, lease_ids, rungs, returned_bytes, now, at)

    def parked(
        self,
        lease_id: str,
        residual_bytes: int,
        ram_bytes: int,
        rungs: Sequence[Rung],
        now: float,
        at: Timestamp,
    ) -> Decision:
        """Its owner sleeps, `residual_bytes` of it left on each card and its weights in `ram_bytes` of host RAM."""
        return lease_outcomes.parked(self._state, lease_id, residual_bytes, ram_bytes, rungs, now, at)

    def quarantined(
        self, lease_ids: Sequence[str], left_bytes: int, rungs: Sequence[Rung], now: float, at: Timestamp
    ) -> Decision:
        """The last rung freed not all: the leases end, and what is left stays under their owner's name until it is gone."""
        return lease_outcomes.quarantined(self._state, lease_ids, left_bytes, rungs, now, at)

    def renew(self, asked: RenewLease, now: float, at: Timestamp) -> Decision:
        """Starts the TTL anew. A lease whose TTL has run out ends here, if `expire` has not come to it yet."""
        return lease_changes.renew(self._state, asked, now, at)

    def mark(self, asked: MarkLease, now: float, at: Timestamp) -> Decision:
        """The lease is in use, or idle, or loaded."""
        return lease_changes.mark(self._state, asked, now)

    def loaded(self, lease_ids: Sequence[str], now: float) -> Decision:
        """Looks show these leases' models to be loaded, whether anybody said so or not."""
        return lease_changes.loaded(self._state, lease_ids, now)

    def rebind(self, lease_id: str, owner: Owner, now: float, at: Timestamp) -> Decision:
        """The lease hangs on this process from now on, such as an engine that was started after its grant."""
        return lease_changes.rebind(self._state, lease_id, owner, now)

    def corrections(self, now: float, at: Timestamp, policy: FootprintPolicy = footprint.DEFAULT) -> Decision:
        """Has each lease count what its owner was seen to hold beyond it, twice in a row and by more than the tolerance."""
        return lease_changes.corrections(self._state, now, at, policy)

    def release(self, asked: ReleaseLease, now: float, at: Timestamp) -> Decision:
        """Gives the bytes back. Once more with the same token is no error; with another token it is `stale_fence`."""
        return lease_ending.release(self._state, asked, now, at)

    def expire(self, now: float, at: Timestamp) -> Decision:
        """Ends what time ends: late leases and reservations, leases of lost cards, quarantines whose bytes are gone.

        It also forgets ended leases that ended long ago, or many leases ago (lease_ending.forgettable).
        """
        state = self._state
        lost = state.book.lost(now)
        if lost and (stranded := [each for each in state.live.values() if not lost.isdisjoint(each.card_uuids)]):
            own = [record for record in stranded if not record.shares]
            return lease_ending.end(state, own, "card-lost", now, at)
        late = {lease_id: state.live[lease_id] for lease_id, due in state.deadlines.items() if due <= now}
        shared = [each for each in late.values() if not state.users.get(each.lease_id, {}).keys() <= late.keys()]
        over = [each for each in late.values() if each not in shared]
        lifted = lease_outcomes.lifted(state, now)
        decisions = [lease_ending.end(state, over, "expired", now, at, lifted=lifted)]
        decisions += [lease_ending.let_go(state, each, "expired", now, at) for each in shared]
        rooms, old = lease_room.late_rooms(state, now), lease_ending.forgettable(state, now)
        facts = [fact for each in decisions for fact in each.facts]
        return Decision(
            facts=(*facts, *rooms, *((Forgotten(old),) if old else ())),
            instructions=tuple(instruction for each in decisions for instruction in each.instructions),
        )

    def owner_died(self, pid: int, start_time: int, now: float, at: Timestamp) -> Decision:
        """Ends the leases and quarantines that hang on this process, on all cards; with another start time it is another one."""
        hung = self._state.owned.get(ProcessId(pid, start_time), {})
        records = [self._state.live[each] for each in hung if each in self._state.live]
        lifted = [each for each in hung if each in self._state.quarantines]
        return lease_ending.end(self._state, records, "owner-died", now, at, lifted=lifted)
