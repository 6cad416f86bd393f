"""A supervisor's vocabulary: its host's processes, vitals, and the VRAM leases on its own cards."""

from __future__ import annotations

from typing import Literal

from common.api import core_orchestrator, decisions, gpus, leases, links, models, relays, separations
from common.api.basic import Phase
from common.api.host_memory import Cores
from common.api.words import (
    Access,
    AnyVerb,
    Bytes,
    Count,
    Cursor,
    Id,
    Message,
    Name,
    Priority,
    Seconds,
    Text,
    Timestamp,
    Topic,
    Verb,
)

PORTS = {"mainpc": (7090, 7590, 8090), "pc2": (7091, 7591, 8091)}
"""Request, events and health port of each host's supervisor."""


class AgentName(Message, frozen=True):
    """Names one process of the startup file."""

    agent_name: Name


class Operation(Message, frozen=True):
    """An operation begun: its id, and the phase the process is in now."""

    operation_id: Id
    phase: Phase


class Process(Message, frozen=True):
    """One process of the startup file: what it is doing and why it waits, if it does; `probe` is how its health is asked for."""

    name: str
    kind: Literal["service", "agent"]
    phase: Phase
    waiting_for: str
    pid: Count
    start_time: Count
    restarts: Count
    uptime_s: Seconds
    rss_bytes: Bytes
    cpu_pct: float
    port: Count
    health_check_port: Count
    capabilities: list[str]
    last_exit: str
    stderr_tail: list[str]
    since: Timestamp
    probe: Literal["zmq", "http", "tcp", "none"] = "zmq"


class ListProcesses(Message, frozen=True):
    """All processes of this host."""


class Processes(Message, frozen=True):
    """The processes of this host."""

    host: str
    processes: list[Process]
    as_of: Cursor


class GetVitals(Message, frozen=True):
    """This host's vitals, now."""


class Vitals(Message, frozen=True):
    """CPU, memory, disk and load of a host, as psutil reads them."""

    host: str
    cpu_pct: float
    load_1m: float
    cores: Count
    memory_total_bytes: Bytes
    memory_used_bytes: Bytes
    swap_used_bytes: Bytes
    disk_total_bytes: Bytes
    disk_free_bytes: Bytes
    uptime_s: Seconds
    processes: Count


class ReadLog(Message, frozen=True):
    """Reads a process's log from `offset` on (negative: that many bytes before its end)."""

    agent_name: Name
    offset: int = -16_384
    limit: Count = 65_536


class LogText(Message, frozen=True):
    """A piece of the log, and where the next begins; `rotated` when what was before is in an older file."""

    text: Text
    next_offset: Count
    rotated: bool = False


class AdmitLease(leases.AcquireLease, frozen=True, kw_only=True):
    """ResourceManager's plan for this supervisor's card: admit or refuse now, under the lease id that it chose.

    `anew`: whoever held a lease under this key before gave it back, so that the key may get another one. `declared_bytes` is what
    was asked for where `bytes` is what the card's host has learned instead; its supervisor fills it in. For its own engines it
    also asks itself for leases of no card, with `cards` 0. `held_priority` is the one that the lease weighs with against others
    once it is granted, where that is not the request's.
    """

    lease_id: Id
    identity: str = ""
    anew: bool = False
    declared_bytes: Bytes = 0
    held_priority: Priority | None = None


class MakeRoom(Message, frozen=True):
    """ResourceManager's plan for one of this supervisor's cards: have leases go until `bytes` are free for `lease_id`.

    The supervisor decides anew which ones; asked again for the same lease id it answers as before. What comes free is kept for
    `lease_id` for `patience_s`, with what the lease wants of the host's RAM, disk and cores, and is admitted by `admit_lease`
    under that id.
    """

    lease_id: Id
    model: Name
    bytes: Bytes
    priority: Priority
    card_uuid: str
    config: str = ""
    exclusive: bool = False
    patience_s: Seconds = 30.0
    ram_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    cpu_cores: Cores = 0.0


class RoomPromised(Message, frozen=True):
    """The leases that go, what they were weighed against, and how long it may take until the card shows their bytes."""

    victims: list[decisions.Victim]
    within_s: Seconds


class ProcessChanged(Message, frozen=True):
    """A process changed phase; the entity in the header is its name."""

    process: Process
    was: Phase


START_AGENT = Verb("start_agent", AgentName, Operation, Access.CONTROL, summary="start a process of this host")
STOP_AGENT = Verb("stop_agent", AgentName, Operation, Access.CONTROL, summary="stop it and keep it stopped")
RESTART_AGENT = Verb(
    "restart_agent", AgentName, Operation, Access.CONTROL, idempotent=False, summary="stop it, start it"
)
LIST_PROCESSES = Verb(
    "list_processes", ListProcesses, Processes, Access.READ, summary="processes with phase and reason"
)
GET_VITALS = Verb("get_vitals", GetVitals, Vitals, Access.READ, summary="CPU, memory and disk of this host")
READ_LOG = Verb("read_log", ReadLog, LogText, Access.READ, summary="a piece of a process's log")
ADMIT_LEASE = Verb(
    "admit_lease",
    AdmitLease,
    leases.LeaseGranted,
    Access.USE,
    part=leases.LeaseProgress,
    stability="internal",
    summary="admit the planner's choice on one of this host's cards, or refuse it",
)

MAKE_ROOM = Verb(
    "make_room",
    MakeRoom,
    RoomPromised,
    Access.USE,
    stability="internal",
    summary="evict leases from one of this host's cards for a request",
)

VERBS: tuple[AnyVerb, ...] = (
    START_AGENT,
    STOP_AGENT,
    RESTART_AGENT,
    LIST_PROCESSES,
    GET_VITALS,
    READ_LOG,
    ADMIT_LEASE,
    MAKE_ROOM,
    leases.MARK_LEASE,
    *leases.VERBS,
    *gpus.VERBS,
    *decisions.VERBS,
    *models.VERBS,
    models.RELOAD_MODELS,
    models.ASK_MODEL,
    models.PACE_MODEL,
    *links.VERBS,
    *separations.VERBS,
    *relays.VERBS,
    core_orchestrator.GET_AGENT_ENDPOINT,
    core_orchestrator.LIST_AGENTS,
    core_orchestrator.FIND_AGENTS,
)

PROCESS_CHANGED = Topic("processes.changed", ProcessChanged, "a process changed phase")
VITALS_SAMPLED = Topic("vitals.sampled", Vitals, "vitals of this host")

TOPICS: tuple[Topic, ...] = (
    PROCESS_CHANGED,
    VITALS_SAMPLED,
    leases.LEASE_CHANGED,
    gpus.CARDS_SAMPLED,
    models.MODEL_CHANGED,
    *links.TOPICS,
    *relays.TOPICS,
)
