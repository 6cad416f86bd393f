"""Stock clients chat with a managed model of the other host, through MainPC's front and the encrypted link."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.lab.fabric import ROOT, until
from tests.lab.netns import TwoHosts, why_not
from tests.lab.two_hosts import TwoHostFabric, two_host_fabric

FRONT = "http://127.0.0.1:7081"
PATIENCE_S = 90


def engine(name: str, file: str, **more: Any) -> dict[str, Any]:
    """A managed model: the stand-in for llama-server, which loads 3 GiB of simulated VRAM."""
    plain = {
        "name": name,
        "engine": "llama-server",
        "vram": "4GiB",
        "command": ["{python}", "-m", "tests.lab.engines.llama_server", "--port", "{port}", "--model", "{file}"],
        "files": [file],
        "env": {"STAND_IN_VRAM": "3GiB", "STAND_IN_TOKEN_S": "0.01", "PYTHONPATH": str(ROOT)},
        "slots": 4,
    }
    return {**plain, **more}


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHostFabric]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("front")
    file = folder / "far.gguf"
    file.write_bytes(b"weights")
    models = {"pc2": [engine("far", str(file), aliases=["gpt-4o-mini"])]}
    with TwoHosts() as lab, two_host_fabric(lab, folder, models=models) as made:
        yield made


def client(fabric: TwoHostFabric, *words: str) -> subprocess.Popen[str]:
    """A stock client on MainPC."""
    return fabric.host("mainpc").start(
        *(sys.executable, "-m", "tests.lab.stock_chat", *words),
        env=fabric.environ_of("mainpc") | {"NO_PROXY": "*"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(chat: subprocess.Popen[str]) -> Sequence[str]:
    """The pieces it got, to the end."""
    out, err = chat.communicate(timeout=PATIENCE_S)
    assert chat.returncode == 0, err
    pieces: list[str] = [json.loads(line) for line in out.splitlines()]
    assert pieces[-1] == "end", err
    return pieces[:-1]


def models(fabric: TwoHostFabric) -> dict[str, dict[str, Any]]:
    answer = fabric.ask("mainpc", 7001, {"action": "list_models"}) or {}
    return {model["name"]: model for model in answer.get("models", [])}


def test_a_stock_openai_client_streams_from_a_model_of_the_other_host(fabric: TwoHostFabric) -> None:
    pieces = said(client(fabric, "openai", FRONT, "far"))
    assert len(pieces) > 1
    far = models(fabric)["far"]
    assert (far["state"], far["host"], far["engine"]) == ("ready", "pc2", "llama-server")
    assert far["url"].startswith("http://127.0.0.1:")


def test_a_stock_ollama_client_streams_from_it_by_an_alias(fabric: TwoHostFabric) -> None:
    pid = models(fabric)["far"]["pid"]
    assert len(said(client(fabric, "ollama", FRONT, "gpt-4o-mini"))) > 1
    assert models(fabric)["far"]["pid"] in (pid, models(fabric)["far"]["pid"])


def test_a_stream_goes_on_while_resource_manager_is_killed(fabric: TwoHostFabric) -> None:
    chat = client(fabric, "openai", FRONT, "far", "400")
    assert chat.stdout is not None
    first = chat.stdout.readline()
    assert first, chat.communicate(timeout=PATIENCE_S)[1]
    os.kill(fabric.pid("resource_manager"), signal.SIGKILL)
    assert len(said(chat)) > 1
    until(lambda: models(fabric).get("far", {}).get("users") == 0, PATIENCE_S, "the use to be given back")


def test_the_operator_sees_it_and_can_stop_it(fabric: TwoHostFabric) -> None:
    loaded = fabric.tandem("mainpc", "models", "load", "far", "--wait", "60s")
    assert loaded.returncode == 0, loaded.stderr
    listed = fabric.tandem("mainpc", "models")
    assert "far, gpt-4o-mini" in listed.stdout
    held = [used for card, (used, _) in fabric.used_bytes().items() if "pc2" in card]
    assert sum(held) >= 3 * 2**30
    stopped = fabric.tandem("pc2", "models", "stop", "far", "--json")
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(stopped.stdout)["returned_bytes"] >= 3 * 2**30
    until(lambda: not sum(used for used, _ in fabric.used_bytes().values()), PATIENCE_S, "the bytes to come back")
