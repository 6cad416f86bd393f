"""A planner on a bench, for tests that feed it events by hand."""

from __future__ import annotations

import random
from typing import Literal, TypeVar

from common.api.gpus import Card, CardsSampled
from common.api.leases import AcquireLease, Lease, LeaseChanged, LeaseGranted, Leases, Owner
from common.api.words import Cursor
from common.errors import (
    TandemError,
)
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB
from common.vram.lease_decision import Note
from pc2.resource_manager import intents
from pc2.resource_manager.events import (
    Admitted,
    Asked,
    CardsSeen,
    Event,
    HostBack,
    Refused,
    Tick,
)
from pc2.resource_manager.instructions import AskSupervisor, Decision, ReplyError
from pc2.resource_manager.planner import Planner
from pc2.resource_manager.steps import PlannerPolicy

AT = "2025-01-01T00:00:00Z"
EMPTY = Leases(leases=[], as_of=Cursor(epoch=1, seq=0))
T = TypeVar("T")


class Bench:
    """A planner on a bench: events go in by hand, and the last decision lies open."""

    def __init__(self, policy: PlannerPolicy | None = None) -> None:
        self.now = 0.0
        self.policy = policy
        self.store = MemoryStore()
        self.rng = random.Random(1)
        self.start()
        for host, free in (("mainpc", 20), ("pc2", 11)):
            self.feed(HostBack(host, EMPTY))
            self.cards(host, free)

    def start(self) -> None:
        self.planner = Planner(["mainpc", "pc2"], self.rng, self.policy)
        self.planner.restore(intents.load(self.store), self.now)
        self.last = Decision()

    def feed(self, event: Event) -> None:
        self.last = self.planner.handle(event, self.now, f"{AT}{self.now:09.3f}")
        for fact in self.last.facts:
            self.store.commit(intents.rows(fact), Durability.NORMAL)

    def cards(self, host: str, free: float) -> None:
        total = 24 if host == "mainpc" else 12
        card = Card(
            host=host,
            card=0,
            card_uuid=f"GPU-{host}",
            name="card",
            total_bytes=total * GIB,
            free_bytes=0,
            leased_bytes=0,
            used_bytes=0,
            grantable_bytes=int(free * GIB),
            simulated=True,
        )
        self.feed(CardsSeen(host, CardsSampled(host=host, cards=[card])))

    def ask(
        self, call: str, need: float = 10, wait: float = 0.0, key: str = "", host: str = "", priority: int = 50
    ) -> None:
        request = AcquireLease(
            model="whisper", bytes=int(need * GIB), wait_s=wait, idempotency_key=key, host=host, priority=priority
        )
        self.feed(Asked(call, request, "anna"))

    def admit(self, ask: AskSupervisor, lease_id: str = "") -> LeaseGranted:
        granted = LeaseGranted(
            lease_id=lease_id or ask.request.lease_id,
            host=ask.host,
            card=0,
            card_uuid=ask.request.card_uuid,
            fencing_token=77,
            expires_in_s=60.0,
            bytes=ask.request.bytes,
        )
        self.feed(Admitted(ask.request.lease_id, granted))
        return granted

    def refuse(self, ask: AskSupervisor, error: TandemError) -> None:
        self.feed(Refused(ask.request.lease_id, ask.attempt, error))

    def change(self, change: Literal["granted", "released"], granted: LeaseGranted) -> LeaseChanged:
        lease = Lease(
            lease_id=granted.lease_id,
            model="whisper",
            bytes=granted.bytes,
            measured_bytes=0,
            verified=False,
            priority=50,
            host=granted.host,
            card=0,
            card_uuid=granted.card_uuid,
            fencing_token=granted.fencing_token,
            owner=Owner(),
            identity="anna",
            ttl_s=60.0,
            expires_in_s=60.0,
            granted_at=AT,
        )
        return LeaseChanged(change=change, lease=lease)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())

    def all(self, kind: type[T]) -> list[T]:
        return [each for each in self.last.instructions if isinstance(each, kind)]

    def one(self, kind: type[T]) -> T:
        (found,) = self.all(kind)
        return found

    def error(self, kind: type[TandemError]) -> TandemError:
        error = self.one(ReplyError).error
        assert isinstance(error, kind), error
        return error

    def receipts(self) -> list[str]:
        return [note.receipt.decision for note in self.all(Note)]

    def kept(self) -> list[str]:
        return [intent.lease_id for intent in intents.load(self.store)]
