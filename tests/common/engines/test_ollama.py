from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.engines.engine import LoadedModel
from common.engines.opening import recognise
from common.errors import NotFound
from tests.common.engines.conftest import Opened, until
from tests.lab.engines import ModelServer, start

MIB = 2**20
Used = Callable[[], int]


@pytest.fixture(scope="module")
def running(shared: Callable[..., ModelServer]) -> ModelServer:
    return shared("ollama", "serve", models={"tiny": "512MiB", "big:70b": "8GiB", "minilm": "64MiB"})


@pytest.fixture
def server(running: ModelServer) -> ModelServer:
    running.tell(lies=[], load_s=0, free_s=0, token_s=0)
    return running


@pytest.fixture
async def emptied(server: ModelServer, opened: Opened, used: Used) -> ModelServer:
    """With nothing loaded, whatever the test before left."""
    await opened("ollama", server.url).unload("", 20)
    await until(lambda: used() == 0)
    return server


def post(url: str, **body: Any) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


async def test_it_tells_its_models_and_loads_and_unloads_them(emptied: ModelServer, opened: Opened, used: Used) -> None:
    engine = opened("ollama", emptied.url)
    assert (await engine.health(20)).state == "ready"
    assert await engine.models(20) == ["tiny:latest", "big:70b", "minilm:latest"]
    assert await engine.loaded(20) == []
    assert (await engine.load("tiny", 20)).ok
    assert (await engine.load("big:70b", 20)).ok
    assert used() == (512 + 8192) * MIB
    assert await engine.loaded(20) == [
        LoadedModel("tiny:latest", "loaded", 512 * MIB, 0),
        LoadedModel("big:70b", "loaded", 8192 * MIB, 0),
    ]
    claim = await engine.unload("tiny", 20)
    assert (claim.ok, claim.text) == (True, "tiny: unload")
    await until(lambda: used() == 8192 * MIB)
    assert (await engine.unload("", 20)).text == "big:70b: unload"
    await until(lambda: used() == 0)
    assert (await engine.unload("", 20)).text == "it says that nothing is loaded"


async def test_a_model_that_only_embeds_is_loaded_too(emptied: ModelServer, opened: Opened, used: Used) -> None:
    assert (await opened("ollama", emptied.url).load("minilm", 20)).ok
    assert used() == 64 * MIB


async def test_a_model_is_asked_for_under_its_tag(server: ModelServer, opened: Opened) -> None:
    engine = opened("ollama", server.url)
    assert await engine.upstream("tiny", 20) == "tiny:latest"
    with pytest.raises(NotFound):
        await engine.upstream("tiny:2b", 20)


async def test_an_unknown_model_is_a_false_claim_in_its_words(server: ModelServer, opened: Opened) -> None:
    engine = opened("ollama", server.url)
    claim = await engine.load("nobody", 20)
    assert (claim.ok, "model 'nobody' not found" in claim.text) == (False, True)
    assert not (await engine.unload("nobody", 20)).ok


@pytest.mark.parametrize(("lie", "kept"), [("keeps_all", 512 * MIB), ("keeps_half", 256 * MIB)])
async def test_an_unload_that_keeps_its_memory_is_claimed_all_the_same_and_only_the_card_tells(
    emptied: ModelServer, opened: Opened, used: Used, lie: str, kept: int
) -> None:
    engine = opened("ollama", emptied.url)
    await engine.load("tiny", 20)
    emptied.tell(lies=[lie])
    assert (await engine.unload("tiny", 20)).ok
    while await engine.loaded(20):
        await asyncio.sleep(0.02)
    assert used() == kept
    emptied.tell(lies=[])
    await engine.load("tiny", 20)


async def test_what_it_says_of_its_sizes_may_be_half_the_truth(
    emptied: ModelServer, opened: Opened, used: Used
) -> None:
    engine = opened("ollama", emptied.url)
    await engine.load("tiny", 20)
    emptied.tell(lies=["misreports"])
    assert (await engine.loaded(20))[0].vram_bytes == 256 * MIB
    assert used() == 512 * MIB


async def test_an_unload_waits_for_the_request_under_way_and_is_answered_before(
    emptied: ModelServer, opened: Opened, used: Used
) -> None:
    engine = opened("ollama", emptied.url)
    emptied.tell(token_s=0.2)
    options = {"num_predict": 40, "ignore_eos": True}
    request = asyncio.create_task(
        asyncio.to_thread(post, f"{emptied.url}/api/generate", model="tiny", prompt="a b c", options=options)
    )
    await until(lambda: used() == 512 * MIB)
    assert (await engine.unload("tiny", 20)).text == "tiny: unload"
    assert used() == 512 * MIB
    emptied.tell(token_s=0)
    lines = [json.loads(line) for line in (await request).splitlines()]
    assert [line["response"] for line in lines[:4]] == ["echo:", " a", " b", " c"]
    assert (len(lines), lines[-1]["done"], lines[-1]["eval_count"]) == (41, True, 40)
    await until(lambda: used() == 0)


async def test_one_that_refuses_or_hangs_makes_a_false_claim_in_time(server: ModelServer, opened: Opened) -> None:
    engine = opened("ollama", server.url)
    await engine.load("tiny", 20)
    server.tell(lies=["refuses"])
    assert (await engine.unload("tiny", 20)).text.endswith("answered 500: out of luck")
    server.tell(lies=["hangs"])
    claims = [await engine.unload("tiny", 0.1), await engine.unload("", 0.1), await engine.load("tiny", 0.1)]
    assert [claim.ok for claim in claims] == [False] * 3
    assert all("no answer in time" in claim.text for claim in claims)
    assert (await engine.health(0.1)).state == "failing"


async def test_a_load_that_brings_the_server_down_is_a_false_claim(cards: Path, opened: Opened) -> None:
    with start("ollama", cards=cards, models={"tiny": "1GiB"}, lies=["crashes_at_load"]) as doomed:
        engine = opened("ollama", doomed.url)
        assert not (await engine.load("tiny", 20)).ok
        assert doomed.ended() == 1
        assert (await engine.health(20)).state == "absent"


async def test_it_is_recognised(server: ModelServer) -> None:
    assert await recognise(server.url, 20) == "ollama"
