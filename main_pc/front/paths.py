"""Which HTTP requests the front answers: the dialect, what the model must be able to, and where the request names it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from common.config.models import Capability


class Dialect(StrEnum):
    """Whose interface a request speaks, and so how it is refused."""

    OPENAI = "openai"
    OLLAMA = "ollama"


class Route(NamedTuple):
    """One request that is passed on to an engine; `streams` says whether it streams unless it says otherwise."""

    path: str
    dialect: Dialect
    capability: Capability
    streams: bool = False


ROUTES: Final = (
    Route("/v1/chat/completions", Dialect.OPENAI, "chat"),
    Route("/v1/completions", Dialect.OPENAI, "completions"),
    Route("/v1/responses", Dialect.OPENAI, "responses"),
    Route("/v1/embeddings", Dialect.OPENAI, "embeddings"),
    Route("/v1/rerank", Dialect.OPENAI, "rerank"),
    Route("/v1/audio/transcriptions", Dialect.OPENAI, "transcription"),
    Route("/v1/audio/translations", Dialect.OPENAI, "transcription"),
    Route("/v1/audio/speech", Dialect.OPENAI, "speech"),
    Route("/v1/images/generations", Dialect.OPENAI, "images"),
    Route("/v1/images/edits", Dialect.OPENAI, "images"),
    Route("/api/chat", Dialect.OLLAMA, "chat", streams=True),
    Route("/api/generate", Dialect.OLLAMA, "completions", streams=True),
    Route("/api/embed", Dialect.OLLAMA, "embeddings"),
    Route("/api/embeddings", Dialect.OLLAMA, "embeddings"),
)


def dialect_of(path: str) -> Dialect:
    """In whose words to refuse a request for this path."""
    return Dialect.OLLAMA if path.startswith("/api/") else Dialect.OPENAI
