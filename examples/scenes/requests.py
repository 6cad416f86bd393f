"""Requests: three agents with real models answer about real input, also when one of them dies at work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

from examples.scenes.tally import SAMPLES, Tally, agents, base64_of, until, words_found
from tandem import AsyncClient


async def ask(client: AsyncClient, **request: Any) -> dict[str, Any]:
    """Submit a request and wait for its result."""
    status = await client.call("CoreOrchestrator", "submit_request", {"wait_s": 30.0, **request}, timeout_s=40.0)
    if status["state"] == "done":
        return dict(status["result"])
    return {"failed": f"{status['state']}: {status['error'] or status['reason']}"}


async def texts(client: AsyncClient, tally: Tally) -> None:
    """The language of each sentence."""
    sentences = json.loads((SAMPLES / "sentences.json").read_text())
    answers = await asyncio.gather(*(ask(client, type="text", data=sentence["text"]) for sentence in sentences))
    for sentence, answer in zip(sentences, answers, strict=True):
        said = answer.get("language", answer)
        tally.check(said == sentence["language"], f"{said}  {sentence['text']}")


async def image(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """The words on the photographed page."""
    answer = await ask(client, type="vision", image_data=base64_of(SAMPLES / "page.png"))
    found = words_found(answer, truth["page.png"])
    tally.check(found >= 10, f"{found} of {len(truth['page.png']['words'])} words read on page.png")


async def recordings(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """Where somebody speaks in each recording."""
    for name in ("speech-1.wav", "speech-2.wav"):
        answer = await ask(client, type="audio", audio_data=base64_of(SAMPLES / name))
        (start, end), tolerance_s = truth[name]["speech"][0], truth[name]["tolerance_s"]
        spoken = answer.get("speech") or [[0.0, 0.0]]
        close = abs(spoken[0][0] - start) <= tolerance_s and abs(spoken[-1][1] - end) <= tolerance_s
        tally.check(close, f"{name}: speech from {spoken[0][0]:.2f} to {spoken[-1][1]:.2f} s (truth {start} to {end})")


async def killed(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """An agent is killed while it works; its request is answered all the same."""
    before = (await agents(client))["reading"]["pid"]
    asking = asyncio.ensure_future(ask(client, type="vision", image_data=base64_of(SAMPLES / "page.png")))
    await until("the request to reach the agent", 10.0, lambda: busy(client))
    os.kill(before, signal.SIGKILL)
    tally.step(f"killed reading (pid {before}) with -9 while it was reading")
    answer = await asking
    found = words_found(answer, truth["page.png"])
    after = (await agents(client))["reading"]["pid"]
    tally.check(found >= 10 and after != before, f"{found} words read all the same, by its successor (pid {after})")


async def busy(client: AsyncClient) -> bool:
    """Whether the reading agent is at work on a request."""
    return bool((await agents(client)).get("reading", {}).get("in_flight"))
