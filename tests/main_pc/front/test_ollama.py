from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest, Interrupted
from main_pc.front import ollama

AT = "2026-01-31T12:00:00.000Z"


def asked(path: str, document: dict[str, Any], *, stream: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(
        ollama.request(path, {"model": "m", **document}, "m.gguf", stream=stream)
    )
    return found


def test_a_chat_is_carried_over_with_its_options() -> None:
    document = {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi", "images": ["aGk="]}],
        "options": {"temperature": 0.5, "num_predict": 9, "num_ctx": 4096, "seed": None},
        "tools": [{"type": "function"}],
        "format": "json",
    }
    told = asked("/api/chat", document)
    assert told["model"] == "m.gguf"
    assert told["stream"] is True
    assert told["stream_options"] == {"include_usage": True}
    assert (told["temperature"], told["max_tokens"]) == (0.5, 9)
    assert "num_ctx" not in told
    assert "seed" not in told
    assert told["tools"] == document["tools"]
    assert told["response_format"] == {"type": "json_object"}
    assert told["messages"][0] == {"role": "system", "content": "be brief"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    assert told["messages"][1]["content"] == [{"type": "text", "text": "hi"}, image]


def test_what_tools_were_called_and_what_they_said_is_carried_over() -> None:
    calls = [{"function": {"name": "f", "arguments": {"x": 1}}}]
    said = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "2", "tool_name": "f"}]
    told = asked("/api/chat", {"messages": said}, stream=False)["messages"]
    call = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    assert told[0]["tool_calls"] == [call]
    assert told[1] == {"role": "tool", "content": "2", "tool_call_id": "f"}


def test_a_prompt_becomes_a_chat_with_its_system_prompt() -> None:
    told = asked("/api/generate", {"prompt": "hi", "system": "be brief", "format": {"type": "object"}}, stream=False)
    assert told["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert told["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "stream_options" not in told


def test_embeddings_are_asked_for_in_both_of_ollamas_ways() -> None:
    assert asked("/api/embed", {"input": ["a", "b"]}) == {"model": "m.gguf", "input": ["a", "b"]}
    assert asked("/api/embeddings", {"prompt": "a"}) == {"model": "m.gguf", "input": "a"}
    assert asked("/api/embed", {}) == {"model": "m.gguf", "input": ""}


@pytest.mark.parametrize(
    ("path", "document", "told"),
    [
        ("/api/generate", {"prompt": "a", "raw": True}, "`raw`"),
        ("/api/generate", {"prompt": "a", "suffix": "b"}, "`suffix`"),
        ("/api/chat", {"messages": "a"}, "`messages` is to be a list"),
        ("/api/chat", {"messages": ["a"]}, "a message is to be an object"),
        ("/api/chat", {"messages": [{"images": "a"}]}, "`images`"),
        ("/api/chat", {"messages": [{"tool_calls": [{}]}]}, "a tool call's function"),
        ("/api/chat", {"messages": [{}], "format": 7}, "`format`"),
        ("/api/chat", {"messages": [{}], "options": []}, "`options`"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(path: str, document: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        ollama.request(path, document, "m", stream=True)


def test_without_a_prompt_only_the_load_is_wanted() -> None:
    assert ollama.is_empty("/api/chat", {"messages": []})
    assert ollama.is_empty("/api/generate", {})
    assert not ollama.is_empty("/api/generate", {"images": ["a"]})
    assert not ollama.is_empty("/api/embed", {})
    assert ollama.empty_answer("/api/chat", {"model": "m"}, AT)["done_reason"] == "load"
    unload = ollama.empty_answer("/api/generate", {"model": "m", "keep_alive": 0}, AT)
    assert (unload["done_reason"], unload["response"]) == ("unload", "")


def stream(*pieces: object, chat: bool = True) -> list[dict[str, Any]]:
    answer = ollama.Answer("m", chat, 10.0)
    lines = [answer.piece(msgspec.json.encode(piece).decode(), AT, 11.0) for piece in pieces]
    lines.append(answer.piece("[DONE]", AT, 12.0))
    lines.append(answer.end(AT, 12.0))
    return [msgspec.json.decode(line) for line in lines if line]


def delta(**said: Any) -> dict[str, Any]:
    return {"choices": [{"delta": said}]}


def test_a_stream_becomes_lines_with_the_figures_at_its_end() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    end = {"choices": [{"delta": {}, "finish_reason": "length"}]}
    told = stream(
        delta(role="assistant"), delta(content="a"), delta(reasoning_content="hm"), delta(content="b"), end, usage
    )
    assert [line["message"].get("content") for line in told] == ["a", "", "b", ""]
    assert told[1]["message"]["thinking"] == "hm"
    assert [line["done"] for line in told] == [False, False, False, True]
    assert (told[-1]["done_reason"], told[-1]["prompt_eval_count"], told[-1]["eval_count"]) == ("length", 3, 2)
    assert told[-1]["prompt_eval_duration"] == told[-1]["eval_duration"] == 1_000_000_000
    assert [line["response"] for line in stream(delta(content="a"), chat=False)] == ["a", ""]


def test_tool_calls_come_whole_with_the_last_line() -> None:
    first = {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"x"'}}
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    other = {"index": 1, "function": {"name": "g"}}
    told = stream(
        delta(tool_calls=[first]), delta(tool_calls=[rest, other]), {"choices": [{"finish_reason": "tool_calls"}]}
    )
    assert len(told) == 1
    calls = [each["function"] for each in told[0]["message"]["tool_calls"]]
    assert calls == [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]
    assert told[0]["done_reason"] == "stop"


def test_a_call_whose_arguments_are_no_json_is_told() -> None:
    with pytest.raises(Interrupted, match="call of f has arguments"):
        stream(delta(tool_calls=[{"function": {"name": "f", "arguments": "{"}}]))


def test_a_whole_answer_is_one_document() -> None:
    reply = {"choices": [{"message": {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]}
    told = ollama.Answer("m", True, 0.0).whole(msgspec.json.encode(reply), AT, 1.0)
    assert told["message"]["content"] == "a"
    assert told["message"]["tool_calls"][0]["function"]["name"] == "f"
    assert told["done"] is True


@pytest.mark.parametrize("error", [{"message": "out of memory"}, "out of memory"])
def test_an_error_in_the_stream_ends_it(error: object) -> None:
    with pytest.raises(Interrupted, match="out of memory"):
        stream({"error": error})


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b'{"choices":7}', b'{"choices":[{"delta":7}]}']))
def test_whatever_an_engine_says_is_read_or_told_to_be_unreadable(text: bytes) -> None:
    with suppress(Interrupted):
        ollama.Answer("m", True, 0.0).whole(text, AT, 1.0)
    with suppress(Interrupted):
        ollama.embeddings("/", text, "m", 1.0)


def test_vectors_are_told_in_both_of_ollamas_ways() -> None:
    reply = msgspec.json.encode(
        {"data": [{"embedding": [1.0, 2.0]}, {"embedding": [3.0]}], "usage": {"prompt_tokens": 4}}
    )
    new = ollama.embeddings("/api/embed", reply, "m", 0.5)
    assert (new["embeddings"], new["prompt_eval_count"], new["total_duration"]) == ([[1.0, 2.0], [3.0]], 4, 500_000_000)
    assert ollama.embeddings("/api/embeddings", reply, "m", 0.5) == {"embedding": [1.0, 2.0]}
    assert ollama.embeddings("/api/embeddings", b'{"data":[]}', "m", 0.5) == {"embedding": []}
    assert ollama.embeddings("/api/embed", b'{"data":[]}', "m", 0.5)["prompt_eval_count"] == 0
