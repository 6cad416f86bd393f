from __future__ import annotations

import msgspec
import pytest

from common.api.models import ModelProgress
from common.errors import Code, NoCapacity, NotFound, Overloaded, TandemError, Unauthenticated, Unavailable, UnknownVerb
from main_pc.front import refusals
from main_pc.front.paths import Dialect

AT = "2026-01-31T12:00:00.000Z"
PROGRESS = ModelProgress(phase="loading", host="pc2", position=0, waited_s=1.0, eta_s=12.4, reason="from\nthe disk")


def test_every_code_has_a_status() -> None:
    assert set(refusals.STATUS) == set(Code)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (NotFound("no model"), 404, "not_found_error", "model_not_found"),
        (UnknownVerb("no path"), 404, "not_found_error", "unknown_url"),
        (Unauthenticated("who"), 401, "authentication_error", "unauthenticated"),
        (Overloaded("busy"), 429, "rate_limit_error", "overloaded"),
        (NoCapacity("full"), 503, "server_error", "no_capacity"),
        (TandemError("bug"), 500, "server_error", "internal"),
    ],
)
def test_openais_clients_get_their_kind_of_error(error: TandemError, status: int, kind: str, code: str) -> None:
    told = refusals.document_of(error, Dialect.OPENAI)["error"]
    assert refusals.status_of(error) == status
    assert (told["message"], told["type"], told["code"]) == (error.message, kind, code)


def test_the_mend_is_in_the_sentence() -> None:
    error = NotFound("no model", mend="list them")
    assert refusals.document_of(error, Dialect.OLLAMA) == {"error": "no model (list them)"}


def test_when_to_come_back_is_told_in_whole_seconds() -> None:
    assert refusals.headers_of(NoCapacity("full", retry_after_ms=1_001)) == {"Retry-After": "2"}
    assert refusals.headers_of(NoCapacity("full", retry_after_ms=1)) == {"Retry-After": "1"}
    assert refusals.headers_of(NoCapacity("full")) == {}


def test_a_stream_that_has_begun_ends_with_the_error() -> None:
    openai = refusals.in_stream(Unavailable("gone"), Dialect.OPENAI)
    assert openai.startswith(b'data: {"error"')
    assert openai.endswith(b"data: [DONE]\n\n")
    assert refusals.in_stream(Unavailable("gone"), Dialect.OLLAMA) == b'{"error":"gone"}\n'


def test_an_event_stream_waits_in_comments() -> None:
    told = refusals.waiting(PROGRESS, "m", True, Dialect.OPENAI, AT).decode()
    assert told == ": waiting for m on pc2: loading, about 12 s to go (from the disk)\n\n"
    queued = ModelProgress(phase="queued", host="", position=3, waited_s=1.0, eta_s=None, reason="")
    assert refusals.waiting(queued, "m", True, Dialect.OPENAI, AT) == b": waiting for m: queued at place 3\n\n"
    assert refusals.waiting(None, "m", True, Dialect.OPENAI, AT) == b": waiting for m\n\n"


@pytest.mark.parametrize(("chat", "field"), [(True, "message"), (False, "response")])
def test_ollamas_stream_waits_in_pieces_without_text(chat: bool, field: str) -> None:
    told = msgspec.json.decode(refusals.waiting(PROGRESS, "m", chat, Dialect.OLLAMA, AT))
    assert told["done"] is False
    assert told[field] in ("", {"role": "assistant", "content": ""})
    assert told["tandem"] == {"phase": "loading", "eta_s": 12.4}
    assert msgspec.json.decode(refusals.waiting(None, "m", chat, Dialect.OLLAMA, AT))["tandem"] == {}
