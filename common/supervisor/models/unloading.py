"""How a managed model's engine gives its memory back: asleep, unloaded or stopped in order, its prompt caches saved before.

These are rungs of the ladder that takes memory back (common/vram/ladder.py), which alone judges by the card whether it came. An
engine that ran before Tandem knew it is asked, and never ended, unless its entry says `manage`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from common.api.decisions import RungName
from common.config.models import Model
from common.config.schema import Entry
from common.engines.engine import Claim, Engine, SavedSlot
from common.supervisor.models.engine_process import EngineProcess, EngineProcesses, last_words
from common.supervisor.models.slots import folder_in

SAVE_S: Final = 6.0
"""Saving prompt caches may take so long of the time that an engine has to stop."""
SLEEP_SWITCH: Final = "--enable-sleep-mode"
ASK_S: Final = 30.0

Kept = Callable[[Model, Entry, Sequence[SavedSlot]], Awaitable[None]]


def can_sleep(model: Model, engine: Engine) -> bool:
    """Whether it is asked to sleep: as its entry says, else where its program can and was started so that it does."""
    if isinstance(model.sleep, bool):
        return model.sleep
    switched_off = model.engine == "vllm" and model.command and SLEEP_SWITCH not in model.command
    return "sleep" in engine.powers and not switched_off


def saves_slots(model: Model, engine: Engine) -> bool:
    """Whether it was started with a folder for its prompt caches."""
    return "slots" in engine.powers and folder_in(model.command) is not None


def rungs_of(model: Model, engine: Engine, *, to_stop: bool) -> tuple[RungName, ...]:
    """What there is for this model; `to_stop`: its memory is to go for good, so it is not put to sleep."""
    found: list[RungName] = []
    if model.vram and can_sleep(model, engine) and not to_stop:
        found.append("sleep")
    if not model.adopted:
        found.append("stop")
    elif "unload" in engine.powers:
        found.append("unload")
    return tuple(found)


class ModelUnloader:
    """One loaded model as an eviction finds it; `process` is None for an engine that ran before, `kept` hears of saved slots."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        upstream: str,
        process: EngineProcess | None,
        processes: EngineProcesses,
        kept: Kept,
        *,
        to_stop: bool,
    ) -> None:
        self._model = model
        self._engine = engine
        self._upstream = upstream
        self._process = process
        self._processes = processes
        self._kept = kept
        self.rungs = rungs_of(model, engine, to_stop=to_stop)

    @property
    def spared(self) -> str:
        """Why its process must live on; empty where it may be ended."""
        if self._model.adopted and not self._model.manage:
            return f"{self._model.engine} at {self._model.url} ran before, and its entry does not say manage: true"
        return ""

    async def perform(self, rung: RungName) -> Claim:
        """Sleep, unload or stop."""
        acts: dict[RungName, Callable[[], Awaitable[Claim]]] = {
            "sleep": lambda: self._engine.sleep(ASK_S),
            "unload": lambda: self._engine.unload(self._upstream, ASK_S),
            "stop": self._stop,
        }
        return await acts[rung]()

    async def _stop(self) -> Claim:
        if self._process is None:
            return Claim(ok=False, text="its process is not known")
        said = ""
        if saves_slots(self._model, self._engine):
            saved = await self._engine.save_slots(self._model.label, "", SAVE_S)
            await self._kept(self._model, self._process.entry, saved.slots)
            said = f"; {saved.claim.text}"
        ended = await self._processes.stop(self._process)
        return Claim(ok=True, text=f"{last_words(ended)}{said}")
