"""One request for a lease on its way: its states, which step leads from which to which, and who waits for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import msgspec

from common.api.decisions import Receipt
from common.api.leases import AcquireLease, LeaseGranted
from common.api.supervisor import AdmitLease
from common.api.words import Timestamp
from common.vram.lease_decision import Note
from common.vram.placement import Choice, Wish
from common.vram.waiting import Waiter


class State(StrEnum):
    """Where a request stands."""

    WAITING = "waiting"
    ASKING = "asking"
    UNSURE = "unsure"
    RETURNING = "returning"


class Step(StrEnum):
    """What moves a request on."""

    PLACED = "placed"
    REFUSED = "refused"
    LOST = "lost"
    ASKED_AGAIN = "asked again"
    UNWANTED = "unwanted"


NEXT: Final = {
    (State.WAITING, Step.PLACED): State.ASKING,
    (State.ASKING, Step.REFUSED): State.WAITING,
    (State.ASKING, Step.LOST): State.UNSURE,
    (State.UNSURE, Step.ASKED_AGAIN): State.ASKING,
    (State.ASKING, Step.UNWANTED): State.RETURNING,
    (State.UNSURE, Step.UNWANTED): State.RETURNING,
}


@dataclass(slots=True)
class Request:
    """A request and its saga; times in seconds of the planner's monotonic clock.

    `patience_until` ends its wait in the queue, `answer_by` its wait for a supervisor's answer; `retry_at` is when what
    was left open is tried again. `in_doubt` while an earlier ask may have been granted, `delivered` where a caller may hold
    that lease by now. `granted` is set only while a lease that nobody wants is given back. `room_s` is how long its supervisor
    may take to have others go for it (0: it fits or it does not), `barred` why hosts can never take it,
    `oversized` those of them that it asks too much of. `joins` is the lease that it was to share, `declined` are those that
    their hosts would not have it share.
    """

    lease_id: str
    identity: str
    asked: AcquireLease
    asked_at: float
    patience_until: float
    state: State = State.WAITING
    callers: list[str] = field(default_factory=list)
    host: str = ""
    card_uuid: str = ""
    attempt: int = 0
    answer_by: float = 0.0
    retry_at: float = 0.0
    in_doubt: bool = False
    delivered: bool = False
    granted: LeaseGranted | None = None
    room_s: float = 0.0
    barred: dict[str, str] = field(default_factory=dict)
    oversized: set[str] = field(default_factory=set)
    joins: str = ""
    declined: set[str] = field(default_factory=set)
    need_bytes: int = 0
    path: list[str] = field(default_factory=list)

    def move(self, step: Step) -> None:
        """Takes one step; one that the table does not know is our bug, and raises with the request's story."""
        after = NEXT.get((self.state, step))
        if after is None:
            story = " -> ".join([*self.path, f"{self.state} + {step}?"])
            raise RuntimeError(f"request {self.lease_id} for {self.asked.model} cannot do this: {story}")
        self.path = [*self.path[-15:], f"{self.state} + {step}"]
        self.state = after

    @property
    def wish(self) -> Wish:
        """What is to be placed; `need_bytes` stands for what was declared, where a host knows better."""
        wish = Wish.of(self.asked)
        return msgspec.structs.replace(wish, need_bytes=self.need_bytes) if self.need_bytes else wish

    @property
    def waiter(self) -> Waiter:
        """The request as it stands in the queue."""
        asked, until = self.asked, self.patience_until
        return Waiter(self.lease_id, self.wish, asked.priority, self.asked_at, until, self.barred)

    @property
    def admission(self) -> AdmitLease:
        """What its supervisor is asked."""
        fields = msgspec.structs.asdict(self.asked)
        fields |= {"host": self.host, "card_uuid": self.card_uuid, "wait_s": self.room_s}
        return AdmitLease(**fields, lease_id=self.lease_id, identity=self.identity, anew=True)

    def note(
        self,
        decision: Literal["granted", "refused", "queued", "released", "withdrawn"],
        reason: str,
        at: Timestamp,
        choice: Choice | None = None,
    ) -> Note:
        """The receipt for what became of the request; `choice` is the view it was decided by."""
        receipt = Receipt(
            at=at,
            lease_id=self.lease_id,
            model=self.asked.model,
            decision=decision,
            need_bytes=self.wish.need_bytes,
            free_bytes=choice.free_bytes if choice else 0,
            host=self.host,
            card_uuid=self.card_uuid,
            reason=reason,
            cards=choice.verdicts if choice else [],
            victims=list(choice.victims) if choice else [],
        )
        return Note(receipt, self.asked.idempotency_key)
