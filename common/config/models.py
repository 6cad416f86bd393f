"""Managed models of a startup file: the shape of an entry under `models`, and what its engine means by default.

A model is either started by Tandem, from a command template, when somebody asks for it and there is room (`command`), or served
by an engine that runs already (`url`). How a template is filled is common/config/template.py's, what entries say about each
other common/config/model_rules.py's.
"""

from __future__ import annotations

import re
import zlib
from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from common.api.host_memory import Cores
from common.api.leases import Cards, Config
from common.api.words import DEFAULT_PRIORITY, Name, Priority
from common.config.sections import Limits, Logs, PortOrChosen, Section, Stop
from common.config.units import Duration, Size

Files = Annotated[list[Annotated[str, Meta(min_length=1, max_length=4_096)]], Meta(max_length=64)]
"""Absolute paths, or ones in the host's folder (`{home}/`)."""

EngineKind = Literal["llama-server", "vllm", "ollama", "comfyui", "openai"]
"""Whose HTTP interface is spoken; `openai` is any server with OpenAI's, and no verb to sleep or unload by."""

Capability = Literal[
    "chat",
    "completions",
    "responses",
    "embeddings",
    "rerank",
    "transcription",
    "speech",
    "images",
    "ollama",
    "workflow",
]
"""What a model can be asked for: OpenAI's requests by name, Ollama's own, a ComfyUI workflow."""
ENGINES: Final[tuple[str, ...]] = get_args(EngineKind)

HEALTH_PATHS: Final[dict[str, str]] = {
    "llama-server": "/health",
    "vllm": "/health",
    "ollama": "/api/version",
    "comfyui": "/system_stats",
    "openai": "/v1/models",
}
"""Where each engine says 200 once it can work, by its own documentation."""

CAPABILITIES: Final[dict[str, tuple[Capability, ...]]] = {
    "llama-server": ("chat", "completions", "responses"),
    "vllm": ("chat", "completions", "responses"),
    "ollama": ("chat", "completions", "responses", "ollama"),
    "comfyui": ("workflow",),
    "openai": ("chat", "completions"),
}
"""What a model serves where its entry does not say: that of a language model, or ComfyUI's workflows."""
SLOTS: Final[dict[str, int]] = {"llama-server": 1, "vllm": 64, "ollama": 1, "comfyui": 1, "openai": 4}
"""How many may use one loaded model at a time where its entry does not say: what each engine does well without being told."""

_LABEL_LENGTH: Final = 64
_NOT_OF_A_LABEL: Final = re.compile(r"[^A-Za-z0-9_.-]")


class ModelHealth(Section, frozen=True):
    """How an engine's readiness is seen: 200 of GET `path` (`http`), a connection (`tcp`), or its launch (`none`).

    An empty `path` is its engine's own. `timeout_s` bounds one probe. One that is not ready `ready_within_s` after its launch is
    ended: the load has failed.
    """

    how: Literal["http", "tcp", "none"] = "http"
    path: str = ""
    timeout_s: Duration = Duration(5.0)
    ready_within_s: Duration = Duration(300.0)


class Idle(Section, frozen=True):
    """What happens to a model that nobody uses: nothing, until its room is wanted; with `after_s`, it sleeps or is stopped then.

    An idle model that gives way to nobody only costs the next load, so there is no time by default.
    """

    after_s: Duration | None = None
    then: Literal["sleep", "stop"] = "stop"


class Needs(Section, frozen=True):
    """What a loaded model takes of its host beside VRAM, leased with it."""

    ram: Size = Size(0)
    disk: Size = Size(0)
    cpus: Cores = 0.0


class Model(Section, frozen=True):
    """One managed model.

    `vram` is what it takes on each of `cards` cards until that has been measured; 0: it needs no card. `config` tells apart loads
    of one model that differ in size. `files` must exist on the host for it to be started there. In `command` and `env` fill in:
    `{port}`, `{file}` (the first of `files`), `{files[0]}`, `{card_uuid}` (several by commas), `{name}`, `{upstream}`, `{home}`,
    `{host}`, `{python}`. `port` 0 is chosen at each start. `upstream` is its name in the engine's own interface; empty: `name`.

    With `url` it belongs to an engine that runs already: requests are passed to it and its bytes are counted, and it is never
    started, stopped or signalled unless `manage` is true. `sleep` true or false overrules what the engine is known to be able to.
    `load_s` is how long a load takes until that has been measured (0: not known), `slots` how many may use it at a time (0: as
    its engine does). `listed` false keeps it out of lists; asked for by name it is served. With `preload` it is loaded once its
    host is ready, where there is room.
    """

    name: Name
    engine: EngineKind
    vram: Size
    command: list[str] = []
    cwd: str = ""
    env: dict[str, str] = {}
    port: PortOrChosen = 0
    files: Files = []
    url: str = ""
    upstream: Annotated[str, Meta(max_length=512)] = ""
    manage: bool = False
    aliases: list[Name] = []
    capabilities: list[Capability] = []
    config: Config = ""
    load_s: Duration = Duration(0.0)
    slots: Annotated[int, Meta(ge=0, le=4_096)] = 0
    priority: Priority = DEFAULT_PRIORITY
    pinned: bool = False
    exclusive: bool = False
    cards: Cards = 1
    card_uuid: str = ""
    needs: Needs = Needs()
    health: ModelHealth = ModelHealth()
    sleep: bool | Literal["auto"] = "auto"
    idle: Idle = Idle()
    stop: Stop = Stop(term_s=Duration(10.0))
    limits: Limits = Limits()
    logs: Logs = Logs()
    preload: bool = False
    listed: bool = True
    enabled: bool = True

    @property
    def adopted(self) -> bool:
        """Whether its engine runs already, so that there is nothing to start."""
        return bool(self.url)

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be asked for by: its name, then its aliases."""
        return (self.name, *self.aliases)

    @property
    def upstream_name(self) -> str:
        """What the engine itself calls it."""
        return self.upstream or self.name

    @property
    def health_path(self) -> str:
        """Where readiness is asked for over HTTP."""
        return self.health.path or HEALTH_PATHS[self.engine]

    @property
    def served(self) -> tuple[Capability, ...]:
        """What it can be used for: as its entry says, else what its engine does."""
        return tuple(self.capabilities) or CAPABILITIES[self.engine]

    @property
    def users(self) -> int:
        """How many may use it at a time."""
        return self.slots or SLOTS[self.engine]

    @property
    def label(self) -> str:
        """A name for its process, its log and its slots' folder: `name`, with a checksum where that could name no file."""
        return label_of(self.name)


def label_of(name: str) -> str:
    """`name` as a process or a file can have it; a CRC-32 of the name tells apart those that would look alike."""
    plain = _NOT_OF_A_LABEL.sub("-", name)
    if plain == name and plain[:1].isalnum() and len(plain) <= _LABEL_LENGTH:
        return plain
    return f"{plain[: _LABEL_LENGTH - 9].lstrip('-_.') or 'model'}-{zlib.crc32(name.encode(errors='replace')):08x}"
