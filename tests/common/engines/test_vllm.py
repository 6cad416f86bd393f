from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.engines.engine import LoadedModel
from common.engines.opening import recognise
from common.engines.vllm import SWITCHED_OFF
from common.errors import NotFound
from tests.common.engines.conftest import Answering, Opened, http, until
from tests.lab.engines import ModelServer, start

GIB = 2**30
RESIDUAL = 300 * 2**20
DEV_MODE = {"VLLM_SERVER_DEV_MODE": "1"}
Used = Callable[[], int]


@pytest.fixture(scope="module")
def running(shared: Callable[..., ModelServer]) -> ModelServer:
    return shared("vllm", "serve", "Qwen/Qwen3-0.6B", "--enable-sleep-mode", vram="8GiB", env=DEV_MODE)


@pytest.fixture
async def server(running: ModelServer, opened: Opened, used: Used) -> ModelServer:
    """Awake, honest, with all its memory."""
    running.tell(lies=[], load_s=0, wake_s=0, free_s=0)
    await opened("vllm", running.url).load("", 20)
    assert used() == 8 * GIB
    return running


async def test_it_sleeps_to_a_residual_and_wakes(server: ModelServer, opened: Opened, used: Used) -> None:
    engine = opened("vllm", server.url)
    assert (await engine.health(20)).state == "ready"
    assert await engine.loaded(20) == [LoadedModel("Qwen/Qwen3-0.6B", "loaded")]
    assert (await engine.sleep(20)).ok
    assert used() == RESIDUAL
    assert await engine.loaded(20) == [LoadedModel("Qwen/Qwen3-0.6B", "sleeping")]
    assert (await engine.health(20)).state == "ready"
    assert (await engine.wake(20)).ok
    assert used() == 8 * GIB
    assert server.told()["acts"][-2:] == ["sleep 1", "wake_up kv_cache weights"]


async def test_weights_that_were_thrown_out_are_read_again_however_it_is_woken(
    server: ModelServer, opened: Opened, used: Used
) -> None:
    engine = opened("vllm", server.url)
    for back in ("wake", "load"):
        assert (await engine.unload("", 20)).ok
        assert used() == RESIDUAL
        assert (await (engine.wake(20) if back == "wake" else engine.load("", 20))).ok
        steps = ["sleep 2", "wake_up weights", "reload_weights", "wake_up kv_cache"]
        assert server.told()["acts"][-4:] == steps
        assert used() == 8 * GIB


async def test_an_awake_server_is_not_loaded_again(server: ModelServer, opened: Opened) -> None:
    before = server.told()["acts"]
    claim = await opened("vllm", server.url).load("", 20)
    assert (claim.ok, claim.text) == (True, "it is awake")
    assert server.told()["acts"] == before


async def test_it_is_asked_for_its_model_by_the_name_it_serves(server: ModelServer, opened: Opened) -> None:
    engine = opened("vllm", server.url)
    assert await engine.upstream("Qwen3-0.6B", 20) == "Qwen/Qwen3-0.6B"
    with pytest.raises(NotFound):
        await engine.upstream("Qwen3-8B", 20)


@pytest.mark.parametrize(("lie", "kept"), [("keeps_all", 8 * GIB), ("keeps_half", 4 * GIB)])
async def test_a_sleep_that_keeps_its_memory_is_claimed_all_the_same_and_only_the_card_tells(
    server: ModelServer, opened: Opened, used: Used, lie: str, kept: int
) -> None:
    server.tell(lies=[lie])
    assert (await opened("vllm", server.url).sleep(20)).ok
    assert used() == kept


async def test_a_wake_that_fails_half_way_says_so_and_leaks(server: ModelServer, opened: Opened, used: Used) -> None:
    engine = opened("vllm", server.url)
    await engine.sleep(20)
    server.tell(lies=["wake_leaks"])
    claim = await engine.wake(20)
    assert (claim.ok, "out of memory" in claim.text) == (False, True)
    assert used() == 4 * GIB
    assert (await engine.loaded(20))[0].state == "sleeping"


async def test_memory_may_go_long_after_the_answer(server: ModelServer, opened: Opened, used: Used) -> None:
    server.tell(free_s=0.3)
    assert (await opened("vllm", server.url).sleep(20)).ok
    await until(lambda: used() == RESIDUAL)


async def test_one_that_refuses_or_hangs_makes_a_false_claim_in_time(server: ModelServer, opened: Opened) -> None:
    engine = opened("vllm", server.url)
    server.tell(lies=["refuses"])
    assert not (await engine.sleep(20)).ok
    server.tell(lies=["hangs"])
    for claim in (await engine.sleep(0.1), await engine.wake(0.1), await engine.load("", 0.1)):
        assert (claim.ok, "no answer in time" in claim.text) == (False, True)


async def test_an_answer_of_success_that_it_takes_back_itself_is_no_success(
    opened: Opened, answering: Answering
) -> None:
    awake = opened("vllm", await answering(http(b'{"is_sleeping": false}')))
    assert "says that it does not sleep" in (await awake.sleep(20)).text
    asleep = opened("vllm", await answering(http(b'{"is_sleeping": true}')))
    assert "says that it still sleeps" in (await asleep.wake(20)).text


async def test_without_its_development_endpoints_it_says_what_to_switch_on(cards: Path, opened: Opened) -> None:
    with start("vllm", "--model", "tiny", cards=cards, vram="1GiB") as plain:
        engine = opened("vllm", plain.url)
        assert (await engine.loaded(20))[0].state == "loaded"
        for claim in (await engine.sleep(20), await engine.unload("", 20)):
            assert (claim.ok, SWITCHED_OFF in claim.text) == (False, True)
        assert (await engine.load("", 20)).text == "it is awake"


async def test_a_dead_engine_is_failing(opened: Opened, answering: Answering) -> None:
    engine = opened("vllm", await answering(http(b"", "503 Service Unavailable")))
    assert (await engine.health(20)).state == "failing"


async def test_it_is_recognised_by_the_owner_of_its_model(server: ModelServer) -> None:
    assert await recognise(server.url, 20) == "vllm"
