"""What the adapters share: the way from an answer to a claim, and the refusal of what a server has no means for.

It knows no program's API; each adapter says what it asks and how it reads the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from common.config.models import Capability, EngineKind
from common.engines.engine import (
    ACT_S,
    ASK_S,
    HEALTH_S,
    LOAD_S,
    Claim,
    Health,
    LoadedModel,
    Power,
    SavedSlot,
    SlotsSaved,
    served_as,
)
from common.engines.exchange import Answer, Exchange, deadline
from common.errors import NotFound, TandemError


class ListedModel(msgspec.Struct, frozen=True):
    """One entry of OpenAI's list of models; whatever else a server puts there is left."""

    id: str


class ListedModels(msgspec.Struct, frozen=True):
    """OpenAI's list of models."""

    data: list[ListedModel]


class OverHttp:
    """An engine that can do nothing yet but list models as OpenAI does; the adapters add what their program can.

    A public method turns its seconds into one deadline, which all that it asks shares.
    """

    KIND: ClassVar[EngineKind]
    CAPABILITIES: ClassVar[frozenset[Capability]] = frozenset()
    POWERS: ClassVar[frozenset[Power]] = frozenset()

    def __init__(self, exchange: Exchange, health_path: str = "") -> None:
        """`health_path` replaces the program's own way of telling its health: 2xx is ready, 503 is starting."""
        self._exchange = exchange
        self._health_path = health_path

    @property
    def kind(self) -> EngineKind:
        """Which program this is."""
        return self.KIND

    @property
    def url(self) -> str:
        """The root of its HTTP address."""
        return self._exchange.url

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the program can serve at all."""
        return self.CAPABILITIES

    @property
    def powers(self) -> frozenset[Power]:
        """What can be asked of it while it runs."""
        return self.POWERS

    async def health(self, within_s: float = HEALTH_S) -> Health:
        """How it is, in one question; never raises."""
        until = deadline(within_s)
        try:
            if self._health_path:
                return by_status(await self._get(self._health_path, until))
            return await self._health(until)
        except TandemError as error:
            return Health("absent" if error.details.get("absent") else "failing", error.message)

    async def models(self, within_s: float = ASK_S) -> list[str]:
        """The names it can be asked for."""
        return await self._models(deadline(within_s))

    async def loaded(self, within_s: float = ASK_S) -> list[LoadedModel]:
        """What it says it has in memory."""
        return await self._loaded(deadline(within_s))

    async def upstream(self, model: str, within_s: float = ASK_S) -> str:
        """The name by which a request must ask it for `model`; NotFound where it serves no such model."""
        served = await self.models(within_s)
        found = served_as(model, served)
        if found is None:
            listed = ", ".join(served[:10]) or "none at all"
            raise NotFound(
                f"{self.KIND} at {self.url} serves no model {model}; it serves {listed}", served=served[:100]
            )
        return found

    async def load(self, model: str, within_s: float = LOAD_S) -> Claim:
        """A false claim: its model is loaded by starting it."""
        return self._unable("load a model while it runs")

    async def unload(self, model: str = "", within_s: float = ACT_S) -> Claim:
        """A false claim: its model goes by stopping it."""
        return self._unable("unload a model while it runs")

    async def sleep(self, within_s: float = ACT_S) -> Claim:
        """A false claim: it has no sleep."""
        return self._unable("sleep when asked")

    async def wake(self, within_s: float = LOAD_S) -> Claim:
        """A false claim: it has no sleep to wake from."""
        return self._unable("be woken")

    async def save_slots(self, name: str, model: str = "", within_s: float = ACT_S) -> SlotsSaved:
        """A false claim: it has no prompt caches that could be written."""
        return SlotsSaved(self._unable("save its prompt caches"))

    async def restore_slots(self, saved: Sequence[SavedSlot], model: str = "", within_s: float = ACT_S) -> Claim:
        """A false claim: it has no prompt caches that could be read."""
        return self._unable("restore prompt caches")

    async def close(self) -> None:
        """Lets go of its connections; may be called again."""
        await self._exchange.close()

    async def _health(self, until: float) -> Health:
        """The program's own way of telling its health; may raise what a question raises."""
        answer = await self._get("/v1/models", until)
        if answer.fine:
            answer.read(ListedModels)
        return by_status(answer)

    async def _models(self, until: float) -> list[str]:
        return [model.id for model in (await self._get("/v1/models", until)).read(ListedModels).data]

    async def _loaded(self, until: float) -> list[LoadedModel]:
        """Every model it lists: it does not tell which of them are in memory."""
        return [LoadedModel(name, "loaded") for name in await self._models(until)]

    async def _get(self, path: str, until: float, query: Mapping[str, str] | None = None) -> Answer:
        return await self._exchange.ask("GET", path, until, query=query)

    async def _post(
        self,
        path: str,
        until: float,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        return await self._exchange.ask("POST", path, until, query=query, body=body)

    def _unable(self, what: str) -> Claim:
        return Claim(ok=False, text=f"{self.KIND} cannot {what}")


def by_status(answer: Answer) -> Health:
    """What the status alone says: 2xx is ready, 503 is starting, anything else is a failure."""
    if answer.fine:
        return Health("ready")
    return Health("starting" if answer.status == 503 else "failing", answer.line())


def by_answer(answer: Answer) -> Claim:
    """What the status alone claims."""
    return Claim(ok=answer.fine, text=answer.line())


async def claimed(act: Awaitable[Claim]) -> Claim:
    """What the act claims; a false claim with the reason where it could not be asked or answered."""
    try:
        return await act
    except TandemError as error:
        return Claim(ok=False, text=error.message)
