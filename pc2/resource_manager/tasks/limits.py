"""How many tasks are taken on, how long one waits between attempts, and how much of those that ended is kept."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of the task queue. The n-th retry waits `u * min(backoff_max_s, backoff_s * 2**(n - 1))`, u uniform in [0, 1)."""

    queued: Annotated[int, Meta(ge=1, le=10_000_000, description="tasks waiting for one capability")] = 200_000
    active: Annotated[int, Meta(ge=1, le=10_000_000, description="tasks waiting or running in all")] = 400_000
    capabilities: Annotated[int, Meta(ge=1, le=1_000_000, description="capabilities with tasks waiting or running")] = (
        2_000
    )
    active_bytes: Annotated[
        int, Meta(ge=1024, le=2**40, description="bytes of payload and metadata waiting or running")
    ] = 512 * 2**20
    payload_bytes: Annotated[int, Meta(ge=1024, le=64 * 2**20, description="bytes of one payload")] = 16 * 2**20
    metadata_bytes: Annotated[int, Meta(ge=0, le=2**20, description="bytes of one task's metadata")] = 16 * 2**10
    result_bytes: Annotated[int, Meta(ge=1024, le=64 * 2**20, description="bytes of one result")] = 16 * 2**20
    ageing_s: Annotated[float, Meta(gt=0, le=86_400, description="seconds of waiting worth one point of priority")] = (
        10.0
    )
    backoff_s: Annotated[float, Meta(gt=0, le=600, description="seconds; see the formula")] = 1.0
    backoff_max_s: Annotated[float, Meta(gt=0, le=86_400, description="seconds; no failed attempt waits longer")] = (
        300.0
    )
    refused_max_s: Annotated[
        float, Meta(gt=0, le=86_400, description="seconds; the same bound where an agent did not take the task")
    ] = 15.0
    retry_after_ms: Annotated[int, Meta(ge=1, le=600_000, description="hint to one that found the queue full")] = 1_000
    kept: Annotated[int, Meta(ge=0, le=10_000_000, description="ended tasks kept")] = 100_000
    kept_bytes: Annotated[int, Meta(ge=0, le=2**40, description="bytes of results, payloads and metadata kept")] = (
        256 * 2**20
    )
    undone_s: Annotated[
        float, Meta(ge=0, le=31_536_000, description="seconds at least that a task which ended undone is kept")
    ] = 604_800.0
    progress_s: Annotated[
        float, Meta(ge=0, le=3600, description="seconds between two events of progress of a task")
    ] = 1.0
    progress_bytes: Annotated[int, Meta(ge=0, le=2**20, description="bytes of progress shown; larger is left out")] = (
        64 * 2**10
    )
