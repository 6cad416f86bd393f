from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from common.engines.comfyui import ComfyUi
from common.engines.engine import LoadedModel
from common.engines.opening import recognise
from common.errors import Unavailable
from tests.common.engines.conftest import Answering, Opened, http, until
from tests.lab.engines import ModelServer

GIB = 2**30
CONTEXT = 300 * 2**20
CHECKPOINT = "sdxl.safetensors"
Used = Callable[[], int]


@pytest.fixture(scope="module")
def running(shared: Callable[..., ModelServer]) -> ModelServer:
    return shared("comfyui", "--listen", "127.0.0.1", models={CHECKPOINT: "7GiB", "flux.safetensors": "12GiB"})


@pytest.fixture
async def server(running: ModelServer, opened: Opened, used: Used) -> ModelServer:
    """Idle, honest, with nothing in memory but its context."""
    running.tell(lies=[], job_s=0, free_s=0)
    await until(lambda: not get(f"{running.url}/queue")["queue_running"])
    await opened("comfyui", running.url).unload("", 20)
    await until(lambda: used() == CONTEXT)
    return running


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def draw(server: ModelServer) -> str:
    workflow = {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}}}
    body = json.dumps({"prompt": workflow}).encode()
    request = urllib.request.Request(f"{server.url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["prompt_id"])


@pytest.mark.parametrize(
    ("act", "flags"), [("sleep", "free unload_models"), ("unload", "free free_memory unload_models")]
)
async def test_an_idle_one_gives_up_what_its_jobs_loaded(
    server: ModelServer, opened: Opened, used: Used, act: str, flags: str
) -> None:
    engine = opened("comfyui", server.url)
    assert (await engine.health(20)).state == "ready"
    assert await engine.loaded(20) == []
    job = draw(server)
    await until(lambda: job in get(f"{server.url}/history/{job}"))
    assert await engine.loaded(20) == [LoadedModel("comfyui", "loaded", 7 * GIB)]
    assert used() == 7 * GIB + CONTEXT
    claim = await getattr(engine, act)(within_s=20)
    assert (claim.ok, claim.text) == (True, "POST /free answered 200")
    await until(lambda: used() == CONTEXT)
    assert server.told()["acts"][-1] == flags
    assert (await engine.wake()).ok


async def test_a_busy_one_answers_at_once_and_gives_up_nothing_before_its_job_is_done(
    server: ModelServer, opened: Opened, used: Used
) -> None:
    engine = opened("comfyui", server.url)
    server.tell(job_s=3600)
    draw(server)
    await until(lambda: used() == 7 * GIB + CONTEXT)
    claim = await engine.unload("", 20)
    assert (claim.ok, claim.text) == (True, "POST /free answered 200; takes effect after 1 running jobs")
    assert used() == 7 * GIB + CONTEXT
    server.kill()


async def test_checkpoints_are_listed_by_either_way_it_has(
    shared: Callable[..., ModelServer], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = shared("comfyui", models={CHECKPOINT: "7GiB"})
    engine = opened("comfyui", server.url)
    assert await engine.models(20) == [CHECKPOINT]
    assert await engine.upstream("anything", 20) == "anything"
    assert isinstance(engine, ComfyUi)
    ask = engine._exchange.ask

    async def older(method: str, path: str, until: float, **more: Any) -> Any:
        return await ask(method, "/no-such-path" if path == "/models/checkpoints" else path, until, **more)

    monkeypatch.setattr(engine._exchange, "ask", older)
    assert await engine.models(20) == [CHECKPOINT]


async def test_nodes_without_a_loader_tell_no_checkpoints(opened: Opened, answering: Answering) -> None:
    engine = opened("comfyui", await answering(http(b"{}")))
    monkeyed = engine._get  # type: ignore[attr-defined]

    async def older(path: str, until: float) -> Any:
        answer = await monkeyed(path, until)
        return type(answer)(answer.asked, 404, b"") if path == "/models/checkpoints" else answer

    engine._get = older  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="does not tell its checkpoints"):
        await engine.models(20)


async def test_one_that_keeps_or_refuses_or_hangs(shared: Callable[..., ModelServer], opened: Opened) -> None:
    server = shared("comfyui", models={CHECKPOINT: "7GiB"})
    engine = opened("comfyui", server.url)
    job = draw(server)
    await until(lambda: job in get(f"{server.url}/history/{job}"))
    server.tell(lies=["keeps_all"])
    assert (await engine.unload("", 20)).ok
    assert server.held() == 7 * GIB + CONTEXT
    server.tell(lies=["refuses"])
    assert not (await engine.unload("", 20)).ok
    server.tell(lies=["hangs"])
    assert not (await engine.sleep(0.1)).ok
    server.tell(lies=["never_ready"])
    assert (await engine.health(20)).state == "failing"


async def test_it_is_recognised(shared: Callable[..., ModelServer]) -> None:
    assert await recognise(shared("comfyui").url, 20) == "comfyui"
