"""Server-sent events taken apart as they come: what the `data` of each event says. Source: WHATWG HTML, 9.2.6."""

from __future__ import annotations

from typing import Final

from common.errors import Interrupted

DONE: Final = "[DONE]"
"""OpenAI's last event."""
LONGEST_LINE: Final = 16 * 1024 * 1024


class EventStream:
    """One stream; `feed` takes bytes cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that are whole by now. Interrupted where a line has no end."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Interrupted(f"a line of the engine's stream is longer than {LONGEST_LINE} bytes")
        found = []
        for line in lines:
            if not line and self._data:
                found.append("\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" ").decode(errors="replace"))
        return found

    def end(self) -> list[str]:
        """The data of an event that the stream's end cut off behind its last line."""
        return self.feed(b"\n\n")
