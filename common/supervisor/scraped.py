"""The list of this host's native agents for Prometheus to scrape (its file_sd form), in a file that is replaced whole.

It decides who is on the list: native agents registered here that are not overdue, since those answer `/metrics` on their health
ports, which are on loopback. It asks nobody, and scrapes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from common.api.core_orchestrator import Agent
from common.supervisor.whereabouts import LOOPBACK

FILE: Final = Path("prometheus/agents.json")


class ScrapedAgents:
    """The file in `folder`, the home of `host`; written where who is to be on it changed."""

    def __init__(self, folder: Path, host: str) -> None:
        self._path = folder / FILE
        self._host = host
        self._written = b""

    def keep(self, agents: Iterable[Agent]) -> bool:
        """Writes the file anew where that is needed; whether it is as it should be, which on a full disk it is not."""
        listed = [_target(one) for one in sorted(agents, key=lambda one: one.agent_name) if self._is_scraped(one)]
        text = msgspec.json.format(msgspec.json.encode(listed))
        if text == self._written:
            return True
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            new = self._path.with_name(f".{self._path.name}.new")
            new.write_bytes(text)
            os.replace(new, self._path)
        except OSError:
            return False
        self._written = text
        return True

    def _is_scraped(self, agent: Agent) -> bool:
        here = agent.location == self._host and agent.dress == "native"
        return here and bool(agent.health_check_port) and agent.liveness != "expired"


def _target(agent: Agent) -> dict[str, object]:
    labels = {"host": agent.location, "agent": agent.agent_name}
    return {"targets": [f"{LOOPBACK}:{agent.health_check_port}"], "labels": labels}
