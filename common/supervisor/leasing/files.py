"""The files that a request or a model says must be on its host, and which of them are not there.

They are looked for aside, for a folder may be on another machine, and no longer than LOOK_S: a host that cannot say so in time
is taken to lack none of them for good, and the request is refused until it can. A look that hangs holds up a thread of its own
and nothing else, not even the end of the process, and is not begun again before it has ended. Nothing is opened.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from common.errors import Unavailable

LOOK_S: Final = 2.0
"""Well below the time that ResourceManager waits for an answer, so that it hears which file it is."""
MOST_HANGING: Final = 64
"""While so many looks hang no other is begun."""


def absent(files: Sequence[str]) -> list[str]:
    """Those of the paths where nothing is."""
    return [each for each in files if not os.path.exists(each)]


class HostFiles:
    """Looks for files on this host."""

    def __init__(self) -> None:
        self._hanging: dict[tuple[str, ...], Future[list[str]]] = {}

    async def lacking(self, files: Sequence[str]) -> list[str]:
        """Those of the paths where nothing is. Raises Unavailable where a folder does not answer in time."""
        if not files:
            return []
        asked = tuple(files)
        self._hanging = {each: look for each, look in self._hanging.items() if not look.done()}
        if asked in self._hanging or len(self._hanging) >= MOST_HANGING:
            raise _no_word(asked)
        look = _begin(asked)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(look), LOOK_S)
        except TimeoutError as error:
            self._hanging[asked] = look
            raise _no_word(asked) from error


def _begin(files: tuple[str, ...]) -> Future[list[str]]:
    """A look on a thread that nobody waits for at the end of the process."""
    look: Future[list[str]] = Future()
    look.set_running_or_notify_cancel()
    threading.Thread(target=lambda: look.set_result(absent(files)), name="files", daemon=True).start()
    return look


def _no_word(files: Sequence[str]) -> Unavailable:
    which, they = files[0], "it is"
    if len(files) > 1:
        which, they = f"{which} and {len(files) - 1} more", "they are"
    return Unavailable(f"{which}: no word within {LOOK_S:g} s on whether {they} there", retry_after_ms=1_000)
