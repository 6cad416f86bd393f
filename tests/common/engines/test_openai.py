from __future__ import annotations

from collections.abc import Callable

import pytest

from common.engines.engine import Claim, LoadedModel
from common.engines.opening import recognise
from common.errors import NotFound, Unavailable
from tests.common.engines.conftest import Opened
from tests.lab.engines import ModelServer


@pytest.fixture(scope="module")
def server(shared: Callable[..., ModelServer]) -> ModelServer:
    return shared("openai", "--model", "org/tiny", "--model", "other", "--api-key", "sesame")


async def test_it_lists_its_models_and_is_known_by_nothing_else(server: ModelServer, opened: Opened) -> None:
    engine = opened("openai", server.url + "/v1/", "sesame")
    assert (engine.kind, engine.url, engine.powers) == ("openai", server.url, frozenset())
    assert "chat" in engine.capabilities
    assert (await engine.health(20)).state == "ready"
    assert await engine.models(20) == ["org/tiny", "other"]
    assert await engine.loaded(20) == [LoadedModel("org/tiny", "loaded"), LoadedModel("other", "loaded")]
    assert await engine.upstream("tiny", 20) == "org/tiny"
    with pytest.raises(NotFound, match="it serves org/tiny, other"):
        await engine.upstream("else", 20)


async def test_it_is_never_asked_for_its_memory(server: ModelServer, opened: Opened) -> None:
    engine = opened("openai", server.url)
    before = server.told()["requests"]
    assert await engine.load("other") == Claim(ok=False, text="openai cannot load a model while it runs")
    assert await engine.unload() == Claim(ok=False, text="openai cannot unload a model while it runs")
    assert not (await engine.sleep()).ok
    assert not (await engine.wake()).ok
    assert not (await engine.save_slots("a")).claim.ok
    assert not (await engine.restore_slots([])).ok
    assert server.told()["requests"] == before


async def test_without_its_key_it_is_failing_and_says_why(server: ModelServer, opened: Opened) -> None:
    engine = opened("openai", server.url)
    health = await engine.health(20)
    assert (health.state, "Invalid API Key" in health.reason) == ("failing", True)
    with pytest.raises(Unavailable, match="Invalid API Key"):
        await engine.models(20)


async def test_one_that_still_loads_is_starting(shared: Callable[..., ModelServer], opened: Opened) -> None:
    loading = shared("openai", lies=["never_ready"])
    assert (await opened("openai", loading.url).health(20)).state == "starting"


async def test_a_server_of_openais_api_alone_is_recognised_as_that(shared: Callable[..., ModelServer]) -> None:
    plain = shared("openai")
    assert await recognise(plain.url, 20) == "openai"
