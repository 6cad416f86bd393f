"""CoreOrchestrator's vocabulary: who is where, requests in flight, and the twin that folds everyone's events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from common.api.words import (
    DEFAULT_PRIORITY,
    Access,
    AnyVerb,
    Blob,
    Count,
    Cursor,
    Empty,
    Host,
    Id,
    Key,
    MaybePort,
    Message,
    Name,
    Port,
    Priority,
    Seconds,
    Text,
    Timestamp,
    Topic,
    Verb,
)

SERVICE = "CoreOrchestrator"
PORT, EVENTS_PORT, HEALTH_PORT = 7000, 7500, 8000

Liveness = Literal["alive", "suspect", "expired", "unpromised"]
State = Literal["queued", "running", "done", "failed", "expired", "cancelled"]
Dress = Literal["plain", "native"]
ServerKey = Annotated[str, Meta(max_length=40, description="a CURVE public key in Z85; empty: not encrypted")]
Capabilities = Annotated[list[Name], Meta(max_length=128)]


class RegisterAgent(Message, frozen=True):
    """Says where an agent is and what it offers; the same again is a renewal, another place is a move.

    `ttl_s` promises a heartbeat at least that often (absent: no promise, never expired). `verbs` maps a capability to the
    verb that performs it where the names differ; capabilities in `idempotent` may be performed twice. `location` is the
    fabric's host the agent runs on, `boot` the life of its process, `server_key` the CURVE key (Z85) of its ports on that host's
    addresses; empty: it has none.
    """

    agent_name: Name
    host: Host
    port: Port
    capabilities: Capabilities
    health_check_port: MaybePort = 0
    events_port: MaybePort = 0
    metadata: dict[str, Any] = {}
    ttl_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    dress: Dress = "plain"
    verbs: dict[str, Name] = {}
    idempotent: Capabilities = []
    location: str = ""
    boot: str = ""
    pid: Count = 0
    server_key: ServerKey = ""


class Registered(Message, frozen=True):
    """`boot` of the registry: when it changes, register again."""

    boot: str


class AgentName(Message, frozen=True):
    """Names one agent."""

    agent_name: Name


class LocateAgent(AgentName, frozen=True, kw_only=True):
    """Asks where an agent answers; `curve`: the asker can speak CURVE, and so cross hosts by itself."""

    curve: bool = False


class Heartbeat(Message, frozen=True):
    """Keeps a promise; `boot` of the registry comes back so that a restart shows."""

    agent_name: Name
    load: Annotated[float, Meta(ge=0)] = 0.0
    metrics: dict[str, float] = {}


class Endpoint(Message, frozen=True):
    """Where an agent answers, relative to the asker, and whether it is alive.

    `age_s` is 0 from the registry itself; from a supervisor's copy, how long ago that was last in step. With a `server_key` it is
    reached over CURVE, if the asker's keyring has that key for that agent of `location`.
    """

    agent_name: Name
    host: Host
    port: Port
    health_check_port: MaybePort
    events_port: MaybePort
    capabilities: list[str]
    liveness: Liveness
    dress: Dress
    location: str
    age_s: Seconds = 0.0
    server_key: ServerKey = ""


class Agent(Message, frozen=True):
    """An agent as lists show it; ages in seconds."""

    agent_name: Name
    host: Host
    port: Port
    health_check_port: MaybePort
    events_port: MaybePort
    capabilities: list[str]
    verbs: dict[str, str]
    idempotent: list[str]
    metadata: dict[str, Any]
    liveness: Liveness
    dress: Dress
    location: str
    boot: str
    pid: Count
    ttl_s: float | None
    heard_s: Seconds
    in_flight: Count
    registered_at: Timestamp
    server_key: ServerKey = ""


class FindAgents(Message, frozen=True):
    """Agents that offer `capability`, healthy first."""

    capability: Name


class Agents(Message, frozen=True):
    """The agents and the place in `agents.changed` that this list reflects; `age_s` as in an Endpoint."""

    agents: list[Agent]
    as_of: Cursor
    age_s: Seconds = 0.0


class SubmitRequest(Message, frozen=True):
    """Asks any agent that offers the capability (`type` is the old word for it: text, audio, vision, ...).

    The agent is sent the fields that came, `data` and `params` also where they are empty; for text, audio and vision what they
    are about (`data`, `audio_data`, `image_data`) in any case. `wait` true answers when it is done, or after `wait_s` with the
    state so far; false answers at once.
    """

    type: str = ""
    capability: str = ""
    data: Text | None = None
    audio_data: Blob = memoryview(b"")
    image_data: Blob = memoryview(b"")
    params: dict[str, Any] | None = None
    priority: Priority = DEFAULT_PRIORITY
    deadline_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    idempotency_key: Key = ""
    wait: bool = True
    wait_s: Seconds = 4.0


class RequestStatus(Message, frozen=True):
    """A request's state; `result` when done, `error` and `code` when not to be done, `reason` for waiting or running again."""

    request_id: Id
    state: State
    capability: str
    agent_name: str = ""
    attempts: Count = 0
    position: Count = 0
    result: Any = None
    code: str = ""
    error: str = ""
    reason: str = ""


class RequestProgress(Message, frozen=True):
    """Streamed while a request is under way: each change of state, and each part that its agent streams."""

    request_id: Id
    state: State
    agent_name: str = ""
    position: Count = 0
    reason: str = ""
    part: Any = None


class RequestId(Message, frozen=True):
    """Names one request."""

    request_id: Id


class GetTwin(Message, frozen=True):
    """The one view of everything, or of one part."""

    part: Literal["", "hosts", "services", "agents", "cards", "leases", "requests"] = ""


class Field(Message, frozen=True):
    """One fact of the twin, from whom it came and how old it is."""

    value: Any
    source: str
    age_s: Seconds


class Twin(Message, frozen=True):
    """Parts by name, each a table of facts by entity."""

    parts: dict[str, dict[str, Field]]


class GetMetrics(Message, frozen=True):
    """The latest value of each metric whose name begins with `prefix`."""

    prefix: str = ""


class Metrics(Message, frozen=True):
    """Metric name to its latest value, with age."""

    metrics: dict[str, Field]


class GetHistory(Message, frozen=True):
    """Up to `points` (60 at most) latest points of a metric."""

    metric: str
    points: Annotated[int, Meta(ge=1, le=60)] = 60


class Point(Message, frozen=True):
    """One value at one time."""

    at: Timestamp
    value: float


class History(Message, frozen=True):
    """The points, oldest first."""

    metric: str
    points: list[Point]


class AgentChanged(Message, frozen=True):
    """The registry changed; the entity in the header is the agent's name."""

    change: Literal["registered", "renewed", "moved", "deregistered", "suspect", "expired", "revived"]
    agent: Agent


class RequestChanged(Message, frozen=True):
    """A request changed state; the entity in the header is its id."""

    status: RequestStatus


REGISTER_AGENT = Verb("register_agent", RegisterAgent, Registered, Access.USE, summary="say where an agent is")
DEREGISTER_AGENT = Verb("deregister_agent", AgentName, Empty, Access.USE, summary="take an agent off the registry")
HEARTBEAT = Verb("heartbeat", Heartbeat, Registered, Access.USE, summary="keep the promise of ttl_s")
GET_AGENT_ENDPOINT = Verb("get_agent_endpoint", LocateAgent, Endpoint, Access.READ, summary="where an agent answers")
LIST_AGENTS = Verb("list_agents", Empty, Agents, Access.READ, summary="all agents")
FIND_AGENTS = Verb("find_agents", FindAgents, Agents, Access.READ, summary="agents with a capability, healthy first")
SUBMIT_REQUEST = Verb(
    "submit_request",
    SubmitRequest,
    RequestStatus,
    Access.USE,
    idempotent=False,
    part=RequestProgress,
    summary="have a live agent perform a capability",
)
GET_REQUEST = Verb("get_request", RequestId, RequestStatus, Access.READ, summary="a request's state and result")
CANCEL_REQUEST = Verb("cancel_request", RequestId, RequestStatus, Access.USE, summary="withdraw a request")
GET_TWIN = Verb("get_twin", GetTwin, Twin, Access.READ, summary="everyone's events folded into one view")
GET_METRICS = Verb("get_metrics", GetMetrics, Metrics, Access.READ, summary="latest values")
GET_HISTORY = Verb("get_history", GetHistory, History, Access.READ, summary="the last 60 points of a metric")

VERBS: tuple[AnyVerb, ...] = (
    REGISTER_AGENT,
    DEREGISTER_AGENT,
    HEARTBEAT,
    GET_AGENT_ENDPOINT,
    LIST_AGENTS,
    FIND_AGENTS,
    SUBMIT_REQUEST,
    GET_REQUEST,
    CANCEL_REQUEST,
    GET_TWIN,
    GET_METRICS,
    GET_HISTORY,
)

AGENTS_CHANGED = Topic("agents.changed", AgentChanged, "an agent came, moved, fell silent or went")
REQUESTS_CHANGED = Topic("requests.changed", RequestChanged, "a request changed state")

TOPICS: tuple[Topic, ...] = (AGENTS_CHANGED, REQUESTS_CHANGED)
