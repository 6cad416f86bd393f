"""Reads a host's startup file in a process of its own, so that the parser, its rules and all they leave behind are gone with it.

A supervisor reads one file once and lives for months. What the file says is judged by common/config alone.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Final

from common.config.schema import Startup
from common.errors import BadRequest, DeadlineExceeded, Internal
from common.supervisor.listing import refused

READ_S: Final = 60.0


def read_startup(path: Path) -> Startup | str:
    """The startup file at `path`, or what a start says that its problems prevented.

    Internal where the reading process ended otherwise; it has said why. To be called before there are other threads.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _tell(path, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise Internal(f"{path} could not be read: the reading process ended with {os.waitstatus_to_exitcode(status)}")
    found: Startup | str = pickle.loads(told)
    return found


async def read_again(path: Path) -> Startup:
    """The startup file as it is now, while the supervisor lives; BadRequest with every problem it has, Internal as above.

    DeadlineExceeded where its folder does not answer.
    """
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(path), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(READ_S):
            told, _ = await asking.communicate()
    except TimeoutError:
        asking.kill()
        await asking.wait()
        raise DeadlineExceeded(f"{path} was not read within {READ_S:g} s") from None
    if asking.returncode:
        raise Internal(f"{path} could not be read: the reading process ended with {asking.returncode}")
    found: Startup | str = pickle.loads(told)
    if isinstance(found, str):
        raise BadRequest(found)
    return found


def _tell(path: Path, writer: int) -> None:
    """The reading process: it writes down what it found, and ends."""
    try:
        from common.config.loader import load

        found = load(path)
        with open(writer, "wb") as pipe:
            pickle.dump(refused(found) if isinstance(found, list) else found, pipe)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    _tell(Path(sys.argv[1]), sys.stdout.fileno())
