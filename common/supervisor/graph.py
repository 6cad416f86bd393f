"""Who may start, who must wait and for whom, and who may stop; fed with phases of this host's and other hosts' processes.

`depends_on` waits until the other process is ready. `after` waits only while the other one is on its way up, and never for a
host that was not heard of. Gates are looked at before a process starts: what happens to a dependency later changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from common.api.basic import Phase
from common.config.schema import Entry, qualified

Standing = Phase | Literal["waiting"]
"""A phase, where a `starting` process of this host that waits for others is told apart as `waiting`."""

OVER: Final = ("stopped", "crash-looping")


class Graph:
    """One host's dependencies, known to hold no circle, and the last known standing of everyone in them."""

    def __init__(self, host: str, entries: Iterable[Entry]) -> None:
        self.host = host
        self._needs: dict[str, list[str]] = {}
        self._follows: dict[str, list[str]] = {}
        for entry in entries:
            node = qualified(host, entry.name)
            self._needs[node] = [qualified(host, name) for name in entry.depends_on]
            self._follows[node] = [qualified(host, name) for name in entry.after]
        self._standings: dict[str, Standing] = {}

    def heard(self, name: str, standing: Standing) -> None:
        """Notes the standing of `name`, of this host or on another host (`host/name`)."""
        self._standings[qualified(self.host, name)] = standing

    def lost(self, host: str) -> None:
        """Forgets what was known of `host`: nothing there counts as ready until it is heard of again."""
        self._standings = {
            name: standing for name, standing in self._standings.items() if not name.startswith(f"{host}/")
        }

    def waits_for(self, name: str) -> list[str]:
        """Why `name` may not start now, one reason for each process it waits for; empty: it may."""
        node = qualified(self.host, name)
        needed = [other for other in self._needs[node] if self._standings.get(other) != "ready"]
        awaited = [*needed, *(other for other in self._follows[node] if self._rising(other))]
        return [self._reason(other) for other in dict.fromkeys(awaited)]

    def hopeless(self, name: str) -> bool:
        """Whether `name` waits for a process of this host that will not become ready without an operator's doing."""
        node = qualified(self.host, name)
        return self._standings.get(node) == "waiting" and any(
            self._standings.get(other) in OVER or self.hopeless(other)
            for other in self._needs[node]
            if other in self._needs
        )

    def dependents(self, name: str) -> list[str]:
        """The processes of this host that come up after `name` and have not stopped; while there are any, it may not stop."""
        node = qualified(self.host, name)
        return [
            other.partition("/")[2]
            for other in self._needs
            if node in (*self._needs[other], *self._follows[other])
            and self._standings.get(other, "stopped") not in OVER
        ]

    def _rising(self, node: str) -> bool:
        standing = self._standings.get(node)
        return standing == "starting" or (standing == "waiting" and not self.hopeless(node))

    def _reason(self, node: str) -> str:
        host, _, name = node.partition("/")
        standing = self._standings.get(node)
        if host == self.host:
            return f"{name} ({standing or 'unknown'})"
        return f"{node} ({standing})" if standing else f"{node} ({host} was not heard of)"
