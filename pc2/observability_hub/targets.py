"""The list of agents for Prometheus to scrape (its file_sd form), kept in a file that is replaced whole; decides who is in it.

Only native agents of this machine are: they answer `/metrics` on their health ports, which are on loopback.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from pc2.observability_hub.subjects import LOOPBACK, Subject


class TargetsFile:
    """The file `path`; written where what is to be in it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""

    def keep(self, subjects: Iterable[Subject]) -> None:
        """Writes the file anew where that is needed. A full disk leaves the old one; the next time tries again."""
        text = msgspec.json.format(msgspec.json.encode([_target(one) for one in subjects if _is_scraped(one)]))
        if text == self._written:
            return
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            new = self._path.with_name(f".{self._path.name}.new")
            new.write_bytes(text)
            os.replace(new, self._path)
            self._written = text


def _is_scraped(subject: Subject) -> bool:
    way, agent = subject.way, subject.agent
    return agent is not None and agent.dress == "native" and subject.near and way is not None and way.how == "zmq"


def _target(subject: Subject) -> dict[str, object]:
    way = subject.way
    assert way is not None
    labels = {"host": subject.host, "agent": subject.name}
    return {"targets": [f"{LOOPBACK if way.host == 'localhost' else way.host}:{way.port}"], "labels": labels}
