"""vLLM: one model a process, put to sleep and woken over HTTP where its development endpoints are on.

Read from docs/features/sleep_mode.md and entrypoints/serve/sleep/api_router.py of vllm-project/vllm. The endpoints exist only
with VLLM_SERVER_DEV_MODE=1 and `--enable-sleep-mode`. Level 1 moves the weights to host RAM and forgets the KV cache, level 2
throws both out; both abort the requests under way. Here level 1 is `sleep` and level 2 is `unload`.

Its claims have been wrong: 200 while nearly all memory stays (#47654), two thirds of it kept since 0.14 (#32714), a wake that
fails half-way and leaks what it had mapped (#34600), a second instance that frees half. `/health` stays 200 in sleep.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from common.config.models import Capability, EngineKind
from common.engines.engine import ACT_S, LOAD_S, Claim, Health, LoadedModel, Power
from common.engines.exchange import Answer, deadline
from common.engines.over_http import OverHttp, by_answer, claimed

SWITCHED_OFF: Final = "start vLLM with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode to have it sleep"

_Steps = tuple[tuple[str, dict[str, str], dict[str, str] | None], ...]

_WAKE: Final[_Steps] = (("/wake_up", {}, None),)
_RELOAD: Final[_Steps] = (
    ("/wake_up", {"tags": "weights"}, None),
    ("/collective_rpc", {}, {"method": "reload_weights"}),
    ("/wake_up", {"tags": "kv_cache"}, None),
)


class _Sleeping(msgspec.Struct, frozen=True):
    is_sleeping: bool


class Vllm(OverHttp):
    """A vLLM server."""

    KIND: ClassVar[EngineKind] = "vllm"
    CAPABILITIES: ClassVar[frozenset[Capability]] = frozenset(
        {"chat", "completions", "responses", "embeddings", "rerank", "transcription"}
    )
    POWERS: ClassVar[frozenset[Power]] = frozenset({"load", "unload", "sleep"})

    _emptied = False
    """Whether this adapter threw the weights out: waking without reading them again would serve noise."""

    async def sleep(self, within_s: float = ACT_S) -> Claim:
        """Level 1: the weights go to host RAM."""
        return await claimed(self._put_down("1", deadline(within_s)))

    async def unload(self, model: str = "", within_s: float = ACT_S) -> Claim:
        """Level 2: the weights go for good, the process stays; `load` brings them back, `wake` of another adapter does not."""
        self._emptied = True
        return await claimed(self._put_down("2", deadline(within_s)))

    async def wake(self, within_s: float = LOAD_S) -> Claim:
        """Back from level 1; back from a level 2 of this adapter's too, by reading the weights again."""
        return await claimed(self._get_up(_RELOAD if self._emptied else _WAKE, deadline(within_s)))

    async def load(self, model: str, within_s: float = LOAD_S) -> Claim:
        """Back from either level with the weights read from disk; an awake server is left as it is."""
        return await claimed(self._load(deadline(within_s)))

    async def _health(self, until: float) -> Health:
        answer = await self._get("/health", until)
        return Health("ready") if answer.fine else Health("failing", answer.line())

    async def _loaded(self, until: float) -> list[LoadedModel]:
        """Its one model under all its names, asleep or not; vLLM does not tell how many bytes it takes."""
        asleep = await self._asleep(until)
        return [LoadedModel(name, "sleeping" if asleep else "loaded") for name in await self._models(until)]

    async def _put_down(self, level: str, until: float) -> Claim:
        answer = await self._post("/sleep", until, query={"level": level})
        if answer.fine and not await self._asleep(until):
            return Claim(ok=False, text=f"{answer.line()}, but it says that it does not sleep")
        return _explained(answer)

    async def _load(self, until: float) -> Claim:
        if not await self._asleep(until):
            return Claim(ok=True, text="it is awake")
        return await self._get_up(_RELOAD, until)

    async def _get_up(self, steps: _Steps, until: float) -> Claim:
        """One step after another; the first that fails is the answer."""
        for path, query, body in steps:
            answer = await self._post(path, until, body, query)
            if not answer.fine:
                return _explained(answer)
        if await self._asleep(until):
            return Claim(ok=False, text=f"{answer.line()}, but it says that it still sleeps")
        self._emptied = False
        return by_answer(answer)

    async def _asleep(self, until: float) -> bool:
        """Whether it says so; where the endpoint is off it cannot sleep."""
        answer = await self._get("/is_sleeping", until)
        return False if answer.status == 404 else answer.read(_Sleeping).is_sleeping


def _explained(answer: Answer) -> Claim:
    claim = by_answer(answer)
    return Claim(ok=False, text=f"{claim.text}; {SWITCHED_OFF}") if answer.status == 404 else claim
