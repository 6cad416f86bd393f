"""Any server that speaks OpenAI's HTTP API and nothing else: it is started and stopped, and never asked for its memory."""

from __future__ import annotations

from typing import ClassVar

from common.config.models import Capability, EngineKind
from common.engines.over_http import OverHttp


class OpenAi(OverHttp):
    """A server of which only `/v1/models` is certain; which of OpenAI's requests it serves is the startup file's to say."""

    KIND: ClassVar[EngineKind] = "openai"
    CAPABILITIES: ClassVar[frozenset[Capability]] = frozenset(
        {"chat", "completions", "responses", "embeddings", "rerank", "transcription", "speech", "images"}
    )
