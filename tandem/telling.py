"""What `tandem run` tells on stderr while it waits and runs: lines, one live line on a terminal, or JSON lines.

Stdout is the command's own.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from common.api.leases import LeaseGranted, LeaseProgress
from tandem import output

_ERASE: Final = "\r\x1b[K"


class Teller:
    """`quiet` tells warnings only; `as_json` tells each event as one JSON object a line."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self._quiet = quiet
        self._json = as_json
        self._live = sys.stderr.isatty() and not as_json
        self._drawn = False

    def waiting(self, progress: LeaseProgress) -> None:
        """The request waits, and why."""
        why = output.shortfall(progress.need_bytes, progress.free_bytes, progress.reason)
        since = f" [{output.age(progress.waited_s)}]" if progress.waited_s >= 1 else ""
        text = f"waiting: place {progress.position}; {why}{since}"
        if self._json:
            self._event("waiting", text, progress)
        elif not self._quiet and self._live:
            sys.stderr.write(_ERASE + output.fitted(output.clean(f"tandem: {text}"), sys.stderr))
            sys.stderr.flush()
            self._drawn = True
        elif not self._quiet:
            output.note(text)

    def granted(self, granted: LeaseGranted, simulated: bool) -> None:
        """The lease is there."""
        kind = " (simulated)" if simulated else ""
        many = f" and on {len(granted.card_uuids) - 1} more of its cards" if len(granted.card_uuids) > 1 else ""
        shared = f", shared with {granted.shares}" if granted.shares else ""
        where = f"{granted.host}:{granted.card}{many}{kind}"
        text = f"{output.size(granted.bytes)} on {where}, lease {granted.lease_id}{shared}"
        self._tell("granted", text, granted)

    def ended(self, text: str, report: Any) -> None:
        """The lease was given back."""
        self._tell("ended", text, report)

    def warn(self, text: str) -> None:
        """Something that the user should know, quiet or not."""
        self._erase()
        if self._json:
            self._event("warning", text, None)
        else:
            output.note(text)

    def failed(self, text: str, error: dict[str, Any]) -> None:
        """The end without a run, or before its time."""
        self._erase()
        if self._json:
            self._event("failed", text, error)
        else:
            output.note(text)

    def stopped(self) -> None:
        """The wait was broken off: what comes next on the terminal begins a line of its own."""
        if self._drawn:
            sys.stderr.write("\n")
            self._drawn = False

    def _tell(self, event: str, text: str, value: Any) -> None:
        self._erase()
        if self._json:
            self._event(event, text, value)
        elif not self._quiet:
            output.note(text)

    def _event(self, event: str, text: str, value: Any) -> None:
        sys.stderr.write(output.json_document({"event": event, "message": text, event: value}) + "\n")
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(_ERASE)
            self._drawn = False
