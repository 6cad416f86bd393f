from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.engines.engine import LoadedModel, SavedSlot
from common.engines.opening import recognise
from tests.common.engines.conftest import Answering, Opened, http, until
from tests.lab.engines import ModelServer, start

GIB = 2**30
Used = Callable[[], int]


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def single(shared: Callable[..., ModelServer], slots: Path) -> ModelServer:
    return shared("llama-server", "-m", "/m/tiny.gguf", "-np", "2", "--slot-save-path", str(slots), vram="2GiB")


@pytest.fixture(scope="module")
def several(shared: Callable[..., ModelServer], slots: Path) -> ModelServer:
    return shared("llama-server", "--slot-save-path", str(slots), models={"a": "1GiB", "b": "2GiB"})


@pytest.fixture
def router(several: ModelServer) -> ModelServer:
    several.tell(lies=[], load_s=0)
    return several


def chat(url: str, text: str, **more: Any) -> Any:
    body = json.dumps({"model": "", "messages": [{"role": "user", "content": text}]} | more).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def cached(url: str, text: str, **more: Any) -> int:
    return int(chat(url, text, **more)["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_one_model_is_told_with_the_size_of_its_weights_and_neither_loaded_nor_unloaded_when_asked(
    single: ModelServer, opened: Opened, used: Used
) -> None:
    engine = opened("llama-server", single.url)
    assert (await engine.health(20)).state == "ready"
    assert await engine.loaded(20) == [LoadedModel("/m/tiny.gguf", "loaded", 2 * GIB)]
    assert await engine.upstream("tiny", 20) == "/m/tiny.gguf"
    for claim in (await engine.load("tiny", 20), await engine.unload("", 20)):
        assert (claim.ok, "started and stopped" in claim.text) == (False, True)
    assert not (await engine.sleep(20)).ok
    assert used() == 2 * GIB


async def test_what_its_slots_hold_outlives_the_server(
    single: ModelServer, opened: Opened, slots: Path, cards: Path
) -> None:
    engine = opened("llama-server", single.url)
    assert cached(single.url, "one two three four") == 0
    assert cached(single.url, "one two three five") == 3
    saved = await engine.save_slots("lease-1", "", 20)
    assert (saved.claim.ok, saved.claim.text) == (True, "1 slots with 4 tokens saved")
    assert saved.slots == (SavedSlot(0, "lease-1-0.bin", 4),)
    assert (slots / "lease-1-0.bin").exists()
    arguments = ("-m", "/m/tiny.gguf", "--slot-save-path", str(slots))
    with start("llama-server", *arguments, cards=cards, vram="1GiB") as fresh:
        another = opened("llama-server", fresh.url)
        assert (await another.restore_slots(saved.slots, "", 20)).text == "1 slots with 4 tokens restored"
        assert cached(fresh.url, "one two three five six") == 4


async def test_a_busy_slot_is_told_and_left_alone(single: ModelServer, opened: Opened) -> None:
    engine = opened("llama-server", single.url)
    single.tell(token_s=0.2)
    talking = asyncio.create_task(asyncio.to_thread(chat, single.url, "a b", max_tokens=60, ignore_eos=True))
    busy = f"{single.url}/slots"
    await until(lambda: any(slot["is_processing"] for slot in get(busy)))
    saved = await engine.save_slots("lease-2", "", 20)
    assert (saved.claim.ok, "busy: 0" in saved.claim.text) == (False, True)
    single.tell(token_s=0)
    await talking


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


async def test_a_slot_that_cannot_be_saved_or_restored_is_a_false_claim(
    single: ModelServer, opened: Opened, cards: Path
) -> None:
    engine = opened("llama-server", single.url)
    assert not (await engine.save_slots("../../etc/passwd", "", 20)).claim.ok
    missing = [SavedSlot(0, "gone.bin", 9), SavedSlot(1, "gone-too.bin", 9)]
    claim = await engine.restore_slots(missing, "", 20)
    assert (claim.ok, claim.text.count("Unable to restore slot")) == (False, 2)
    with start("llama-server", "-m", "t.gguf", cards=cards, vram="1GiB") as pathless:
        saved = await opened("llama-server", pathless.url).save_slots("lease-1", "", 20)
    assert (saved.claim.ok, "slot-save-path" in saved.claim.text) == (False, True)


async def test_while_it_loads_it_is_starting_and_says_so(cards: Path, opened: Opened) -> None:
    with start("llama-server", "-m", "t.gguf", cards=cards, vram="1GiB", lies=["never_ready"]) as loading:
        engine = opened("llama-server", loading.url)
        health = await engine.health(20)
        assert (health.state, "Loading model" in health.reason) == ("starting", True)
        assert await engine.loaded(20) == [LoadedModel("t.gguf", "loading")]


async def test_one_that_crashes_at_its_load_is_absent(cards: Path, opened: Opened) -> None:
    with start("llama-server", "-m", "t.gguf", cards=cards, lies=["crashes_at_load"]) as doomed:
        assert doomed.ended() == 1
        assert (await opened("llama-server", doomed.url).health(20)).state == "absent"


async def test_its_own_idle_sleep_is_told_and_ends_with_a_request(cards: Path, opened: Opened) -> None:
    arguments = ("-m", "t.gguf", "--sleep-idle-seconds", "0.1")
    with start("llama-server", *arguments, cards=cards, vram="1GiB") as dozing:
        engine = opened("llama-server", dozing.url)
        await asyncio.to_thread(chat, dozing.url, "hello")
        while (await engine.loaded(20))[0].state != "sleeping":
            await asyncio.sleep(0.02)
        assert dozing.held() == 0
        assert chat(dozing.url, "hello")["choices"][0]["message"]["content"] == "echo: hello"


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}', "starting"),
        (b'{"status": "loading model"}', "starting"),
        (b'{"status": "no slot available", "slots_idle": 0}', "ready"),
        (b'{"status": "error"}', "failing"),
    ],
)
async def test_a_503_means_what_its_words_say(opened: Opened, answering: Answering, body: bytes, state: str) -> None:
    engine = opened("llama-server", await answering(http(body, "503 Service Unavailable")))
    assert (await engine.health(20)).state == state


async def test_a_router_loads_and_unloads_when_asked(router: ModelServer, opened: Opened, cards: Path) -> None:
    engine = opened("llama-server", router.url)
    assert await engine.models(20) == ["a", "b"]
    assert await engine.loaded(20) == []
    router.tell(load_s=0.3)
    assert (await engine.load("a", 20)).text == "a is loaded"
    assert (await engine.load("b", 20)).ok
    assert router.held() == 3 * GIB
    assert await engine.loaded(20) == [LoadedModel("a", "loaded", GIB), LoadedModel("b", "loaded", 2 * GIB)]
    assert cached(router.url, "x y", model="b") == 0
    saved = await engine.save_slots("lease-3", "b", 20)
    assert saved.slots == (SavedSlot(0, "lease-3-0.bin", 2),)
    assert (await engine.restore_slots(saved.slots, "b", 20)).ok
    assert not (await engine.save_slots("lease-3", "", 20)).claim.ok
    assert (await engine.unload("a", 20)).ok
    assert router.held() == 2 * GIB
    assert (await engine.unload("", 20)).ok
    assert router.held() == 0
    assert (await engine.unload("", 20)).text == "it says that nothing is loaded"


async def test_a_router_that_lies_refuses_or_never_loads(router: ModelServer, opened: Opened) -> None:
    engine = opened("llama-server", router.url)
    assert not (await engine.load("nobody", 20)).ok
    router.tell(lies=["never_ready"])
    claim = await engine.load("a", 0.5)
    assert (claim.ok, "no answer in time" in claim.text) == (False, True)
    router.tell(lies=["refuses"])
    assert not (await engine.unload("a", 20)).ok
    router.tell(lies=["keeps_all"])
    assert (await engine.unload("a", 20)).ok
    assert router.held() == GIB


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"value": "unloaded", "failed": True, "exit_code": 1}, "failed to load: its process ended with 1"),
        ({"value": "sleeping"}, "a is sleeping"),
        (None, "no longer lists a"),
    ],
)
async def test_a_routers_load_ends_as_its_list_says(
    opened: Opened, answering: Answering, status: dict[str, object] | None, words: str
) -> None:
    listed = [{"id": "a", "status": status}] if status else []
    told = json.dumps({"success": True, "data": listed}).encode()
    engine = opened("llama-server", await answering(http(told)))
    assert words in (await engine.load("a", 20)).text


async def test_both_are_recognised(single: ModelServer, router: ModelServer, answering: Answering) -> None:
    assert await recognise(single.url, 20) == "llama-server"
    assert await recognise(router.url, 20) == "llama-server"
    loading = await answering(http(b'{"data": [{"id": "x", "owned_by": "llamacpp"}]}'))
    assert await recognise(loading, 20) == "llama-server"
