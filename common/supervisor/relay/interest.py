"""What this host's subscribers want of a far publisher, and what is subscribed to there for them; pure.

Everything that anyone here wants is subscribed to once, in the order in which it was wanted. A subscriber's mark
(common/transport/events.py) passes like a topic, behind that subscriber's topics: the far publisher sends it back once it has
taken them, so a mark that comes back here says of the whole way what it says of the far port, and it does so anew whenever the
link does. A mark that is told again asks the same again, so it is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.wire.frames import Buffer

MARK: Final = 0xFF
MARK_LIMIT: Final = 32
_WANTED: Final = 1
_UNWANTED: Final = 0


class Interest:
    """The topics wanted here, marks among them."""

    def __init__(self) -> None:
        self._wanted: dict[bytes, None] = {}

    def told(self, frames: Sequence[Buffer]) -> tuple[list[bytes], list[bytes]]:
        """What a subscriber's message (as an XPUB hands it over) takes off and puts on at the far publisher."""
        told = bytes(frames[0])
        if len(frames) != 1 or not told or told[0] not in (_WANTED, _UNWANTED):
            return [], []
        topic = told[1:]
        if told[0] == _UNWANTED:
            if topic not in self._wanted:
                return [], []
            del self._wanted[topic]
            return [topic], []
        again = topic in self._wanted
        if again and not _is_mark(topic):
            return [], []
        self._wanted[topic] = None
        return ([topic] if again else []), [topic]

    def topics(self) -> list[bytes]:
        """All that is wanted, marks last, as a new connection is to ask for it."""
        return sorted(self._wanted, key=lambda topic: (_is_mark(topic), topic))


def _is_mark(topic: bytes) -> bool:
    return 0 < len(topic) <= MARK_LIMIT and topic[0] == MARK
