"""What every model server is to Tandem: one protocol, and the words its answers are given in.

An answer is a claim: what the server says of its own memory decides nothing here or above, because servers are known to
answer 200 and keep their VRAM (vLLM #47654, #32714, #34600; Ollama #7606). Whether bytes came back is read from the card.
This file does not speak HTTP; the adapters beside it do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from common.config.models import Capability, EngineKind

Power = Literal["load", "unload", "sleep", "slots"]
"""What a server can be asked to do about its memory while it runs: only these are rungs of an owner's ladder.

`load` brings a model in, `unload` throws one out for good, `sleep` moves weights to host RAM and `wake` brings them back,
`slots` writes prompt caches to disk and reads them again.
"""

HEALTH_S: Final = 2.0
ASK_S: Final = 5.0
ACT_S: Final = 30.0
LOAD_S: Final = 600.0
"""The default bounds, in seconds, of a health question, of any other question, of an act, and of a load."""


class Claim(msgspec.Struct, frozen=True):
    """Whether the server says that it did what it was asked, and its words or the reason why there are none."""

    ok: bool
    text: str


class Health(msgspec.Struct, frozen=True):
    """`absent`: nobody listens. `starting`: somebody does, and says that it loads. `failing`: anything else, by `reason`."""

    state: Literal["absent", "starting", "ready", "failing"]
    reason: str = ""


class LoadedModel(msgspec.Struct, frozen=True):
    """A model that the server says it has in memory; null bytes are what it does not tell."""

    name: str
    state: Literal["loading", "loaded", "sleeping"]
    vram_bytes: int | None = None
    ram_bytes: int | None = None


class SavedSlot(msgspec.Struct, frozen=True):
    """One prompt cache on disk: `file` lies in the folder that the server was started with."""

    slot: int
    file: str
    tokens: int


class SlotsSaved(msgspec.Struct, frozen=True):
    """What of a server's prompt caches was written; the claim is false as soon as one that holds something was not."""

    claim: Claim
    slots: tuple[SavedSlot, ...] = ()


class Engine(Protocol):
    """One model server at one address. Acts never raise: what went wrong is in the claim. Questions raise typed errors.

    A question (`models`, `loaded`, `upstream`) raises Unavailable where nobody listens or the answer makes no sense,
    Interrupted where the connection broke midway, DeadlineExceeded after `within_s`, TooLarge beyond the bound on an answer.
    Nothing takes longer than `within_s`, connecting included. What a server has no means for answers a false claim.
    """

    @property
    def kind(self) -> EngineKind:
        """Which program this is."""
        ...

    @property
    def url(self) -> str:
        """The root of its HTTP address, without a path and without a slash at its end."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the program can serve at all; what this very model serves is narrower, and the startup file's to say."""
        ...

    @property
    def powers(self) -> frozenset[Power]:
        """What can be asked of it while it runs."""
        ...

    async def health(self, within_s: float = HEALTH_S) -> Health:
        """How it is, in one question; never raises."""
        ...

    async def models(self, within_s: float = ASK_S) -> list[str]:
        """The names it can be asked for, loaded or not."""
        ...

    async def loaded(self, within_s: float = ASK_S) -> list[LoadedModel]:
        """What it says it has in memory."""
        ...

    async def upstream(self, model: str, within_s: float = ASK_S) -> str:
        """The name by which a request must ask it for `model`; NotFound where it serves no such model."""
        ...

    async def load(self, model: str, within_s: float = LOAD_S) -> Claim:
        """Brings the model in and waits for it; room on the card is the caller's care, before this is called."""
        ...

    async def unload(self, model: str = "", within_s: float = ACT_S) -> Claim:
        """Throws the model out, or all of them; the server's own clients may bring it back at once."""
        ...

    async def sleep(self, within_s: float = ACT_S) -> Claim:
        """Moves its weights to host RAM, which the caller has accounted for; requests under way are cut off."""
        ...

    async def wake(self, within_s: float = LOAD_S) -> Claim:
        """Takes its VRAM again, which the caller has leased; after a failure it may hold a part of it (vLLM #34600)."""
        ...

    async def save_slots(self, name: str, model: str = "", within_s: float = ACT_S) -> SlotsSaved:
        """Writes each idle prompt cache to a file whose name starts with `name` (letters, digits, dots and dashes)."""
        ...

    async def restore_slots(self, saved: Sequence[SavedSlot], model: str = "", within_s: float = ACT_S) -> Claim:
        """Reads the caches back into the slots they came from; one that does not come back costs time, never an answer."""
        ...

    async def close(self) -> None:
        """Lets go of its connections; may be called again."""
        ...


def served_as(model: str, served: Sequence[str]) -> str | None:
    """Which of the names served means `model`: the same one, Ollama's with its default tag, or a file's by its stem.

    The name of a file without its folder and ending means that file, as llama-server names a model by its path.
    """
    if model in served:
        return model
    if f"{model}:latest" in served:
        return f"{model}:latest"
    fits = [name for name in served if model in (_last(name), _last(name).rpartition(".")[0])]
    return fits[0] if len(fits) == 1 else None


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
