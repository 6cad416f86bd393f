"""How many requests are taken on, how long they may last and how much of them is kept."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of requests in flight."""

    queued: Annotated[int, Meta(ge=1, le=1_000_000, description="requests waiting for one capability")] = 1_000
    active: Annotated[int, Meta(ge=1, le=1_000_000, description="requests waiting or running in all")] = 10_000
    active_bytes: Annotated[int, Meta(ge=1024, le=2**40, description="bytes of data waiting or running")] = 256 * 2**20
    attempts: Annotated[int, Meta(ge=1, le=100, description="times a request is given to an agent")] = 5
    ageing_s: Annotated[float, Meta(gt=0, le=3600, description="seconds of waiting worth one point of priority")] = 1.0
    deadline_s: Annotated[float, Meta(gt=0, le=86_400, description="seconds, where the caller states none")] = 600.0
    backoff_s: Annotated[
        float, Meta(gt=0, le=60, description="seconds; the n-th return waits 2**(n - 1) times this")
    ] = 0.25
    backoff_max_s: Annotated[float, Meta(gt=0, le=600, description="seconds; no return waits longer")] = 8.0
    nobody_s: Annotated[float, Meta(ge=0, le=3600, description="seconds a queue outlives its last provider")] = 30.0
    retry_after_ms: Annotated[int, Meta(ge=1, le=600_000, description="hint to one that found the queue full")] = 1_000
    kept: Annotated[int, Meta(ge=1, le=10_000_000, description="ended requests kept")] = 100_000
    kept_s: Annotated[float, Meta(gt=0, le=31_536_000, description="seconds an ended request is kept")] = 86_400.0
    kept_bytes: Annotated[int, Meta(ge=0, le=2**40, description="bytes of results kept")] = 64 * 2**20
