"""What a lease table decided: the form in which its decisions reach the shell that carries them out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from common.api.decisions import Receipt
from common.api.leases import LeaseChanged, LeaseGranted, LeaseMarked, LeaseRenewed, Unload
from common.api.supervisor import RoomPromised
from common.api.words import Empty
from common.errors import TandemError
from common.vram.cards import ProcessId
from common.vram.lease_facts import Fact

W = TypeVar("W", LeaseChanged, Receipt)


class _Told(Generic[W]):
    """Something told of a decision; it is written when it is first read, for a decision should not wait for that."""

    __slots__ = ("_told",)
    _told: W | Callable[[], W]

    def __eq__(self, other: Any) -> bool:
        return type(other) is type(self) and self._both() == other._both()

    def __hash__(self) -> int:
        return hash(self._named())

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._both()!r}"

    def _read(self) -> W:
        if callable(self._told):
            self._told = self._told()
        return self._told

    def _both(self) -> tuple[W, str]:
        return self._read(), self._named()

    @abstractmethod
    def _named(self) -> str:
        """What is known of it unread."""


class Announce(_Told[LeaseChanged]):
    """Publish this change of a lease; `kind` names it without its being read."""

    __match_args__ = ("change",)
    __slots__ = ("kind",)

    def __init__(self, kind: str, change: LeaseChanged | Callable[[], LeaseChanged]) -> None:
        self._told, self.kind = change, kind

    @property
    def change(self) -> LeaseChanged:
        """The change, with the lease as it is after it."""
        return self._read()

    def _named(self) -> str:
        return self.kind


class Note(_Told[Receipt]):
    """Keep this receipt."""

    __match_args__ = ("receipt", "idempotency_key")
    __slots__ = ("idempotency_key",)

    def __init__(self, receipt: Receipt | Callable[[], Receipt], idempotency_key: str = "") -> None:
        self._told, self.idempotency_key = receipt, idempotency_key

    @property
    def receipt(self) -> Receipt:
        """The receipt."""
        return self._read()

    def _named(self) -> str:
        return self.idempotency_key


class Watch(msgspec.Struct, frozen=True):
    """Tell `owner_died` when this process ends, at once if it has."""

    owner: ProcessId


class Unwatch(msgspec.Struct, frozen=True):
    """No lease and no quarantine hangs on this process any more."""

    owner: ProcessId


class EvictionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The leases of one owner that have to go, so that `expected_bytes` come back on `card_uuid`; `card_uuids` are all they have.

    `models` go with `lease_ids`. `owner` is None where no process of this host is known, and then only its verbs (`unload`) and
    its TTL are left. `held_bytes` is what the last look showed the owner to hold on the card, None where its processes are
    hidden, `free_bytes` what it showed free; `keep_bytes` are its other leases on the card, `residual_bytes` what it may keep
    asleep. `not_parked` says why its weights may not stay in host RAM, `spared` why its processes must live on; both are empty
    where they may. `reason` is why it goes, `for_lease` for whom, `lost_s` what that is expected to cost.
    """

    lease_ids: tuple[str, ...]
    models: tuple[str, ...]
    identity: str
    owner: ProcessId | None
    card_uuid: str
    card_uuids: tuple[str, ...]
    expected_bytes: int
    held_bytes: int | None
    free_bytes: int
    keep_bytes: int
    residual_bytes: int
    unload: Unload | None
    not_parked: str
    spared: str
    for_lease: str
    reason: str
    lost_s: float

    @property
    def model(self) -> str:
        """The model of its first lease."""
        return self.models[0]


class Evict(msgspec.Struct, frozen=True):
    """Begin to take these leases' memory back; tell `evicted`, `parked` or `quarantined` what came of it."""

    order: EvictionOrder


Instruction: TypeAlias = Announce | Note | Watch | Unwatch | Evict
Reply: TypeAlias = LeaseGranted | LeaseRenewed | LeaseMarked | RoomPromised | Empty | TandemError


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided: facts to commit and apply first, then the reply and the instructions, in this order."""

    facts: tuple[Fact, ...] = ()
    reply: Reply | None = None
    instructions: tuple[Instruction, ...] = ()
