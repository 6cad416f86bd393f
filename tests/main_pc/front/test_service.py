"""The front over a fabric of fakes: real HTTP, real ZeroMQ, a stand-in engine as a process, another host behind `ask_model`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from common.api import leases, models, resource_manager
from common.api.words import Cursor, Empty
from common.client.opening import open_async_client
from common.client.settings import at_own_pace
from common.errors import BadRequest, NoCapacity, NotFound, TandemError, Unavailable
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.telemetry.system_clock import SystemClock
from main_pc.front.service import Front, FrontSettings
from tests.lab.engines import ModelServer, start
from tests.lab.nowhere import nobody_but
from tests.main_pc.front.models import model

PATIENCE_S = 60.0
PIECE = 64 * 1024
SSE = b'data: {"choices":[{"delta":{"content":"far"}}]}\n\ndata: [DONE]\n\n'


@dataclass
class Fakes:
    """What the fakes answer, and what they were asked."""

    ready: dict[str, models.ModelReady] = field(default_factory=dict)
    refusals: list[TandemError] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    used: list[models.UseModel] = field(default_factory=list)
    asked: list[models.AskModel] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    listed: list[models.Model] = field(default_factory=list)
    flood: int = 0
    paced: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def use(self, asked: models.UseModel, call: Call) -> models.ModelReady:
        self.used.append(asked)
        if self.refusals:
            raise self.refusals.pop(0)
        if asked.model not in self.ready:
            raise NotFound(f"no model {asked.model!r}")
        if asked.model == "slow":
            call.part(models.ModelProgress("loading", "mainpc", 0, 0.0, 7.0, "cold"))
            await self.hold.wait()
        return self.ready[asked.model]

    async def ask(self, asked: models.AskModel, call: Call) -> models.ModelBytes:
        self.asked.append(asked)
        call.part(models.ModelBytes(200, {"Content-Type": "text/event-stream"}))
        if self.flood:
            return await self._flooded(asked, call)
        call.part(models.ModelBytes(data=SSE[:20]))
        return models.ModelBytes(data=SSE[20:])

    async def _flooded(self, asked: models.AskModel, call: Call) -> models.ModelBytes:
        """So many windows, none of them before the one before it is said to be taken."""
        for done in range(self.flood):
            for _ in range(models.WINDOW_BYTES // PIECE):
                call.part(models.ModelBytes(data=bytes(PIECE)))
            while self.paced.get(asked.reader, 0) < (done + 1) * models.WINDOW_BYTES:
                self.told.clear()
                await self.told.wait()
        return models.ModelBytes()

    def pace(self, told: models.PaceModel, _call: Call) -> Empty:
        assert told.taken_bytes >= self.paced.get(told.reader, 0)
        if self.lost and told.taken_bytes >= models.WINDOW_BYTES:
            self.lost -= 1
            raise BadRequest("lost")
        self.paced[told.reader] = told.taken_bytes
        self.told.set()
        return Empty()

    def release(self, asked: leases.ReleaseLease, _call: Call) -> Empty:
        self.released.append(asked.lease_id)
        return Empty()

    def shell(self, service: str, host: str) -> Shell:
        shell = Shell(ShellSettings(service=service, host=host, port=0))
        shell.handle(models.USE_MODEL, self.use)
        shell.handle(models.LIST_MODELS, lambda _asked, _call: models.Models(self.listed, Cursor(epoch=0, seq=0)))
        shell.handle(models.ASK_MODEL, self.ask)
        shell.handle(models.PACE_MODEL, self.pace)
        shell.handle(leases.RELEASE_LEASE, self.release)
        return shell


def ready(name: str, host: str, url: str, engine: str = "llama-server") -> models.ModelReady:
    lease = leases.LeaseGranted(f"lease-{name}", host, 0, "GPU-0", 7, 30.0, 0)
    return models.ModelReady(name, host, url, "upstream.gguf", engine, lease, 0.0, loaded=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[ModelServer]:
    with start("llama-server", "--model", "upstream.gguf") as server:
        yield server


@dataclass
class House:
    """The front, the fakes behind it, and a session to ask it with."""

    url: str
    fakes: Fakes
    shells: dict[str, Shell]
    session: aiohttp.ClientSession

    async def post(self, path: str, document: Any, **headers: str) -> tuple[int, str]:
        async with self.session.post(self.url + path, json=document, headers=headers) as answer:
            return answer.status, await answer.text()

    async def given_back(self, times: int) -> list[str]:
        """What was given back, once it is so many: that follows the answer."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.fakes.released) < times:
                await asyncio.sleep(0.01)
        return self.fakes.released

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, json.loads(await answer.text())


@pytest.fixture
async def house(engine: ModelServer) -> AsyncIterator[House]:
    fakes = Fakes()
    shells = {name: fakes.shell(name, host) for name, host in PLACES}
    for shell in shells.values():
        await shell.open()
    directory = nobody_but(*(f"{name}={shell.port}@127.0.0.1" for name, shell in shells.items()))
    fakes.ready = {
        "near": ready("near", "mainpc", engine.url),
        "slow": ready("slow", "mainpc", engine.url),
        "far": ready("far", "pc2", "http://127.0.0.1:1"),
    }
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with open_async_client(at_own_pace(), directory) as client, aiohttp.ClientSession(timeout=timeout) as session:
        front = Front(FrontSettings("mainpc", port=0), directory, client, SystemClock())
        await front.open()
        try:
            yield House(f"http://127.0.0.1:{front.port}", fakes, shells, session)
        finally:
            fakes.hold.set()
            await front.close()
            for shell in shells.values():
                await shell.close(drain_s=0)


PLACES = ((resource_manager.SERVICE, "pc2"), ("Supervisor/mainpc", "mainpc"), ("Supervisor/pc2", "pc2"))
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def said(text: str) -> str:
    """What an event stream of chat pieces says."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)


async def test_a_chat_is_answered_by_the_engine_and_its_model_given_back(house: House) -> None:
    status, text = await house.post("/v1/chat/completions", {"model": "near", **CHAT})
    assert status == 200
    assert json.loads(text)["choices"][0]["message"]["content"]
    assert await house.given_back(1) == ["lease-near"]
    assert (house.fakes.used[0].capability, house.fakes.used[0].priority) == ("chat", 50)


async def test_a_stream_passes_through(house: House) -> None:
    status, text = await house.post("/v1/chat/completions", {"model": "near", "stream": True, **CHAT})
    assert status == 200
    assert said(text)
    assert text.rstrip().endswith("data: [DONE]")


async def test_an_ollama_client_chats_with_an_engine_that_speaks_openais_words(house: House) -> None:
    status, text = await house.post("/api/chat", {"model": "near:latest", **CHAT})
    lines = [json.loads(line) for line in text.splitlines()]
    assert status == 200
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(line["message"]["content"] for line in lines)
    status, text = await house.post("/api/generate", {"model": "near", "prompt": "hi", "stream": False})
    assert json.loads(text)["response"]
    status, text = await house.post("/api/generate", {"model": "near"})
    assert json.loads(text)["done_reason"] == "load"


async def test_a_model_of_another_host_is_asked_through_its_supervisor(house: House) -> None:
    status, text = await house.post(
        "/v1/chat/completions", {"model": "far", "stream": True, **CHAT}, Authorization="Bearer x"
    )
    assert (status, text) == (200, SSE.decode())
    (asked,) = house.fakes.asked
    assert (asked.lease_id, asked.path) == ("lease-far", "/v1/chat/completions")
    assert json.loads(asked.body)["model"] == "upstream.gguf"
    assert "authorization" not in {name.lower() for name in asked.headers}
    status, text = await house.post("/api/chat", {"model": "far", **CHAT})
    assert json.loads(text.splitlines()[0])["message"]["content"] == "far"


async def test_a_long_answer_of_another_host_comes_as_fast_as_it_is_said_to_be_taken(house: House) -> None:
    house.fakes.flood = 3
    async with house.session.post(f"{house.url}/v1/chat/completions", json={"model": "far", "messages": []}) as answer:
        assert len(await answer.read()) == 3 * models.WINDOW_BYTES
    assert house.fakes.paced == {house.fakes.asked[-1].reader: 3 * models.WINDOW_BYTES}


async def test_a_long_answer_goes_on_though_the_news_that_its_window_was_taken_is_lost(house: House) -> None:
    house.fakes.flood, house.fakes.lost = 2, 2
    async with house.session.post(f"{house.url}/v1/chat/completions", json={"model": "far", "messages": []}) as answer:
        assert len(await answer.read()) == 2 * models.WINDOW_BYTES
    assert house.fakes.lost == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_who_streams_hears_of_the_wait(house: House, path: str) -> None:
    body = {"model": "slow", "stream": True, **CHAT}
    async with house.session.post(house.url + path, json=body) as answer:
        first = (await answer.content.readline()).decode()
        house.fakes.hold.set()
        rest = (await answer.content.read()).decode()
    if path == "/api/chat":
        assert json.loads(first)["tandem"] == {"phase": "loading", "eta_s": 7.0}
        assert json.loads(rest.splitlines()[-1])["done"] is True
    else:
        assert first == ": waiting for slow on mainpc: loading, about 7 s to go (cold)\n"
        assert said(rest)


async def test_a_wait_that_ends_badly_ends_the_stream_with_the_error(house: House) -> None:
    async with house.session.post(house.url + "/api/chat", json={"model": "slow", **CHAT}) as answer:
        await answer.content.readline()
        house.fakes.ready["slow"] = ready("slow", "mainpc", "http://127.0.0.1:1")
        house.fakes.hold.set()
        rest = (await answer.content.read()).decode()
    assert "takes no connection" in json.loads(rest.splitlines()[-1])["error"]


async def test_an_engine_that_died_is_borrowed_anew(house: House, engine: ModelServer) -> None:
    house.fakes.ready["near"] = ready("near", "mainpc", "http://127.0.0.1:1")
    asking = asyncio.create_task(house.post("/v1/chat/completions", {"model": "near", **CHAT}))
    await house.given_back(1)
    house.fakes.ready["near"] = ready("near", "mainpc", engine.url)
    assert (await asking)[0] == 200
    assert len(house.fakes.used) == len(await house.given_back(2)) == 2


async def test_without_resource_manager_the_hosts_are_asked(house: House) -> None:
    await house.shells[resource_manager.SERVICE].close(drain_s=0)
    assert (await house.post("/v1/chat/completions", {"model": "near", **CHAT}))[0] == 200
    house.fakes.listed = [model("near")]
    assert [each["id"] for each in (await house.get("/v1/models"))[1]["data"]] == ["near", "near"][:1]
    house.fakes.refusals = [Unavailable("starting")]
    assert (await house.post("/v1/chat/completions", {"model": "near", **CHAT}))[0] == 200
    status, text = await house.post("/v1/chat/completions", {"model": "none", **CHAT})
    assert status == 503
    assert "not all hosts could be asked" in text


@pytest.mark.parametrize(
    ("path", "document", "status", "told"),
    [
        ("/v1/chat/completions", {"model": "none", **CHAT}, 404, '"code":"model_not_found"'),
        ("/api/chat", {"model": "none", **CHAT}, 404, '{"error":"no model'),
        ("/v1/chat/completions", {}, 400, "names no model"),
        ("/v1/nothing", {}, 404, '"code":"unknown_url"'),
        ("/v1/nothing", {}, 404, "/v1/chat/completions, "),
        ("/v1/models", {}, 404, "POST /v1/models is not served here (it is asked with GET)"),
        ("/api/chat", {"model": "near", "messages": "x"}, 400, "`messages` is to be a list"),
    ],
)
async def test_what_cannot_be_answered_is_refused_in_the_clients_words(
    house: House, path: str, document: Any, status: int, told: str
) -> None:
    got, text = await house.post(path, document)
    assert (got, told in text) == (status, True), text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize("name", ["llama3.2", "llama3.2:latest"])
async def test_a_model_whose_name_has_ollamas_tag_is_found_with_and_without_it(
    house: House, path: str, name: str
) -> None:
    house.fakes.ready["llama3.2:latest"] = house.fakes.ready["near"]
    status, text = await house.post(path, {"model": name, **CHAT})
    assert status == 200, text


async def test_who_finds_no_room_is_told_when_to_come_back(house: House) -> None:
    house.fakes.refusals = [NoCapacity("the card is full", retry_after_ms=1_500)]
    body = {"model": "near", **CHAT}
    async with house.session.post(house.url + "/v1/chat/completions", json=body) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert house.fakes.released == []


async def test_how_long_and_how_urgently_is_the_clients_to_say(house: House) -> None:
    headers = {"X-Tandem-Wait": "2s", "X-Tandem-Priority": "80"}
    await house.post("/v1/chat/completions", {"model": "near", **CHAT}, **headers)
    assert (1.0 < house.fakes.used[0].wait_s <= 2.0, house.fakes.used[0].priority) == (True, 80)
    for name, value in (("X-Tandem-Wait", "soon"), ("X-Tandem-Priority", "101"), ("X-Tandem-Priority", "high")):
        status, _ = await house.post("/v1/chat/completions", {"model": "near", **CHAT}, **{name: value})
        assert status == 400


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
async def test_a_page_of_elsewhere_gets_nothing(house: House, headers: dict[str, str]) -> None:
    status, _ = await house.post("/v1/chat/completions", {"model": "near", **CHAT}, **headers)
    assert status == 403
    assert house.fakes.used == []


async def test_a_page_of_this_host_may_ask(house: House) -> None:
    origin = {"Origin": "http://localhost:3000"}
    async with house.session.options(house.url + "/v1/chat/completions", headers=origin) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, origin["Origin"])
    async with house.session.get(house.url + "/v1/models", headers=origin) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]


async def test_the_models_are_listed_in_both_dialects(house: House) -> None:
    house.fakes.listed = [model("near", state="ready", aliases=["gpt-4o"]), model("far", host="pc2")]
    assert [each["id"] for each in (await house.get("/v1/models"))[1]["data"]] == ["near", "gpt-4o", "far"]
    assert (await house.get("/v1/models/gpt-4o"))[1]["owned_by"] == "tandem/mainpc"
    assert (await house.get("/v1/models/other"))[0] == 404
    assert [each["name"] for each in (await house.get("/api/tags"))[1]["models"]] == ["near", "gpt-4o", "far"]
    assert [each["name"] for each in (await house.get("/api/ps"))[1]["models"]] == ["near"]
    assert json.loads((await house.post("/api/show", {"name": "far:latest"}))[1])["capabilities"] == ["completion"]
    assert (await house.post("/api/show", {"model": "other"}))[0] == 404
    assert (await house.get("/api/version"))[1]["version"]


async def test_a_client_that_leaves_gives_its_model_back(house: House) -> None:
    async with house.session.post(
        house.url + "/v1/chat/completions", json={"model": "slow", "stream": True, **CHAT}
    ) as answer:
        await answer.content.readline()
    house.fakes.hold.set()
    await house.post("/v1/chat/completions", {"model": "near", **CHAT})
    health = (await house.get("/health"))[1]
    assert (health["status"], health["ready"]) == ("ok", True)
    async with house.session.get(house.url + "/metrics") as answer:
        text = await answer.text()
    assert 'tandem_front_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text


async def test_a_body_beyond_the_bound_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("main_pc.front.service.MAX_BODY", 100)
    status, text = await house.post("/v1/chat/completions", {"model": "near", "prompt": "x" * 200})
    assert (status, "at most 100 are taken" in text) == (413, True)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 50

    async with house.session.post(house.url + "/v1/chat/completions", data=endless()) as answer:
        assert answer.status == 413


def test_settings_come_from_the_command_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.config.settings import AgentEnvironment
    from main_pc.front.service import KEY_FILE, _settings

    at_home = AgentEnvironment(tmp_path, host="mainpc", health_port=9)
    plain = _settings([], at_home)
    assert (plain.port, plain.addresses, plain.key, plain.wait_s) == (9, ("127.0.0.1",), "", 300.0)
    abroad = _settings(["--listen", "127.0.0.1", "--listen", "10.0.0.1", "--name", "GPU.lan", "--wait", "5s"], at_home)
    assert (abroad.names, abroad.wait_s, len(abroad.key) > 30) == (("gpu.lan",), 5.0, True)
    file = tmp_path / "mainpc" / KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert _settings(["--listen", "10.0.0.1"], at_home).key == abroad.key
    file.write_text("short")
    with pytest.raises(BadRequest, match="holds no key"):
        _settings(["--listen", "10.0.0.1"], at_home)
