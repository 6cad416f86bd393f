from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.gpu.simulated import GIB, SimulatedCards, card_uuid, ensure_cards
from tests.lab.engines import ModelServer, start

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello big world"}]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with start("openai", "--model", "tiny") as running:
        yield running


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    ensure_cards(folder, "mainpc", (24 * GIB, 24 * GIB))
    return folder


def post(url: str, **body: Any) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def events(content: bytes) -> list[str]:
    return [line.removeprefix(b"data: ").decode() for line in content.splitlines() if line.startswith(b"data: ")]


def test_a_chat_is_the_same_whole_and_streamed(server: ModelServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    whole = json.loads(post(url, model="tiny", messages=MESSAGES))
    assert whole["choices"][0]["message"]["content"] == "echo: hello big world"
    assert (whole["choices"][0]["finish_reason"], whole["usage"]["completion_tokens"]) == ("stop", 4)
    streamed = events(post(url, model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}))
    assert streamed.pop() == "[DONE]"
    chunks = [json.loads(event) for event in streamed]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["usage"]["total_tokens"] == 7
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in chunks[:-1]) == "echo: hello big world"


def test_max_tokens_cuts_and_ignore_eos_fills(server: ModelServer) -> None:
    url = f"{server.url}/v1/completions"
    cut = json.loads(post(url, model="tiny", prompt="a b c", max_tokens=2))["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == ("echo: a", "length")
    filled = json.loads(post(url, model="tiny", prompt="a", max_tokens=5, ignore_eos=True))["choices"][0]
    assert filled["text"] == "echo: a echo: a echo:"


def test_responses_are_the_same_whole_and_streamed(server: ModelServer) -> None:
    url = f"{server.url}/v1/responses"
    whole = json.loads(post(url, model="tiny", input="hello you"))
    assert whole["output"][0]["content"][0]["text"] == "echo: hello you"
    streamed = [json.loads(event) for event in events(post(url, model="tiny", input="hello you", stream=True))]
    assert [event["type"] for event in streamed] == [
        "response.created",
        *["response.output_text.delta"] * 3,
        "response.completed",
    ]


def test_everything_else_of_openais_is_served_too(server: ModelServer) -> None:
    v1 = f"{server.url}/v1"
    first, second = (json.loads(post(f"{v1}/embeddings", model="tiny", input=["a", "b"])) for _ in range(2))
    assert first["data"] == second["data"]
    assert first["data"][0]["embedding"] != first["data"][1]["embedding"]
    ranked = json.loads(post(f"{v1}/rerank", model="tiny", query="red fox", documents=["a dog", "the red fox", "red"]))
    assert [result["index"] for result in ranked["results"]] == [1, 2, 0]
    assert post(f"{v1}/audio/speech", model="tiny", input="hello").startswith(b"RIFF")
    assert json.loads(post(f"{v1}/images/generations", model="tiny", prompt="a fox"))["data"][0]["b64_json"]
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--x\r\nContent-Disposition: form-data; '
    form += b'name="file"; filename="a.wav"\r\n\r\nRIFFabcd\r\n--x--\r\n'
    request = urllib.request.Request(
        f"{v1}/audio/transcriptions", form, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer) == {"text": "8 bytes of sound"}


@pytest.mark.parametrize(("body", "status"), [({"model": "else", "messages": MESSAGES}, 404), ({"model": "tiny"}, 400)])
def test_what_it_does_not_serve_is_refused_as_openai_does(
    server: ModelServer, body: dict[str, Any], status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(f"{server.url}/v1/chat/completions", **body)
    assert caught.value.code == status
    assert "message" in json.loads(caught.value.read())["error"]


def test_ollama_streams_lines_and_embeds() -> None:
    with start("ollama", "serve", models={"tiny": "1GiB"}) as ollama:
        lines = [
            json.loads(line) for line in post(f"{ollama.url}/api/chat", model="tiny", messages=MESSAGES).splitlines()
        ]
        assert "".join(line["message"]["content"] for line in lines) == "echo: hello big world"
        assert [line["done"] for line in lines] == [False] * 4 + [True]
        whole = json.loads(post(f"{ollama.url}/api/generate", model="tiny", prompt="hi", stream=False))
        assert (whole["response"], whole["done_reason"]) == ("echo: hi", "stop")
        assert len(json.loads(post(f"{ollama.url}/api/embed", model="tiny", input=["a", "b"]))["embeddings"]) == 2
        openai = json.loads(post(f"{ollama.url}/v1/chat/completions", model="tiny", messages=MESSAGES))
        assert openai["choices"][0]["message"]["content"] == "echo: hello big world"


def test_a_model_kept_for_a_while_goes_by_itself(cards: Path) -> None:
    with start("ollama", cards=cards, models={"tiny": "1GiB"}) as ollama:
        post(f"{ollama.url}/api/generate", model="tiny", prompt="hi", keep_alive="100ms")
        while ollama.held():
            pass
        assert json.loads(urllib.request.urlopen(f"{ollama.url}/api/ps", timeout=60).read()) == {"models": []}


def test_it_holds_the_same_on_all_cards_that_it_is_shown(cards: Path) -> None:
    shown = ",".join(card_uuid("mainpc", index) for index in (0, 1))
    with start("vllm", "tiny", "--gpu-memory-utilization", "0.5", cards=cards, visible=shown) as vllm:
        samples = SimulatedCards("mainpc", cards).sample(0.0)
        assert [sample.used_bytes for sample in samples] == [12 * GIB, 12 * GIB]
        assert samples[0].processes is not None
        assert samples[0].processes[0].pid == vllm.pid
    assert [sample.used_bytes for sample in SimulatedCards("mainpc", cards).sample(0.0)] == [0, 0]


def test_it_ends_with_whoever_started_it() -> None:
    with start("openai") as orphan:
        assert orphan._process.stdin is not None
        orphan._process.stdin.close()
        assert orphan.ended() == 0


def test_one_that_ignores_term_needs_the_kill() -> None:
    with start("openai", lies=["ignores_term"]) as stubborn:
        stubborn._process.terminate()
        assert stubborn.told()["lies"] == ["ignores_term"]
        stubborn.kill()
        assert stubborn.returncode() == -9


@pytest.mark.parametrize("lie", ["html", "error", "truncated", "resets"])
def test_a_spoiled_answer_is_nothing_that_a_client_can_read(server: ModelServer, lie: str) -> None:
    server.tell(lies=[lie])
    with pytest.raises((OSError, ValueError, http.client.HTTPException)):
        json.loads(urllib.request.urlopen(f"{server.url}/v1/models", timeout=60).read())
    server.tell(lies=[])
    assert json.loads(urllib.request.urlopen(f"{server.url}/v1/models", timeout=60).read())["data"]


def test_a_sleep_cuts_off_what_vllm_generates() -> None:
    environment = {"VLLM_SERVER_DEV_MODE": "1"}
    with start("vllm", "tiny", "--enable-sleep-mode", env=environment, token_s=0.2) as vllm:
        body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 10_000, "ignore_eos": True, "stream": True})
        request = urllib.request.Request(
            f"{vllm.url}/v1/completions", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as stream:
            stream.readline()
            post(f"{vllm.url}/sleep?level=1")
            last = [json.loads(event) for event in events(stream.read())[-2:-1]]
        assert last[0]["choices"][0]["finish_reason"] == "abort"


def test_an_echo_gives_back_bytes_and_bodies() -> None:
    with start("echo") as echo:
        assert post(f"{echo.url}/anywhere", a=1) == b'{"a": 1}'
        with socket.create_connection(("127.0.0.1", echo.port), 60) as plain:
            for words in (b"\x00\x01hello", b"again"):
                plain.sendall(words)
                assert plain.recv(100) == words


def test_a_start_that_fails_says_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="openai ended with 2 before it listened"):
        start("openai", "--port", "none")


def test_a_load_waits_for_memory_that_is_still_going(cards: Path) -> None:
    with start("ollama", cards=cards, models={"tiny": "1GiB"}, free_s=0.3) as ollama:
        url = f"{ollama.url}/api/generate"
        post(url, model="tiny")
        post(url, model="tiny", keep_alive=0)
        while json.loads(urllib.request.urlopen(f"{ollama.url}/api/ps", timeout=60).read())["models"]:
            pass
        post(url, model="tiny", keep_alive=-1)
        assert ollama.held() == GIB


def test_a_load_reads_the_file_where_it_is_told_to(tmp_path: Path) -> None:
    weights = tmp_path / "tiny.gguf"
    weights.write_bytes(b"x" * 3_000_000)
    with start("llama-server", "-m", str(weights), reads=1) as server:
        assert b"echo: hi" in retried(f"{server.url}/v1/chat/completions", model="", messages=[{"content": "hi"}])


def retried(url: str, **body: Any) -> bytes:
    while True:
        try:
            return post(url, **body)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
