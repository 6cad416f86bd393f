"""Errors and waiting in the two dialects: status codes, bodies, and lines that a stream's reader passes over while it waits."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from common.api.models import ModelProgress
from common.api.words import Timestamp
from common.errors import Code, TandemError
from main_pc.front.paths import Dialect

STATUS: Final[dict[Code, int]] = {
    Code.BAD_REQUEST: 400,
    Code.UNKNOWN_VERB: 404,
    Code.TOO_LARGE: 413,
    Code.IDEMPOTENCY_MISMATCH: 409,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.STALE_FENCE: 409,
    Code.SNAPSHOT_REQUIRED: 409,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 499,
    Code.OVERLOADED: 429,
    Code.UNAVAILABLE: 503,
    Code.INTERRUPTED: 502,
    Code.NO_PROVIDER: 404,
    Code.NO_CAPACITY: 503,
    Code.STORAGE_UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}
_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OPENAI_CODES: Final = {Code.NOT_FOUND: "model_not_found", Code.UNKNOWN_VERB: "unknown_url"}


def status_of(error: TandemError) -> int:
    """The HTTP status of an error."""
    return STATUS[error.code]


def headers_of(error: TandemError) -> dict[str, str]:
    """When to come back, where the error says."""
    if error.retry_after_ms is None:
        return {}
    return {"Retry-After": str(max(1, -(-error.retry_after_ms // 1_000)))}


def document_of(error: TandemError, dialect: Dialect) -> dict[str, Any]:
    """The error as the dialect's clients expect it, with the mend in its sentence."""
    mend = error.details.get("mend")
    message = f"{error.message} ({mend})" if mend else error.message
    if dialect is Dialect.OLLAMA:
        return {"error": message}
    status = status_of(error)
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = _OPENAI_CODES.get(error.code, str(error.code))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def in_stream(error: TandemError, dialect: Dialect) -> bytes:
    """The error where the answer has begun already."""
    text = msgspec.json.encode(document_of(error, dialect))
    return text + b"\n" if dialect is Dialect.OLLAMA else b"data: " + text + b"\n\ndata: [DONE]\n\n"


def waiting(progress: ModelProgress | None, model: str, chat: bool, dialect: Dialect, at: Timestamp) -> bytes:
    """What a stream says while its model is waited for.

    To OpenAI's clients a comment of the event stream, which every reader passes over; to Ollama's a piece with no text.
    """
    if dialect is Dialect.OPENAI:
        return f": {_sentence(progress, model)}\n\n".encode()
    piece: dict[str, Any] = {"model": model, "created_at": at, "done": False}
    piece |= {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    piece["tandem"] = {} if progress is None else {"phase": progress.phase, "eta_s": progress.eta_s}
    return msgspec.json.encode(piece) + b"\n"


def _sentence(progress: ModelProgress | None, model: str) -> str:
    if progress is None:
        return f"waiting for {model}"
    when = "" if progress.eta_s is None else f", about {progress.eta_s:.0f} s to go"
    place = f" at place {progress.position}" if progress.position else ""
    where = f" on {progress.host}" if progress.host else ""
    reason = " ".join(progress.reason.split())
    return f"waiting for {model}{where}: {progress.phase}{place}{when}" + (f" ({reason})" if reason else "")
