"""Ollama's requests for an engine that speaks OpenAI's interface, and that engine's answers in Ollama's words.

Only what both interfaces can say is carried over; what the other one lacks (`raw` templates, `context` to go on from) is refused
by name. Source: docs/api.md of ollama/ollama, and OpenAI's reference of chat completions and embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from common.api.words import Timestamp
from common.errors import BadRequest, Interrupted
from main_pc.front.event_stream import DONE

T = TypeVar("T")

OPTIONS: Final[dict[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "max_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repeat_penalty": "repeat_penalty",
}
"""Ollama's options that an OpenAI engine has, by its name for them; others shape the load, which is the startup file's to say."""
PATHS: Final = {
    "/api/chat": "/v1/chat/completions",
    "/api/generate": "/v1/chat/completions",
    "/api/embed": "/v1/embeddings",
    "/api/embeddings": "/v1/embeddings",
}
NANOSECONDS: Final = 1_000_000_000


def is_empty(path: str, document: Mapping[str, Any]) -> bool:
    """Whether the request only loads or lets go of the model: Ollama takes one without a prompt so."""
    if path == "/api/chat":
        return not document.get("messages")
    return path == "/api/generate" and not document.get("prompt") and not document.get("images")


def empty_answer(path: str, document: Mapping[str, Any], at: Timestamp) -> dict[str, Any]:
    """The answer to a request without a prompt. What lets go of a model lets go here of a use: room is made when it is needed."""
    reason = "unload" if document.get("keep_alive") in (0, "0", "0s") else "load"
    answer: dict[str, Any] = {"model": document["model"], "created_at": at, "done": True, "done_reason": reason}
    return answer | ({"message": {"role": "assistant", "content": ""}} if path == "/api/chat" else {"response": ""})


def request(path: str, document: Mapping[str, Any], model: str, *, stream: bool) -> bytes:
    """The body for an OpenAI engine that knows the model as `model`. BadRequest names what has no counterpart."""
    if path in ("/api/embed", "/api/embeddings"):
        text = document.get("input") if path == "/api/embed" else document.get("prompt")
        return msgspec.json.encode({"model": model, "input": "" if text is None else text})
    asked: dict[str, Any] = {"model": model, "stream": stream, "messages": _messages(path, document)}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    if document.get("tools"):
        asked["tools"] = document["tools"]
    asked |= _format(document.get("format")) | _options(document.get("options"))
    return msgspec.json.encode(asked)


def _messages(path: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    if path == "/api/chat":
        return [_message(_mapping(each, "a message")) for each in _listed(document.get("messages"), "messages")]
    for unsaid in ("raw", "suffix", "context", "template"):
        if document.get(unsaid):
            mend = "ask a model that Ollama itself serves, or leave it out"
            raise BadRequest(f"this model's engine has no counterpart of `{unsaid}`", mend=mend)
    prompt = {"role": "user", "content": document.get("prompt") or "", "images": document.get("images")}
    system = [{"role": "system", "content": document["system"]}] if document.get("system") else []
    return [*system, _message(prompt)]


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": said.get("role", "user"), "content": said.get("content") or ""}
    images = _listed(said.get("images"), "images")
    if images:
        parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{each}"}} for each in images]
        message["content"] = [{"type": "text", "text": message["content"]}, *parts]
    calls = _listed(said.get("tool_calls"), "tool_calls")
    if calls:
        message["tool_calls"] = [_call_out(place, _mapping(each, "a tool call")) for place, each in enumerate(calls)]
    if message["role"] == "tool":
        message["tool_call_id"] = said.get("tool_call_id") or said.get("tool_name") or "call_0"
    return message


def _call_out(place: int, call: Mapping[str, Any]) -> dict[str, Any]:
    function = _mapping(call.get("function"), "a tool call's function")
    arguments = msgspec.json.encode(function.get("arguments") or {}).decode()
    about = {"name": function.get("name", ""), "arguments": arguments}
    return {"id": call.get("id") or f"call_{place}", "type": "function", "function": about}


def _format(format: object) -> dict[str, Any]:
    if format in (None, ""):
        return {}
    if format == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(format, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": format}}}
    raise BadRequest('`format` is "json" or a JSON schema')


def _options(options: object) -> dict[str, Any]:
    if options is None:
        return {}
    given = _mapping(options, "`options`")
    return {OPTIONS[name]: value for name, value in given.items() if name in OPTIONS and value is not None}


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} is to be an object")
    return value


def _listed(value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"`{what}` is to be a list")
    return value


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)
    index: int | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    """A chat completion, or a piece of one, as far as it is carried over."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


class _WholeCall(msgspec.Struct):
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """An OpenAI engine's answer on its way into Ollama's words; seconds come from the caller's clock."""

    model: str
    chat: bool
    began_at: float
    _reason: str = "stop"
    _usage: _Usage = field(default_factory=_Usage)
    _first_at: float | None = None
    _calls: dict[int, _WholeCall] = field(default_factory=dict)

    def piece(self, data: str, at: Timestamp, now: float) -> bytes:
        """The line for one event of the stream; empty where it says nothing yet. Interrupted where it is an error, or no JSON."""
        if data == DONE:
            return b""
        said = self._take(data.encode())
        if not _text(said) and not _thought(said):
            return b""
        if self._first_at is None:
            self._first_at = now
        return msgspec.json.encode(self._head(at) | self._answer(said) | {"done": False}) + b"\n"

    def end(self, at: Timestamp, now: float) -> bytes:
        """The last line of the stream: tool calls as a whole, and the figures."""
        return msgspec.json.encode(self._head(at) | self._answer(_Said(), whole=True) | self._figures(now)) + b"\n"

    def whole(self, body: bytes, at: Timestamp, now: float) -> dict[str, Any]:
        """The answer that did not stream. Interrupted where it cannot be read."""
        return self._head(at) | self._answer(self._take(body), whole=True) | self._figures(now)

    def _take(self, text: bytes) -> _Said:
        reply = _read(text, _Completion)
        if reply.error:
            error = reply.error
            told = error.get("message") if isinstance(error, dict) else None
            raise Interrupted(f"the engine ended its answer: {told or error}")
        self._usage = reply.usage or self._usage
        choice = (reply.choices or [_Choice()])[0]
        self._reason = choice.finish_reason or self._reason
        said = choice.delta or choice.message or _Said()
        for place, call in enumerate(said.tool_calls or []):
            known = self._calls.setdefault(place if call.index is None else call.index, _WholeCall())
            known.name += call.function.name or ""
            known.arguments += call.function.arguments or ""
        return said

    def _head(self, at: Timestamp) -> dict[str, Any]:
        return {"model": self.model, "created_at": at}

    def _answer(self, said: _Said, *, whole: bool = False) -> dict[str, Any]:
        thought = {"thinking": _thought(said)} if _thought(said) else {}
        if not self.chat:
            return {"response": _text(said), **thought}
        calls = (
            {"tool_calls": [_call_in(call) for _, call in sorted(self._calls.items())]} if whole and self._calls else {}
        )
        return {"message": {"role": "assistant", "content": _text(said), **thought, **calls}}

    def _figures(self, now: float) -> dict[str, Any]:
        first = now if self._first_at is None else self._first_at
        return {
            "done": True,
            "done_reason": "stop" if self._reason == "tool_calls" else self._reason,
            "total_duration": int((now - self.began_at) * NANOSECONDS),
            "load_duration": 0,
            "prompt_eval_count": self._usage.prompt_tokens or 0,
            "prompt_eval_duration": int((first - self.began_at) * NANOSECONDS),
            "eval_count": self._usage.completion_tokens or 0,
            "eval_duration": int((now - first) * NANOSECONDS),
        }


def embeddings(path: str, body: bytes, model: str, took_s: float) -> dict[str, Any]:
    """An engine's embeddings as `/api/embed`, or the older `/api/embeddings`, has them. Interrupted where they cannot be read."""
    reply = _read(body, _Vectors)
    vectors = [each.embedding for each in reply.data]
    if path == "/api/embeddings":
        return {"embedding": vectors[0] if vectors else []}
    return {
        "model": model,
        "embeddings": vectors,
        "total_duration": int(took_s * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": (reply.usage and reply.usage.prompt_tokens) or 0,
    }


def _text(said: _Said) -> str:
    return said.content or ""


def _thought(said: _Said) -> str:
    return said.reasoning_content or said.reasoning or ""


def _call_in(call: _WholeCall) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.arguments or "{}")
    except msgspec.MsgspecError:
        raise Interrupted(f"the engine's call of {call.name} has arguments that are no JSON") from None
    return {"function": {"name": call.name, "arguments": arguments}}


def _read(text: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Interrupted(f"the engine's answer cannot be read: {error}") from None
