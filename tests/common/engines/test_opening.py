from __future__ import annotations

from typing import get_args

import pytest

from common.config.models import EngineKind
from common.engines.engine import Engine, SavedSlot
from common.engines.opening import ADAPTERS, recognise
from common.errors import TandemError
from tests.common.engines.conftest import Answering, Opened, http

KINDS: tuple[EngineKind, ...] = get_args(EngineKind)
GARBAGE = {
    "html": http(b"<html><h1>It works!</h1></html>"),
    "truncated": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"models": [',
    "half a document": http(b'{"models": ['),
    "500": http(b'{"error": {"message": "out of luck"}}', "500 Internal Server Error"),
    "reset": b"",
    "not HTTP": b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f",
    "another type": http(b'"hello"'),
    "null": http(b"null"),
    "endless": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 5 * 2**20,
}


def test_every_kind_has_its_adapter() -> None:
    assert set(ADAPTERS) == set(KINDS)
    assert all(kind == adapter.KIND for kind, adapter in ADAPTERS.items())


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
async def test_no_garbage_gets_past_an_adapter(
    opened: Opened, answering: Answering, kind: EngineKind, garbage: str
) -> None:
    engine = opened(kind, await answering(GARBAGE[garbage]))
    health = await engine.health(20)
    if kind == "vllm" and GARBAGE[garbage].startswith(b"HTTP/1.1 200 OK") and health.state == "ready":
        pass  # its /health is documented to be a bare 200
    else:
        assert (health.state, bool(health.reason)) == ("failing", True)
    for question in (engine.models(20), engine.loaded(20)):
        with pytest.raises(TandemError):
            await question
    await every_act_makes_a_claim(engine, passes=("wake",) if kind == "comfyui" else ())


async def every_act_makes_a_claim(engine: Engine, passes: tuple[str, ...]) -> None:
    claims = {
        "load": await engine.load("tiny", 20),
        "unload": await engine.unload("tiny", 20),
        "unload all": await engine.unload("", 20),
        "sleep": await engine.sleep(20),
        "wake": await engine.wake(20),
        "save": (await engine.save_slots("lease-1", "", 20)).claim,
        "restore": await engine.restore_slots([SavedSlot(0, "lease-1-0.bin", 5)], "", 20),
    }
    assert {act for act, claim in claims.items() if claim.ok} == set(passes)
    assert all(claim.text for claim in claims.values())


@pytest.mark.parametrize("kind", KINDS)
async def test_where_nobody_listens_every_engine_is_absent(opened: Opened, kind: EngineKind) -> None:
    engine = opened(kind, "http://127.0.0.1:1")
    assert (await engine.health(20)).state == "absent"
    with pytest.raises(TandemError):
        await engine.models(20)
    assert not (await engine.unload("tiny", 20)).ok


@pytest.mark.parametrize(
    ("status", "state"), [("200 OK", "ready"), ("503 Service Unavailable", "starting"), ("404 Not Found", "failing")]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_health_path_of_ones_own_goes_by_its_status(
    opened: Opened, answering: Answering, kind: EngineKind, status: str, state: str
) -> None:
    engine = opened(kind, await answering(http(b"", status)), "", "/healthz")
    assert (await engine.health(20)).state == state


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_is_recognised_as_nothing_known(answering: Answering, garbage: str) -> None:
    assert await recognise(await answering(GARBAGE[garbage]), 20) is None


async def test_an_address_without_a_listener_is_nothing_known() -> None:
    assert await recognise("http://127.0.0.1:1", 20) is None
