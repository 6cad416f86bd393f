"""What the planner is told: the events that go in."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.api.gpus import CardsSampled
from common.api.leases import AcquireLease, LeaseChanged, LeaseGranted, Leases
from common.errors import TandemError


class Asked(msgspec.Struct, frozen=True):
    """A caller asks for a lease; `call` is the shell's name for the open call, answered exactly once."""

    call: str
    request: AcquireLease
    identity: str


class Withdrawn(msgspec.Struct, frozen=True):
    """The caller is gone, or its time budget is; the call is not answered."""

    call: str


class OutOfTime(msgspec.Struct, frozen=True):
    """The caller's time budget is about to end: whatever there is to tell it has to be told now."""

    call: str


class Admitted(msgspec.Struct, frozen=True):
    """A supervisor answered an AskSupervisor with a lease."""

    lease_id: str
    granted: LeaseGranted


class Refused(msgspec.Struct, frozen=True):
    """A supervisor refused, or could not be asked (`unavailable`), or may or may not have done it (`interrupted`)."""

    lease_id: str
    attempt: int
    error: TandemError


class Returned(msgspec.Struct, frozen=True):
    """A ReturnLease was done, or failed with this error."""

    lease_id: str
    error: TandemError | None = None


class HostLost(msgspec.Struct, frozen=True):
    """A supervisor cannot be asked, and why."""

    host: str
    reason: str


class HostBack(msgspec.Struct, frozen=True):
    """A supervisor can be asked again; here is its whole table of leases."""

    host: str
    leases: Leases


class CardsSeen(msgspec.Struct, frozen=True):
    """A supervisor published its cards."""

    host: str
    event: CardsSampled


class LeaseSeen(msgspec.Struct, frozen=True):
    """A supervisor published a change of a lease."""

    host: str
    event: LeaseChanged


class Tick(msgspec.Struct, frozen=True):
    """Time has passed; twice a second or more."""


Event: TypeAlias = (
    Asked | Withdrawn | OutOfTime | Admitted | Refused | Returned | HostLost | HostBack | CardsSeen | LeaseSeen | Tick
)
