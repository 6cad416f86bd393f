"""What a lease table decided: the form in which its decisions reach the shell that carries them out."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.api.leases import LeaseChanged, LeaseGranted, LeaseRenewed, Receipt
from common.api.words import Empty
from common.errors import TandemError
from common.vram.cards import ProcessId
from common.vram.lease_facts import Fact


class Announce(msgspec.Struct, frozen=True):
    """Publish this change of a lease."""

    change: LeaseChanged


class Note(msgspec.Struct, frozen=True):
    """Keep this receipt."""

    receipt: Receipt
    idempotency_key: str = ""


class Watch(msgspec.Struct, frozen=True):
    """Tell `owner_died` when this process ends, at once if it has."""

    owner: ProcessId


class Unwatch(msgspec.Struct, frozen=True):
    """No lease hangs on this process any more."""

    owner: ProcessId


Instruction: TypeAlias = Announce | Note | Watch | Unwatch
Reply: TypeAlias = LeaseGranted | LeaseRenewed | Empty | TandemError


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided: facts to commit and apply first, then the reply and the instructions, in this order."""

    facts: tuple[Fact, ...] = ()
    reply: Reply | None = None
    instructions: tuple[Instruction, ...] = ()
