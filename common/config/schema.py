"""The shape of a startup file: which fields there are, their types, units, bounds and defaults; never what they mean together.

Every struct forbids unknown fields. What one file's parts say about each other is common/config/validate.py's to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from common.config.models import Model
from common.config.sections import Label as Label
from common.config.sections import Limits as Limits
from common.config.sections import Logs as Logs
from common.config.sections import PortOrChosen as PortOrChosen
from common.config.sections import Section as Section
from common.config.sections import Stop as Stop
from common.config.units import Duration, Size

Kind = Literal["service", "agent"]


class Ports(Section, frozen=True):
    """The three ports of a process: requests, events, health."""

    port: PortOrChosen = 0
    events_port: PortOrChosen = 0
    health_check_port: PortOrChosen = 0


class Peer(Section, frozen=True):
    """Another host's supervisor: where it can be reached from here.

    `services` are those of its services that are not on their well-known ports, by their names in that host's file.
    """

    address: str
    supervisor_port: Annotated[int, Meta(ge=1, le=65_535)]
    events_port: Annotated[int, Meta(ge=1, le=65_535)]
    services: dict[str, Ports] = {}


class SimulatedCard(Section, frozen=True):
    """A card to simulate where the door was told to and NVML finds none."""

    memory: Size
    name: str = "simulated"


class HealthProbe(Section, frozen=True):
    """How readiness is seen, and for how long it is waited for.

    `how`: `zmq` asks the health port for `health_check`, `http` for `/health`; `tcp` connects to the health port, or to `port`
    where there is none; `none` takes a launched process for a ready one. `timeout_s` bounds one probe; one that is not ready
    `ready_within_s` after its launch is ended and counts as failed.
    """

    how: Literal["zmq", "http", "tcp", "none"] = "zmq"
    timeout_s: Duration = Duration(1.0)
    ready_within_s: Duration = Duration(60.0)


class Restart(Section, frozen=True):
    """When an ended process is started again, how soon, and when that is given up.

    The n-th restart of a row waits min(max_delay_s, delay_s * backoff^(n-1)), scattered by +-jitter (a fraction). More than
    `attempts` restarts within `interval_s` are a crash loop. `stable_s` of readiness end the row and forgive what was before.
    """

    when: Literal["never", "on-failure", "always"] = "on-failure"
    attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 5
    interval_s: Duration = Duration(60.0)
    delay_s: Duration = Duration(0.2)
    backoff: Annotated[float, Meta(ge=1, le=10)] = 2.0
    max_delay_s: Duration = Duration(30.0)
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    stable_s: Duration = Duration(10.0)


class Entry(Section, frozen=True):
    """One process: what runs, where, on which ports, after whom, and what happens when it ends.

    In `command` and `env`, `{python}` is the running interpreter, `{home}` the host's folder and `{host}` its name. `depends_on`
    waits until each named process is ready (`host/name` on another host); `after` merely orders. `survive_supervisor`
    leaves it running when the supervisor is killed; an orderly stop ends it all the same.
    """

    kind: ClassVar[Kind] = "agent"

    name: Label
    command: list[str]
    cwd: str = ""
    env: dict[str, str] = {}
    port: PortOrChosen = 0
    events_port: PortOrChosen = 0
    health_check_port: PortOrChosen = 0
    health: HealthProbe = HealthProbe()
    capabilities: list[str] = []
    depends_on: list[str] = []
    after: list[str] = []
    restart: Restart = Restart()
    stop: Stop = Stop()
    limits: Limits = Limits()
    logs: Logs = Logs()
    enabled: bool = True
    survive_supervisor: bool = False


class Agent(Entry, frozen=True):
    """An entry under `agents`."""


class Service(Entry, frozen=True):
    """An entry under `services`."""

    kind: ClassVar[Kind] = "service"


class Startup(Section, frozen=True):
    """A startup file: one host, its supervisor, what runs there, and the models that are started when somebody asks.

    `listen` are the addresses its native ports are offered on beside loopback, each explicit. `peers` are the other hosts
    by name.
    """

    version: Literal[1]
    host: Label
    supervisor: Ports
    listen: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1"])
    peers: dict[str, Peer] = {}
    vitals_interval_s: Duration = Duration(2.0)
    simulated_cards: list[SimulatedCard] = []
    services: list[Service] = []
    agents: list[Agent] = []
    models: list[Model] = []

    @property
    def entries(self) -> Iterator[Entry]:
        """Services, then agents, each in the file's order."""
        yield from self.services
        yield from self.agents


def qualified(host: str, name: str) -> str:
    """A process's name across hosts: `name` on `host` unless it names a host itself."""
    return name if "/" in name else f"{host}/{name}"


def fill(text: str, *, python: str, home: str, host: str) -> str:
    """`text` with `{python}`, `{home}` and `{host}` filled in; any other brace stays as it is."""
    for key, value in (("{python}", python), ("{home}", home), ("{host}", host)):
        text = text.replace(key, value)
    return text
