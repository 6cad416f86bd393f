"""What the planner has its shell do: the instructions that come out, with the facts to be committed before them."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.api.leases import LeaseGranted, LeaseProgress, ReleaseLease
from common.api.supervisor import AdmitLease
from common.errors import TandemError
from common.vram.lease_decision import Note
from pc2.resource_manager.intents import IntentFact


class AskSupervisor(msgspec.Struct, frozen=True):
    """Call `admit_lease` on the host, and tell its answer as Admitted, or as Refused with this attempt."""

    host: str
    attempt: int
    request: AdmitLease


class WithdrawAsk(msgspec.Struct, frozen=True):
    """Call off an AskSupervisor that may take long, because others have to go first; nothing is told of it."""

    lease_id: str


class ReturnLease(msgspec.Struct, frozen=True):
    """Call `release_lease` on the host for a lease that nobody wants any more, and tell its answer as Returned."""

    host: str
    request: ReleaseLease


class Reply(msgspec.Struct, frozen=True):
    """Answer the call with the lease."""

    call: str
    granted: LeaseGranted


class ReplyError(msgspec.Struct, frozen=True):
    """Answer the call with the error."""

    call: str
    error: TandemError


class Progress(msgspec.Struct, frozen=True):
    """Stream this to the call, if its caller can take it."""

    call: str
    progress: LeaseProgress


Instruction: TypeAlias = AskSupervisor | WithdrawAsk | ReturnLease | Reply | ReplyError | Progress | Note


class Decision(msgspec.Struct, frozen=True):
    """Facts to commit, then instructions to carry out; none is carried out when the commit fails (Planner.undo)."""

    facts: tuple[IntentFact, ...] = ()
    instructions: tuple[Instruction, ...] = ()
