"""What an agent answered: the parts it streamed and its last word, brought together to one result, or why it did nothing.

It calls nobody and keeps nothing beyond the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from common.errors import Code, TooLarge
from common.wire.codec import bounded

NOTHING_DONE: Final = frozenset({Code.UNAVAILABLE, Code.OVERLOADED, Code.STORAGE_UNAVAILABLE, Code.NO_CAPACITY})
"""Codes that say the agent did nothing, so that another attempt is safe whatever the capability."""


class Parts:
    """What an agent streams in one call: each part is passed on to `heard`, and all are kept for the result.

    They end the call as TooLarge when they are more than the `most_bytes` that a result may have.
    """

    def __init__(self, heard: Callable[[Any], None], most_bytes: int) -> None:
        self._heard = heard
        self._most = most_bytes
        self._bytes = 0
        self.kept: list[Any] = []

    def take(self, part: dict[str, Any]) -> None:
        """One more part."""
        self._bytes += len(msgspec.msgpack.encode(part))
        if self._bytes > self._most:
            raise TooLarge(f"the agent streamed more than {self._most} bytes; no result may be larger")
        self.kept.append(_unwrapped(part, "item"))
        self._heard(self.kept[-1])


def result_of(reply: dict[str, Any], parts: list[Any], *, plain: bool) -> object:
    """What the agent answered: a plain reply without its envelope, and a reply of nothing but `result` as that result.

    The agent library leaves `items` empty for those who got the parts; here they are together again, for callers who did not.
    Raises BadRequest where JSON could not say it.
    """
    if plain:
        reply = {name: value for name, value in reply.items() if name != "status" and not name.startswith("_")}
    if parts and reply.get("items") == []:
        reply = reply | {"items": parts}
    bounded(reply, "result")
    return _unwrapped(reply, "result")


def _unwrapped(reply: dict[str, Any], name: str) -> Any:
    return reply[name] if reply.keys() == {name} else reply
