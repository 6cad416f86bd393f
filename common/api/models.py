"""Managed models: engines that a host starts where there is room when someone asks; ResourceManager speaks so too."""

from __future__ import annotations

from typing import Any, Final, Literal

from common.api.leases import LeaseGranted, Owner
from common.api.words import (
    DEFAULT_PRIORITY,
    Access,
    AnyVerb,
    Bytes,
    Count,
    Cursor,
    Empty,
    Id,
    Key,
    Message,
    Name,
    Priority,
    Seconds,
    Topic,
    Verb,
)

ModelState = Literal["absent", "queued", "loading", "ready", "parked", "expiring", "failed"]


class UseModel(Message, frozen=True):
    """Asks for a model, by its name or an alias: where it is loaded, or where it can be loaded within `wait_s`.

    What is granted is a share of the engine's lease, held by `owner` or for `ttl_s`; give it back with `release_lease`.
    """

    model: Name
    capability: str = ""
    host: str = ""
    priority: Priority = DEFAULT_PRIORITY
    wait_s: Seconds = 0.0
    ttl_s: Seconds = 60.0
    owner: Owner | None = None
    idempotency_key: Key = ""


class ModelProgress(Message, frozen=True):
    """Streamed while a model is waited for; `eta_s` is the best estimate of how long yet, null where there is none.

    `for_card`, `for_host`: room on a card, or in the host's RAM, disk and cores, may be what is waited for.
    """

    phase: Literal["queued", "evicting", "loading"]
    host: str
    position: Count
    waited_s: Seconds
    eta_s: Seconds | None
    reason: str
    for_card: bool = True
    for_host: bool = False


class ModelReady(Message, frozen=True):
    """The model answers at `url` on `host`'s loopback, there under the name `upstream`; `lease` is the share to give back.

    `of_host`: its engine's lease holds some of the host's RAM, disk or cores.
    """

    model: str
    host: str
    url: str
    upstream: str
    engine: str
    lease: LeaseGranted
    waited_s: Seconds
    loaded: bool
    of_host: bool = False


class Model(Message, frozen=True):
    """One model of a host's startup file and what it is doing; `problem` says what it lacks or why it failed.

    One that is not `listed` is served to whoever asks for it by name, and is left out of what clients are shown. One that is not
    `enabled` is served to nobody.
    """

    name: str
    host: str
    engine: str
    state: ModelState
    aliases: list[str]
    capabilities: list[str]
    declared_bytes: Bytes
    footprint_bytes: Bytes
    load_s: Seconds
    users: Count
    slots: Count
    pinned: bool
    priority: Priority
    url: str = ""
    upstream: str = ""
    lease_id: str = ""
    card_uuid: str = ""
    pid: Count = 0
    idle_s: Seconds = 0.0
    config: str = ""
    adopted: bool = False
    problem: str = ""
    listed: bool = True
    enabled: bool = True


class ListModels(Message, frozen=True):
    """All managed models, or one host's."""

    host: str = ""


class Models(Message, frozen=True):
    """The models and, per host that could not be asked, why its part is missing."""

    models: list[Model]
    as_of: Cursor
    missing: dict[str, str] = {}


class StopModel(Message, frozen=True):
    """Has a model's engine stopped and its lease given back, also when it is in use."""

    model: Name
    host: str = ""


class ModelStopped(Message, frozen=True):
    """What the model came to, and what its engine was seen to give back."""

    state: ModelState
    returned_bytes: Bytes


class ReloadModels(Message, frozen=True):
    """Has the supervisor read the models of its startup file anew: new ones are taken in, and nothing that runs is touched."""


class AskModel(Message, frozen=True):
    """One HTTP request to an engine on this host's loopback, under a live share of its lease; the answer is streamed.

    The share's fencing token shows that the caller was given it, whoever asked for it. `reader`, a name of the caller's choosing,
    is under which it tells how much of the answer it has taken (`pace_model`); no more than 1 MiB is sent ahead of that. Without
    it the answer may have 16 MiB.
    """

    lease_id: Id
    fencing_token: Count
    method: Literal["GET", "POST", "DELETE", "HEAD"]
    path: str
    headers: dict[str, str] = {}
    body: bytes = b""
    reader: Key = ""


WINDOW_BYTES: Final = 2**20
"""How far the answer to `ask_model` runs ahead of what its reader says to have taken."""


class PaceModel(Message, frozen=True):
    """Whoever reads an answer of `ask_model` under this share has taken so many bytes of it in all.

    It is told again, with what was taken by then, until it was answered: whoever did not hear it sends nothing more. Less than
    was told before is an old message, and changes nothing.
    """

    lease_id: Id
    fencing_token: Count
    reader: Key
    taken_bytes: Bytes


class ModelBytes(Message, frozen=True):
    """A piece of the engine's answer: the first part has `http_status` and the headers, the last reply ends the body."""

    http_status: Count = 0
    headers: dict[str, str] = {}
    data: bytes = b""


class ModelChanged(Message, frozen=True):
    """A model changed its state; the entity in the header is its name."""

    model: Model
    was: ModelState
    details: dict[str, Any] = {}


USE_MODEL = Verb(
    "use_model",
    UseModel,
    ModelReady,
    Access.USE,
    idempotent=False,
    part=ModelProgress,
    summary="a model's address, loaded where there is room",
)
LIST_MODELS = Verb("list_models", ListModels, Models, Access.READ, summary="managed models and where they are")
STOP_MODEL = Verb("stop_model", StopModel, ModelStopped, Access.CONTROL, summary="stop a model's engine")
RELOAD_MODELS = Verb(
    "reload_models", ReloadModels, Models, Access.CONTROL, summary="take in the startup file's new models"
)
ASK_MODEL = Verb(
    "ask_model",
    AskModel,
    ModelBytes,
    Access.USE,
    idempotent=False,
    part=ModelBytes,
    stability="internal",
    summary="an HTTP request to an engine of this host",
)

PACE_MODEL = Verb(
    "pace_model",
    PaceModel,
    Empty,
    Access.USE,
    stability="internal",
    summary="how much of an engine's answer its reader has taken",
)

MODEL_CHANGED = Topic("models.changed", ModelChanged, "a managed model changed its state")

VERBS: tuple[AnyVerb, ...] = (USE_MODEL, LIST_MODELS, STOP_MODEL)
