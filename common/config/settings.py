"""The environment variables Tandem reads, all of them here: a door's own settings, and what a supervisor tells its children.

| variable | meaning | default |
| --- | --- | --- |
| TANDEM_HOME | folder that holds one locked subfolder per host | ./var |
| TANDEM_HOST | name of the host this process belongs to | empty: not told |
| TANDEM_AGENT_NAME | the process's name in the startup file | empty: not supervised |
| TANDEM_PORT, TANDEM_EVENTS_PORT, TANDEM_HEALTH_PORT | ports to bind on this host's loopback; 0: any | 0 |
| TANDEM_LISTEN | addresses of this host for encrypted ports of the same numbers, by commas | empty: loopback alone |
| TANDEM_KEYS | file of this process's key pair; the host's keyring lies beside it | empty: no key, loopback alone |
| TANDEM_TOKEN | a token that this process shows to services and supervisors, or to whom it is meant for | empty: none |
| TANDEM_SERVICES | where services are: `Name=port[:events_port]@address[#host/process]`, by commas | the well-known ports |
| TANDEM_STORE | where a service keeps its records: a folder, or a `redis://`, `rediss://` or `unix://` URL | the host's home |
| TANDEM_SIMULATE_CARDS | 1: cards are simulated where NVML finds none; always: NVML is not asked | 0 |
| TANDEM_SIMULATED_CARDS | folders of simulated cards, by colons, for programs that use them | empty |
| TANDEM_SUPERVISED | the supervisor's life and the process's name: the mark by which stray children are found | empty |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import BadRequest

DEFAULT_HOME: Final = "var"
SERVICES: Final = "TANDEM_SERVICES"
SIMULATE_CARDS: Final = "TANDEM_SIMULATE_CARDS"
ALWAYS: Final = "always"
MARK: Final = "TANDEM_SUPERVISED"
LOOPBACK: Final = "127.0.0.1"
KEYS: Final = "TANDEM_KEYS"
TOKEN: Final = "TANDEM_TOKEN"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a door reads before it has a startup file; with `leave_real_cards` the host's own cards are not touched."""

    home: Path
    simulate_cards: bool = False
    leave_real_cards: bool = False

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """From the environment; the home becomes absolute, since children may run elsewhere. BadRequest for an odd switch."""
        switch = environ.get(SIMULATE_CARDS) or "0"
        if switch not in ("0", "1", ALWAYS):
            raise BadRequest(f"{SIMULATE_CARDS} is 0, 1 or {ALWAYS}, not {switch!r}")
        home = Path(environ.get("TANDEM_HOME") or DEFAULT_HOME).absolute()
        return cls(home, simulate_cards=switch != "0", leave_real_cards=switch == ALWAYS)


@dataclass(frozen=True, slots=True)
class AgentEnvironment:
    """What a supervisor tells a child; the defaults are those of a process started by hand."""

    home: Path
    host: str = ""
    agent_name: str = ""
    port: int = 0
    events_port: int = 0
    health_port: int = 0
    store: str = ""
    listen: tuple[str, ...] = ()
    keys: str = ""
    supervised: bool = False

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> AgentEnvironment:
        """From the environment; `BadRequest` names every variable that cannot be read."""
        ports = {name: environ.get(name) or "0" for name in ("TANDEM_PORT", "TANDEM_EVENTS_PORT", "TANDEM_HEALTH_PORT")}
        wrong = [f"{name}={text!r}" for name, text in ports.items() if not _is_port(text)]
        if wrong:
            raise BadRequest(f"not a port from 0 to 65535: {', '.join(wrong)}")
        port, events_port, health_port = (int(text) for text in ports.values())
        return cls(
            home=Settings.read(environ).home,
            host=environ.get("TANDEM_HOST", ""),
            agent_name=environ.get("TANDEM_AGENT_NAME", ""),
            port=port,
            events_port=events_port,
            health_port=health_port,
            store=environ.get("TANDEM_STORE", ""),
            listen=tuple(piece.strip() for piece in environ.get("TANDEM_LISTEN", "").split(",") if piece.strip()),
            keys=environ.get(KEYS, ""),
            supervised=bool(environ.get(MARK)),
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to listen: loopback in plain, then the others, encrypted."""
        return (LOOPBACK, *(address for address in self.listen if address != LOOPBACK))

    @property
    def key_file(self) -> Path | None:
        """This process's own key pair; None: it has none."""
        return Path(self.keys) if self.keys else None

    def variables(self) -> dict[str, str]:
        """The same as environment variables, for a child; the store it inherits, and its mark is set apart."""
        return {
            "TANDEM_HOME": str(self.home),
            "TANDEM_HOST": self.host,
            "TANDEM_AGENT_NAME": self.agent_name,
            "TANDEM_PORT": str(self.port),
            "TANDEM_EVENTS_PORT": str(self.events_port),
            "TANDEM_HEALTH_PORT": str(self.health_port),
            "TANDEM_LISTEN": ",".join(self.listen),
            KEYS: self.keys,
        }


def supervisors_mark(environ: Mapping[str, str] = os.environ) -> str:
    """The mark of the supervisor's launch that this process comes from; empty where it was started by hand."""
    return environ.get(MARK, "")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65_535
