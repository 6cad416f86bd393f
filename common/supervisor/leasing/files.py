"""The files that a request says must be on its host, and which of them are not there.

They are looked for aside, for a folder may be on another machine, and no longer than LOOK_S: a host that cannot say so in time
is taken to lack none of them for good, and the request is refused until it can. Nothing is opened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from common.errors import Unavailable

LOOK_S: Final = 5.0


def absent(files: Sequence[str]) -> list[str]:
    """Those of the paths where nothing is."""
    return [each for each in files if not os.path.exists(each)]


async def lacking(files: Sequence[str]) -> list[str]:
    """The same without holding the loop up. Raises Unavailable where a folder does not answer in time."""
    if not files:
        return []
    try:
        return await asyncio.wait_for(asyncio.to_thread(absent, files), LOOK_S)
    except TimeoutError as error:
        raise Unavailable(
            f"{files[0]}: no word within {LOOK_S:g} s on whether it is there", retry_after_ms=1_000
        ) from error
