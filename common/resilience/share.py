"""How much of a bounded room one caller may hold, so that one that fills it leaves some for others.

Room is shared by dynamic thresholds (Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches,
1998): who wants more may hold FREE_TIMES what is free then. One alone so gets three quarters of the room, and n callers at once
get 3 / (3n + 1) of it each; a newcomer always finds some. Constant time. It counts and decides; it refuses nobody itself.
"""

from __future__ import annotations

from typing import Final

FREE_TIMES: Final = 3


def has_share(held: int, taken: int, total: int, wanted: int = 1) -> bool:
    """Whether one that holds `held` of `total`, of which all together have `taken`, may have `wanted` more."""
    return held + wanted <= FREE_TIMES * (total - taken)


class Holdings:
    """Who holds how much of which room; who holds nothing costs nothing."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], int] = {}

    def of(self, identity: str, room: str = "") -> int:
        """What the caller holds of the room."""
        return self._held.get((identity, room), 0)

    def change(self, by: int, identity: str, room: str = "") -> None:
        """The caller holds so much more, or less, from now on."""
        held = self._held.get((identity, room), 0) + by
        if held:
            self._held[identity, room] = held
        else:
            self._held.pop((identity, room), None)


class Shares:
    """What each caller has of the room for one kind of work: of each line, of all that is active, and of its bytes.

    `by` is 1 for work that comes and -1 for work that goes.
    """

    __slots__ = ("active", "bytes", "waiting")

    def __init__(self) -> None:
        self.waiting = Holdings()
        self.active = Holdings()
        self.bytes = Holdings()

    def stand(self, by: int, identity: str, line: str) -> None:
        """Work comes to a line, or leaves it."""
        self.waiting.change(by, identity, line)

    def weigh(self, by: int, identity: str, size: int) -> None:
        """Work of so many bytes is taken on, or ends."""
        self.active.change(by, identity)
        self.bytes.change(by * size, identity)
