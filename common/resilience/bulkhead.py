"""How many calls may be in flight, in total and for each identity, so that one that floods leaves room for one that does not.

Two rules share the room. A part of it is held back for identities with few calls: below `guaranteed` in flight, an identity
is refused only when everything is taken. The rest is shared by dynamic thresholds (Choudhury and Hahne, Dynamic queue length
thresholds for shared-memory packet switches, 1998): beyond the guarantee, an identity may hold as much as is still free, so
that one alone may take half, and many together push each other down to equal parts. Both are constant time.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct


class BulkheadSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of a bulkhead.

    `reserved // guaranteed` identities have their guarantee whatever the others do. One identity alone may hold
    `min(per_identity, (total - reserved) / 2)`.
    """

    total: Annotated[int, Meta(ge=1, le=1_000_000, description="calls in flight")] = 8192
    per_identity: Annotated[int, Meta(ge=1, le=1_000_000, description="calls in flight of one identity")] = 2048
    guaranteed: Annotated[int, Meta(ge=1, le=1_000_000, description="calls in flight; at most per_identity")] = 16
    reserved: Annotated[int, Meta(ge=0, le=1_000_000, description="calls of total for the guarantees; below total")] = (
        2048
    )

    def __post_init__(self) -> None:
        if self.guaranteed > self.per_identity:
            raise ValueError(f"guaranteed {self.guaranteed} is above per_identity {self.per_identity}")
        if self.reserved >= self.total:
            raise ValueError(f"reserved {self.reserved} leaves nothing of total {self.total} to share")


DEFAULT: Final = BulkheadSettings()


class Bulkhead:
    """The calls in flight, counted by identity."""

    __slots__ = ("_guaranteed", "_held", "_per_identity", "_shared", "_total", "in_flight")

    def __init__(self, settings: BulkheadSettings = DEFAULT) -> None:
        self._total = settings.total
        self._per_identity = settings.per_identity
        self._guaranteed = settings.guaranteed
        self._shared = settings.total - settings.reserved
        self._held: dict[str, int] = {}
        self.in_flight = 0

    def enter(self, identity: str) -> bool:
        """Takes a place for one call of `identity`; False when it must come back later."""
        held = self._held.get(identity, 0)
        if held < self._guaranteed:
            if self.in_flight >= self._total:
                return False
        elif held >= self._per_identity or held >= self._shared - self.in_flight:
            return False
        self._held[identity] = held + 1
        self.in_flight += 1
        return True

    def leave(self, identity: str) -> None:
        """Gives a place back. Leaving without having entered is a bug and raises ValueError."""
        held = self._held.get(identity, 0)
        if held > 1:
            self._held[identity] = held - 1
        elif held:
            del self._held[identity]
        else:
            raise ValueError(
                f"{identity} left the bulkhead with nothing in flight; {self.in_flight} in flight in total"
            )
        self.in_flight -= 1

    def held_by(self, identity: str) -> int:
        """Calls of `identity` in flight."""
        return self._held.get(identity, 0)
