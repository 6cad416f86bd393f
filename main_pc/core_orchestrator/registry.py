"""The registry: who is where, what each agent offers and whether it is alive.

Registrations are facts: `register` and `deregister` decide and change nothing, the shell applies the facts they return, writes
their `rows` and publishes the events that `apply` returned once the rows are committed. Signs of life (`heartbeat`, `seen`,
`died`, `expire`) are kept in memory only and return the events themselves. After a restart `restore` takes the stored
registrations back in, and every promise starts anew.

How to drive it: on `register_agent` and `deregister_agent` apply the facts; on `heartbeat` call `heartbeat`; several times a
second call `expire`; call `died` when a supervisor saw the process end and `seen` when it is ready again. An event whose change
is in `LOST` means that the agent's calls in flight went with it (`Requests.agent_lost`).

It never connects to an agent, stores nothing itself and reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, msgpack, structs

from common.api.core_orchestrator import Agent, AgentChanged, Heartbeat, Liveness, RegisterAgent
from common.errors import BadRequest, NotFound, Overloaded, TooLarge
from common.registry.ranking import Rank, rank
from common.store.protocol import Change
from common.store.records import Records
from main_pc.core_orchestrator import liveness
from main_pc.core_orchestrator.liveness import Sign

ChangeName = Literal["registered", "renewed", "moved", "deregistered", "suspect", "expired", "revived"]
LOST: Final[frozenset[ChangeName]] = frozenset({"moved", "expired"})
"""Changes after which a call in flight to the agent cannot be trusted to end; one that deregisters still finishes its work."""


_CONNECTABLE: Final = re.compile(r"\*|[A-Za-z0-9_:\[][A-Za-z0-9_.:%\[\]-]*")
"""What `tcp://` takes for a host, and the wildcard, which says no more than the registrant's own."""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the registry holds."""

    agents: Annotated[int, Meta(ge=1, le=1_000_000, description="agents registered")] = 10_000
    registration_bytes: Annotated[int, Meta(ge=1024, le=2**24, description="bytes of one registration, encoded")] = (
        65_536
    )
    retry_after_ms: Annotated[int, Meta(ge=1, le=3_600_000, description="hint to one that found no room")] = 60_000


class AgentRegistered(Struct, frozen=True, kw_only=True, tag_field="fact", tag="agent_registered.1"):
    """Fact: the agent is where `asked` says, since `at` (RFC 3339)."""

    asked: RegisterAgent
    at: str
    change: Literal["registered", "renewed", "moved"]


class AgentRenewed(Struct, frozen=True, kw_only=True, tag_field="fact", tag="agent_renewed.1"):
    """Fact of memory alone: the agent said again what is known; it has no rows."""

    agent_name: str


class AgentGone(Struct, frozen=True, kw_only=True, tag_field="fact", tag="agent_gone.1"):
    """Fact: the agent is off the registry, at its wish or to make room."""

    agent_name: str


Fact = AgentRegistered | AgentRenewed | AgentGone

AGENTS: Final = Records("agents", AgentRegistered)


def rows(fact: Fact) -> tuple[Change, ...]:
    """What must be committed for `fact` to outlive the process."""
    match fact:
        case AgentRegistered():
            return (AGENTS.put(fact.asked.agent_name, fact),)
        case AgentRenewed():
            return ()
        case _:
            return (AGENTS.delete(fact.agent_name),)


@dataclass(slots=True)
class Entry:
    """One registered agent; only the registry changes it."""

    asked: RegisterAgent
    registered_at: str
    liveness: Liveness
    heard_at: float
    load: float = 0.0


class Registry:
    """All registered agents. `in_flight` tells how many requests an agent is working on; `now` is monotonic seconds."""

    def __init__(self, limits: Limits | None = None, in_flight: Callable[[str], int] = lambda _: 0) -> None:
        self._limits = limits or Limits()
        self._in_flight = in_flight
        self._entries: dict[str, Entry] = {}
        self._offers: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # decisions: nothing changes before their facts are applied

    def register(self, asked: RegisterAgent, *, home: str, at: str) -> tuple[Fact, ...]:
        """The facts of a registration: new, the same again (renewed), or from another place or life (moved).

        `home` is the host the registrant is known to be on, used where it does not say. Raises BadRequest for a host that
        nobody could connect to, TooLarge, and Overloaded when all places are taken by agents that are not expired.
        """
        if not _CONNECTABLE.fullmatch(asked.host):
            raise BadRequest(f"{asked.host!r} is neither an address nor the name of a host - at `$.host`")
        asked = structs.replace(asked, location=asked.location or home)
        self._check_size(asked)
        known = self._entries.get(asked.agent_name)
        if known is None:
            return *self._room(), AgentRegistered(asked=asked, at=at, change="registered")
        if known.asked == asked:
            return (AgentRenewed(agent_name=asked.agent_name),)
        if _place(known.asked) != _place(asked):
            return (AgentRegistered(asked=asked, at=at, change="moved"),)
        return (AgentRegistered(asked=asked, at=known.registered_at, change="renewed"),)

    def deregister(self, agent_name: str) -> tuple[Fact, ...]:
        """The fact of taking an agent off; none for one that is not there, so that saying so twice is once."""
        return (AgentGone(agent_name=agent_name),) if agent_name in self._entries else ()

    # the fold

    def apply(self, fact: Fact, now: float) -> AgentChanged:
        """Takes a fact in and returns the event to publish once the fact is committed."""
        match fact:
            case AgentRegistered():
                return self._place(fact, now)
            case AgentRenewed():
                return self._heard(fact.agent_name, now) or self._event("renewed", fact.agent_name, now)
            case _:
                event = self._event("deregistered", fact.agent_name, now)
                self._forget(fact.agent_name)
                return event

    def restore(self, stored: Iterable[AgentRegistered], now: float) -> None:
        """Begins anew from the stored registrations; promises count from `now`."""
        self._entries, self._offers = {}, {}
        for fact in stored:
            self.apply(fact, now)

    # signs of life: memory alone

    def heartbeat(self, beat: Heartbeat, now: float) -> tuple[AgentChanged, ...]:
        """A promise kept; NotFound tells an unknown agent to register again."""
        entry = self.entry(beat.agent_name)
        entry.load = beat.load
        return self.seen(beat.agent_name, now)

    def seen(self, agent_name: str, now: float) -> tuple[AgentChanged, ...]:
        """Someone saw the agent alive: revives one that was suspect or expired. Unknown agents are passed over."""
        event = self._heard(agent_name, now) if agent_name in self._entries else None
        return (event,) if event else ()

    def died(self, agent_name: str, now: float) -> tuple[AgentChanged, ...]:
        """Its host saw the agent's process end: expired at once, promise or not, until it is heard again."""
        return self._move(agent_name, Sign.DIED, now) if agent_name in self._entries else ()

    def expire(self, now: float) -> tuple[AgentChanged, ...]:
        """The events of all who have been silent for too long; called several times a second."""
        events: list[AgentChanged] = []
        for name, entry in self._entries.items():
            sign = liveness.of_silence(entry.asked.ttl_s, now - entry.heard_at)
            if sign is not None:
                events += self._move(name, sign, now)
        return tuple(events)

    # questions

    def entry(self, agent_name: str) -> Entry:
        """The agent's entry, to be read only; NotFound says that it should register."""
        try:
            return self._entries[agent_name]
        except KeyError:
            raise NotFound(f"no agent {agent_name!r} is registered; register it, or see list_agents") from None

    def offers(self, capability: str) -> bool:
        """Whether anybody registered offers `capability`, expired or not."""
        return capability in self._offers

    def offering(self, capability: str) -> list[Entry]:
        """The entries of those that offer `capability`, by name, expired ones included."""
        return [self._entries[name] for name in sorted(self._offers.get(capability, ()))]

    def agents(self, now: float, capability: str | None = None) -> list[Agent]:
        """All agents, or those that offer `capability`: healthy first, then least in flight, then by name."""
        entries = list(self._entries.values()) if capability is None else self.offering(capability)
        return [self._view(entry, now) for entry in sorted(entries, key=self._order)]

    # inside

    def _check_size(self, asked: RegisterAgent) -> None:
        size, limit = len(msgpack.encode(asked)), self._limits.registration_bytes
        if size > limit:
            raise TooLarge(f"the registration of {asked.agent_name} has {size} bytes; {limit} are allowed")

    def _room(self) -> tuple[AgentGone, ...]:
        if len(self._entries) < self._limits.agents:
            return ()
        gone = [(entry.heard_at, name) for name, entry in self._entries.items() if entry.liveness == "expired"]
        if not gone:
            raise Overloaded(
                f"the registry holds {len(self._entries)} agents and none has expired",
                retry_after_ms=self._limits.retry_after_ms,
            )
        return (AgentGone(agent_name=min(gone)[1]),)

    def _place(self, fact: AgentRegistered, now: float) -> AgentChanged:
        asked = fact.asked
        self._forget(asked.agent_name)
        self._entries[asked.agent_name] = Entry(asked, fact.at, liveness.at_registration(asked.ttl_s), now)
        for capability in asked.capabilities:
            self._offers.setdefault(capability, set()).add(asked.agent_name)
        return self._event(fact.change, asked.agent_name, now)

    def _forget(self, agent_name: str) -> None:
        entry = self._entries.pop(agent_name, None)
        for capability in set(entry.asked.capabilities) if entry else ():
            self._offers[capability].discard(agent_name)
            if not self._offers[capability]:
                del self._offers[capability]

    def _heard(self, agent_name: str, now: float) -> AgentChanged | None:
        entry = self._entries[agent_name]
        entry.heard_at = now
        was, entry.liveness = entry.liveness, liveness.NEXT[entry.liveness, liveness.of_life(entry.asked.ttl_s)]
        return self._event("revived", agent_name, now) if was != entry.liveness else None

    def _move(self, agent_name: str, sign: Sign, now: float) -> tuple[AgentChanged, ...]:
        entry = self._entries[agent_name]
        was, entry.liveness = entry.liveness, liveness.NEXT[entry.liveness, sign]
        if was == entry.liveness:
            return ()
        return (self._event("suspect" if entry.liveness == "suspect" else "expired", agent_name, now),)

    def _order(self, entry: Entry) -> Rank:
        name = entry.asked.agent_name
        return rank(entry.liveness, self._in_flight(name), name)

    def _event(self, change: ChangeName, agent_name: str, now: float) -> AgentChanged:
        return AgentChanged(change=change, agent=self._view(self._entries[agent_name], now))

    def _view(self, entry: Entry, now: float) -> Agent:
        asked = entry.asked
        return Agent(
            agent_name=asked.agent_name,
            host=asked.host,
            port=asked.port,
            health_check_port=asked.health_check_port,
            events_port=asked.events_port,
            capabilities=asked.capabilities,
            verbs=asked.verbs,
            idempotent=asked.idempotent,
            metadata=asked.metadata,
            liveness=entry.liveness,
            dress=asked.dress,
            location=asked.location,
            boot=asked.boot,
            pid=asked.pid,
            ttl_s=asked.ttl_s,
            heard_s=max(0.0, now - entry.heard_at),
            in_flight=self._in_flight(asked.agent_name),
            registered_at=entry.registered_at,
            server_key=asked.server_key,
        )


def _place(asked: RegisterAgent) -> tuple[str, str, int, str]:
    return asked.location, asked.host, asked.port, asked.boot
