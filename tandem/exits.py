"""The exit codes of `tandem`, all of them here, and which error ends a command with which."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from common.errors import Code, TandemError


class Exit(IntEnum):
    """How a command ended. Codes from 64 to 78 mean what sysexits.h(3) says, 124 to 127 and 128+N what shells say.

    `tandem run` otherwise ends with its command's own code, or 128+N where signal N ended that.
    """

    OK = 0
    BAD_ANSWER = 1
    USAGE = 2
    UNAVAILABLE = 69
    INTERNAL = 70
    TRY_LATER = 75
    BAD_REQUEST = 76
    NOT_ALLOWED = 77
    DEADLINE = 124
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130


MEANINGS: Final[dict[Exit, str]] = {
    Exit.OK: "all is well",
    Exit.BAD_ANSWER: "the answer is bad: problems found, something not ready, no such thing",
    Exit.USAGE: "the command line is wrong",
    Exit.UNAVAILABLE: "a service is not there",
    Exit.INTERNAL: "a bug, here or there",
    Exit.TRY_LATER: "no room, no capacity, or the lease was lost: try again later",
    Exit.BAD_REQUEST: "the service refused the request's shape or bounds",
    Exit.NOT_ALLOWED: "not allowed",
    Exit.DEADLINE: "no answer in time",
    Exit.NOT_EXECUTABLE: "run: the command cannot be executed",
    Exit.NOT_FOUND: "run: the command was not found",
    Exit.INTERRUPTED: "interrupted",
}

_BY_CODE: Final[dict[Code, Exit]] = {
    Code.BAD_REQUEST: Exit.BAD_REQUEST,
    Code.UNKNOWN_VERB: Exit.BAD_REQUEST,
    Code.TOO_LARGE: Exit.BAD_REQUEST,
    Code.IDEMPOTENCY_MISMATCH: Exit.BAD_REQUEST,
    Code.UNAUTHENTICATED: Exit.NOT_ALLOWED,
    Code.FORBIDDEN: Exit.NOT_ALLOWED,
    Code.NOT_FOUND: Exit.BAD_ANSWER,
    Code.CONFLICT: Exit.BAD_ANSWER,
    Code.STALE_FENCE: Exit.BAD_ANSWER,
    Code.SNAPSHOT_REQUIRED: Exit.BAD_ANSWER,
    Code.CANCELLED: Exit.BAD_ANSWER,
    Code.DEADLINE_EXCEEDED: Exit.DEADLINE,
    Code.OVERLOADED: Exit.TRY_LATER,
    Code.NO_CAPACITY: Exit.TRY_LATER,
    Code.UNAVAILABLE: Exit.UNAVAILABLE,
    Code.INTERRUPTED: Exit.UNAVAILABLE,
    Code.NO_PROVIDER: Exit.UNAVAILABLE,
    Code.STORAGE_UNAVAILABLE: Exit.UNAVAILABLE,
    Code.INTERNAL: Exit.INTERNAL,
}

_MENDS: Final[dict[Code, str]] = {
    Code.UNAVAILABLE: "`tandem status` shows what runs; `make start` starts it",
    Code.INTERRUPTED: "it may have been done; look before asking again",
    Code.UNKNOWN_VERB: "`tandem call TARGET info` lists its verbs",
    Code.NO_PROVIDER: "`tandem agents` shows who offers what",
    Code.DEADLINE_EXCEEDED: "give it longer with --timeout",
    Code.STORAGE_UNAVAILABLE: "make room on its disk",
    Code.INTERNAL: "`tandem logs NAME` has what it said",
}


def exit_for(error: TandemError) -> Exit:
    """The code that a command ended by `error` exits with."""
    return _BY_CODE[error.code]


def exit_for_code(code: str) -> Exit:
    """The same by the code as it stands in an answer; codes of an agent's own are a bad answer."""
    return next((ends for known, ends in _BY_CODE.items() if known.value == code), Exit.BAD_ANSWER)


def mend_for(error: TandemError) -> str:
    """What the user can do about it; empty where the message says it all."""
    told = error.details.get("mend")
    return told if isinstance(told, str) else _MENDS.get(error.code, "")


def described() -> str:
    """The codes as `tandem --help` shows them, a line each."""
    lines = [f"  {code.value:>3}  {MEANINGS[code]}" for code in Exit]
    return "\n".join(["Exit codes:", *lines, "  otherwise `tandem run` ends as its command did, 128+N if by signal N"])
