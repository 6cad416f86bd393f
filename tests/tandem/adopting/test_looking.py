from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from common.config.settings import Settings
from common.gpu.process_identity import start_time
from common.gpu.simulated import GIB, cards_folder, ensure_cards
from tandem.adopting import looking
from tandem.adopting.running import Broker, Seen, proposed
from tests.lab.engines import ModelServer, start

HOST = "h"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    ensure_cards(cards_folder(home, HOST), HOST, (24 * GIB, 12 * GIB))
    return home


@pytest.fixture(scope="module")
def engines(home: Path) -> Iterator[dict[str, ModelServer]]:
    cards = cards_folder(home, HOST)
    with (
        start("llama-server", "--model", "/m/tiny-1B-Q4_0.gguf", "-np", "3", cards=cards, vram="4GiB") as llama,
        start("ollama", cards=cards, models={"qwen3:8b": "5GiB", "minilm:latest": "256MiB"}) as ollama,
        start("comfyui", cards=cards, residual="1GiB") as comfyui,
    ):
        yield {"llama-server": llama, "ollama": ollama, "comfyui": comfyui}


async def looked(home: Path, *ports: int) -> looking.Look:
    return await looking.look(looking.sampled(HOST, Settings(home, leave_real_cards=True)), ports)


def found(look: looking.Look, kind: str) -> Seen:
    return next(each for each in look.seen if each.engine == kind)


async def test_engines_are_found_by_the_vram_that_they_hold(home: Path, engines: dict[str, ModelServer]) -> None:
    for server in (engines["llama-server"], engines["comfyui"]):
        async with asyncio.timeout(60):
            while not server.held():
                await asyncio.sleep(0.05)
    look = await looked(home)
    llama, comfyui = found(look, "llama-server"), found(look, "comfyui")
    assert (llama.port, llama.pid, llama.vram_bytes) == (
        engines["llama-server"].port,
        engines["llama-server"].pid,
        4 * GIB,
    )
    assert llama.slots == 3
    assert comfyui.vram_bytes == GIB
    assert look.card_bytes == 24 * GIB
    assert not [each for each in look.seen if each.engine == "ollama"]
    process = look.processes[llama.pid]
    assert "tests.lab.engines.llama_server" in process.command
    assert os.getpid() in process.ancestors
    assert not process.supervised


async def test_an_engine_that_holds_nothing_is_found_at_its_port(home: Path, engines: dict[str, ModelServer]) -> None:
    before = {name: (server.pid, start_time(server.pid)) for name, server in engines.items()}
    look = await looked(home, engines["ollama"].port, 1)
    ollama = found(look, "ollama")
    assert {tag.name for tag in ollama.tags} == {"qwen3:8b", "minilm:latest"}
    models = {
        proposal.model.name: proposal.model for proposal in proposed([ollama], [], look.processes, HOST).proposals
    }
    assert set(models) == {"qwen3:8b", "minilm:latest"}
    assert models["minilm:latest"].capabilities == ["embeddings", "ollama"]
    assert models["qwen3:8b"].url == engines["ollama"].url
    assert before == {name: (server.pid, start_time(server.pid)) for name, server in engines.items()}
    assert all(not server.told()["acts"] for server in engines.values())


async def test_a_broker_is_known_and_other_servers_are_nobody(home: Path) -> None:
    async def running(_: web.Request) -> web.Response:
        return web.json_response({"running": []})

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    app, other = web.Application(), web.Application()
    app.add_routes([web.get("/running", running)])
    other.add_routes([web.get("/{any:.*}", page)])
    runners = [web.AppRunner(each) for each in (app, other)]
    for runner in runners:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        ports = [runner.addresses[0][1] for runner in runners]
        look = await looked(home, *ports)
        assert Broker("llama-swap", ports[0], os.getpid()) in look.brokers
        assert ports[1] not in [each.port for each in look.seen]
    finally:
        for runner in runners:
            await runner.cleanup()


def test_without_cards_there_are_none(tmp_path: Path) -> None:
    assert looking.sampled(HOST, Settings(tmp_path, leave_real_cards=True)) == []
    assert looking.largest([]) == 0


async def test_an_engine_that_goes_silent_has_no_models() -> None:
    with start("openai", "--model", "tiny", lies=["error"]) as server:
        assert await looking.ask(server.port, server.pid) is None
        assert await looking._models("openai", server.url) == []
        server.tell(lies=[])
        seen = await looking.ask(server.port, server.pid)
        assert isinstance(seen, Seen)
        assert (seen.engine, seen.models) == ("openai", ("tiny",))
