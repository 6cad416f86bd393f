"""Models of all hosts: asked of the host that has them soonest, the answer passed through, the next host where one cannot.

Callers come by the verbs, and tasks by `use`: one way for both. `callers` are those who wait.

The hosts are asked anew each time what they have, so nothing here can be out of date, and nothing is kept. Which host comes
first is model_choice's to say; what is loaded and what goes for it, the host's own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import msgspec

from common.api import models
from common.api.decisions import PlanLease
from common.api.models import Model, ModelProgress, ModelReady, UseModel
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.errors import Interrupted, NoCapacity, NotFound, Overloaded, TandemError, Unavailable
from common.service.call import Call
from common.service.shell import Shell
from common.vram.urgency import request_priority
from pc2.resource_manager import model_choice
from pc2.resource_manager.callers import Callers
from pc2.resource_manager.calling import SUPERVISOR, Calling
from pc2.resource_manager.model_choice import Room
from pc2.resource_manager.planner import Planner

ANSWER_S: Final = 5.0
"""What a host may take beyond the wait that it was given."""
ASKED_ONE_BY_ONE: Final = Cursor(epoch=0, seq=0)
"""What each host says is followed by that host's own events."""
NEXT: Final = (NoCapacity, NotFound, Overloaded, Unavailable)
"""After these the next host is asked: nothing was lent."""

Told = Callable[[ModelProgress], None]


class Borrowing:
    """The models' verbs of ResourceManager; `away` says of each host that cannot be asked why."""

    def __init__(
        self, shell: Shell, client: AsyncClient, calling: Calling, planner: Planner, away: Callable[[], dict[str, str]]
    ) -> None:
        self.callers = Callers()
        self._now = shell.clock.monotonic
        self._client = client
        self._calling = calling
        self._planner = planner
        self._away = away
        shell.handle(models.USE_MODEL, self._use)
        shell.handle(models.LIST_MODELS, self._list)
        shell.handle(models.STOP_MODEL, self._stop)

    async def _list(self, asked: models.ListModels, _call: Call) -> models.Models:
        found, missing = await self._models(asked.host)
        return models.Models(models=found, as_of=ASKED_ONE_BY_ONE, missing=missing)

    async def _stop(self, asked: models.StopModel, call: Call) -> models.ModelStopped:
        found, missing = await self._models(asked.host)
        running = [model for model in model_choice.named(found, asked.model) if model.state != "absent"]
        if not running:
            refusal = model_choice.refusal(UseModel(model=asked.model, host=asked.host), found, missing)
            raise refusal or NotFound(f"{asked.model} runs nowhere")
        _, stopped = await self._calling.forward(running[0].host, models.STOP_MODEL, asked, call)
        return stopped

    async def _use(self, asked: UseModel, call: Call) -> ModelReady:
        wait_s = call.patience_s(self._now(), asked.wait_s)
        with self.callers.wait(asked, self._now()) as caller:

            def told(part: ModelProgress) -> None:
                caller.told(part)
                call.part(part)

            return await self.use(msgspec.structs.replace(asked, wait_s=wait_s), told)

    async def use(self, asked: UseModel, told: Told) -> ModelReady:
        """The model, within the request's `wait_s`; `told` hears how the wait goes. Raises why it cannot be had."""
        until = self._now() + asked.wait_s
        found, missing = await self._models(asked.host)
        refusal = model_choice.refusal(asked, found, missing)
        if refusal is not None:
            raise refusal
        able = model_choice.named(found, asked.model)
        rooms = {model.host: self._room(asked, model) for model in able}
        errors: list[TandemError] = []
        for model in model_choice.order(asked, able, rooms):
            left_s = max(0.0, until - self._now())
            try:
                return await self._at(model.host, msgspec.structs.replace(asked, wait_s=left_s), told)
            except NEXT as error:
                errors.append(error)
        raise errors[0]

    def _room(self, asked: UseModel, model: Model) -> Room:
        need = model.footprint_bytes or model.declared_bytes
        if need == 0:
            return Room("grant")
        wish = PlanLease(
            model=model.name,
            bytes=need,
            priority=request_priority(model.priority, asked.priority),
            host=model.host,
            card_uuid=model.card_uuid,
            config=model.config,
        )
        return self._planner.outlook(wish, self._now())

    async def _at(self, host: str, asked: UseModel, told: Told) -> ModelReady:
        timeout_s = asked.wait_s + ANSWER_S
        stream = self._client.stream(f"{SUPERVISOR}{host}", models.USE_MODEL, asked, timeout_s=timeout_s)
        async with aclosing(stream) as items:
            async for item in items:
                if isinstance(item, ModelReady):
                    return item
                told(item)
        raise Interrupted(f"{host} ended its answer about {asked.model} without one")

    async def _models(self, host: str) -> tuple[list[Model], dict[str, str]]:
        away = self._away()
        hosts = [each for each in self._calling.hosts if host in ("", each) and each not in away]
        missing = {each: why for each, why in away.items() if host in ("", each)}
        found: list[Model] = []
        answers = await self._calling.ask_each(hosts, models.LIST_MODELS, lambda each: models.ListModels(host=each))
        for each, answer in answers.items():
            if isinstance(answer, TandemError):
                missing[each] = answer.message
            else:
                found += answer.models
        return found, missing
