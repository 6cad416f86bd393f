"""Reads a host's startup file in a process of its own, so that the parser, its rules and all they leave behind are gone with it.

A supervisor reads one file once and lives for months. What the file says is judged by common/config alone.
"""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

from common.config.schema import Startup
from common.errors import Internal
from common.supervisor.listing import refused


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
