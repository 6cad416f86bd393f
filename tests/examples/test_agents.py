"""The example agents as processes of their own, asked by a client that knows nothing of Tandem."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

pytest.importorskip("py3langid", reason="needs the demo's models: examples/requirements.lock")

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "examples" / "samples"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def agent(name: str, home: Path) -> Iterator[zmq.Socket[bytes]]:
    """The agent as a process without a registry, and a bare REQ socket connected to it."""
    port = free_port()
    told = {"TANDEM_HOME": str(home), "TANDEM_PORT": str(port)}
    program = [sys.executable, str(ROOT / "examples" / "agents" / f"{name}_agent.py")]
    process = subprocess.Popen(program, cwd=ROOT, env=os.environ | told, stdout=subprocess.DEVNULL)
    with zmq.Context() as context, context.socket(zmq.REQ) as asker:
        asker.setsockopt(zmq.LINGER, 0)
        asker.setsockopt(zmq.RCVTIMEO, 60_000)
        asker.connect(f"tcp://127.0.0.1:{port}")
        try:
            yield asker
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


def ask(asker: zmq.Socket[bytes], **message: str) -> dict[str, Any]:
    asker.send(json.dumps(message).encode())
    answer: dict[str, Any] = json.loads(asker.recv())
    return answer


def sample(name: str) -> str:
    return base64.b64encode((SAMPLES / name).read_bytes()).decode()


def test_the_language_agent_names_the_language(tmp_path: Path) -> None:
    with agent("language", tmp_path) as asker:
        answer = ask(asker, action="detect_language", data="Les deux machines dormaient encore.")
    assert (answer["status"], answer["language"]) == ("success", "fr")


def test_the_reading_agent_reads_a_page(tmp_path: Path) -> None:
    with agent("reading", tmp_path) as asker:
        answer = ask(asker, action="read_image", image_data=sample("page.png"))
    assert answer["status"] == "success"
    assert answer["words"][:2] == ["Region-based", "segmentation"]


def test_the_hearing_agent_hears_a_sentence(tmp_path: Path) -> None:
    with agent("hearing", tmp_path) as asker:
        answer = ask(asker, action="find_speech", audio_data=sample("speech-2.wav"))
    assert answer["status"] == "success"
    assert answer["speech"][0] == pytest.approx([0.27, 3.04], abs=0.3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("language", {"action": "detect_language", "data": 7}),
        ("reading", {"action": "read_image", "image_data": "not base64!"}),
        ("hearing", {"action": "find_speech"}),
    ],
)
def test_a_request_of_the_wrong_shape_is_the_callers_mistake(tmp_path: Path, name: str, message: Any) -> None:
    with agent(name, tmp_path) as asker:
        assert ask(asker, **message)["code"] == "bad_request"
