"""The frames of a stack, and which of them are the agent's own code.

Read as text are tracebacks of Python, and, of any language, lines that name a file and a line: `at read (/srv/reader.js:12:5)`,
`at org.Reader.read(Reader.java:12)`, `/srv/reader.go:12 +0x1d`. Of errors that led to one another the last one counts, of a
group of errors the group. Only where a frame lies is kept, not its line, so that an edit above it does not make another error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from common.api.error_bus import StackFrame
from pc2.error_bus.masking import mask

END_CHARS: Final = 32_768
END_FRAMES: Final = 1_000
"""Of a longer stack this many characters, or frames, at either end are read."""
PLACES: Final = 40
"""Of more places the innermost decide which error it is."""
TAIL_PARTS: Final = 2
"""A file is known by so many last parts of its path, so that where it is installed does not matter."""
NAME_CHARS: Final = 256
LINE_CHARS: Final = 2_048

_BEGIN: Final = re.compile(
    r"^(?P<inside>[ |]*)(?:\+ (?:Exception Group )?)?Traceback \(most recent call last\):", re.MULTILINE
)
_PYTHON: Final = re.compile(r'^[ |]*File "(?P<file>[^"\n]{1,1024})", line \d{1,9}(?:, in (?P<function>[^\n]{1,512}))?')
_PLACE: Final = re.compile(
    r"(?<![^\s()\"])(?P<file>[^\s()\"]{1,1024}\.[A-Za-z]\w{0,9}):\d{1,9}(?::\d{1,9})?(?=[\s)\"]|\Z)"
)
_CALLED: Final = re.compile(r"^\s*(?:at\s+)?(?:async\s+)?(?P<function>[\w.$<>\[\]:]{1,512})\s*\(")
_TEMPORARY: Final = re.compile(r"^tmp[a-z0-9_]{8}\Z")
"""What Python's tempfile calls a folder."""
_PASSED_ON: Final = re.compile(r"^\s*\+-\+-")

_LIBRARY: Final = re.compile(
    r"/(?:site|dist)-packages/|/lib(?:64)?/python\d|^<frozen |/node_modules/|^node:|/go/pkg/mod/|/go/src/runtime/"
    r"|/\.cargo/registry/|^/rustc/|^/usr/lib(?:64)?/|^/lib(?:64)?/"
)
_TANDEM: Final = re.compile(
    r"(?:^|/)(?:(?:common/(?:agent|api|client|config|dispatch|gpu|legacy|registry|reporting|resilience|security|service|store"
    r"|supervisor|telemetry|transport|vram|wire)|main_pc/core_orchestrator|pc2/[a-z]+_[a-z]+|tandem/commands)(?:/\w+)+"
    r"|tandem/(?:__main__|child|cli|running))\.py\Z"
)


class Place(NamedTuple):
    """Where a frame lies, without what varies."""

    file: str
    function: str


def own_places(stack: str | Sequence[str | StackFrame], own_code: Sequence[str] = ()) -> list[Place]:
    """The places of the agent's own code, the outermost first, each once; all places where none is known to be its own."""
    frames = list(_frames(stack))
    prefixes = tuple(_slashes(prefix).rstrip("/") + "/" for prefix in own_code if prefix)
    own = [frame for frame in frames if _is_own(frame, prefixes)]
    places = dict.fromkeys(Place(_tail(frame.file), _name(frame.function)) for frame in own or frames)
    return list(places)[-PLACES:]


def text_of(stack: str | Sequence[str | StackFrame]) -> str:
    """The stack as a person reads it, frames in Python's way."""
    if isinstance(stack, str):
        return stack
    return "\n".join(part.rstrip("\n") if isinstance(part, str) else _line(part) for part in stack)


def _line(frame: StackFrame) -> str:
    return f'  File "{frame.file}", line {frame.line}, in {frame.function or "?"}'


def _frames(stack: str | Sequence[str | StackFrame]) -> Iterable[StackFrame]:
    told = [] if isinstance(stack, str) else [part for part in stack if isinstance(part, StackFrame)]
    if told and len(told) == len(stack):
        return told if len(told) <= 2 * END_FRAMES else [*told[:END_FRAMES], *told[-END_FRAMES:]]
    return _read(text_of(stack))


def _read(text: str) -> Iterable[StackFrame]:
    """The frames of a text; of a long one the whole lines at its ends."""
    if len(text) > 2 * END_CHARS:
        text = f"{text[:END_CHARS].rpartition(chr(10))[0]}\n{text[-END_CHARS:].partition(chr(10))[2]}"
    for line in _last_error(text).splitlines():
        if _PASSED_ON.match(line):
            return
        frame = _frame(line)
        if frame is not None:
            yield frame


def _last_error(text: str) -> str:
    """From where the last error's own traceback begins, members of a group apart."""
    begins = [found.start() for found in _BEGIN.finditer(text) if "|" not in found["inside"]]
    return text[begins[-1] :] if begins else text


def _frame(line: str) -> StackFrame | None:
    python = _PYTHON.match(line)
    if python is not None:
        return StackFrame(file=python["file"], function=python["function"] or "")
    place = _PLACE.search(line[:LINE_CHARS])
    if place is None:
        return None
    called = _CALLED.match(line)
    return StackFrame(file=place["file"], function=called["function"] if called is not None else "")


def _is_own(frame: StackFrame, prefixes: tuple[str, ...]) -> bool:
    if frame.own is not None:
        return frame.own
    file = _slashes(frame.file)
    if prefixes:
        return f"{file}/".startswith(prefixes)
    return _LIBRARY.search(file) is None and _TANDEM.search(file) is None


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def _tail(file: str) -> str:
    parts = _slashes(file[-1_024:]).split("/")[-TAIL_PARTS:]
    return "/".join(mask(_TEMPORARY.sub("<temporary>", part)) for part in parts)


def _name(function: str) -> str:
    return mask(function[:NAME_CHARS])
