"""What whoever asks for a model is told: how the wait goes, for how long yet, and why it is not to be had; decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from common.api.models import ModelProgress
from common.errors import NoCapacity, TandemError, Unavailable
from common.supervisor.models.managed import Asked, Begun, Managed
from common.vram.footprint import Footprints
from common.vram.loading import Outlook


class InLine(NamedTuple):
    """How it stands with a request in the line for loading: what is being loaded, and its outlook where it has one."""

    loading: tuple[str, ...]
    outlook: Outlook | None


class Telling:
    """One host's; `footprints` are what has been learned of its models."""

    def __init__(self, host: str, footprints: Footprints) -> None:
        self._host = host
        self._footprints = footprints

    def progress(self, managed: Managed, asked: Asked, line: Callable[[], InLine], now: float) -> ModelProgress:
        """What to tell one who waits; `line` is asked only where the model's turn has not come."""
        told = ModelProgress(
            phase="queued",
            host=self._host,
            position=1 + sum(other.rank < asked.rank for other in managed.waiting.values()),
            waited_s=max(0.0, now - asked.asked_at),
            eta_s=None,
            reason="",
            for_card=bool(managed.model.vram),
            for_host=_for_host(managed),
        )
        name, life = managed.model.name, managed.life
        if managed.lack:
            return replace(told, reason=f"{name} cannot be loaded: {managed.lack}")
        if managed.begun is not None:
            return self._under_way(managed, managed.begun, told, now)
        if life.state == "ready":
            return replace(told, reason=f"all {managed.model.users} slots of {name} are in use")
        if life.state == "expiring":
            return replace(told, reason=f"{name} is being put away, and is loaded anew then")
        if not life.may_retry(now):
            seconds, known = managed.seconds(self._footprints)
            eta_s = life.retry_at - now + seconds if known else None
            return replace(told, eta_s=eta_s, reason=f"tried again soon; {life.problem}")
        return self._waiting(managed, line(), told)

    def _under_way(self, managed: Managed, begun: Begun, told: ModelProgress, now: float) -> ModelProgress:
        name, late = managed.model.name, begun.until is None or begun.until < now
        eta_s = None if late or begun.until is None else begun.until - now
        if managed.life.state == "loading":
            doing = "is woken" if begun.wake else "is being loaded"
            text = f"{name} {doing} since {now - begun.at:.1f} s"
            return replace(told, phase="loading", position=0, eta_s=eta_s, reason=text)
        if managed.short:
            return replace(told, reason=managed.short)
        if begun.evicts:
            return replace(told, phase="evicting", position=0, eta_s=eta_s, reason=f"room is made for {name}")
        return replace(told, eta_s=eta_s, reason=managed.no_room or f"{name} is next to be loaded")

    def _waiting(self, managed: Managed, line: InLine, told: ModelProgress) -> ModelProgress:
        name, need = managed.model.name, managed.wish(self._footprints).need
        waits = f"{name} waits for room: it needs {need}" if managed.model.vram else f"{name} is next to be loaded"
        reason = managed.no_room or waits
        if line.outlook is None:
            return replace(told, reason=reason)
        known = managed.seconds(self._footprints)[1]
        eta_s = line.outlook.eta_s if known and line.loading else None
        if line.loading:
            reason = f"{name} waits for the loading of {', '.join(line.loading)}"
        return replace(told, position=max(1, line.outlook.position), eta_s=eta_s, reason=reason)

    def failing(self, managed: Managed, now: float) -> Unavailable:
        """Why a model whose load failed is not waited for."""
        pause_ms = max(0, int((managed.life.retry_at - now) * 1_000))
        name, url = managed.model.name, managed.model.url
        mend = f"see that its engine answers at {url}" if url else f"`tandem logs {name}` has what its engine wrote"
        text = f"{name} does not load on {self._host}: {managed.life.problem}"
        return Unavailable(text, retry_after_ms=pause_ms, failures=managed.life.failures, mend=mend)

    def refusal(self, managed: Managed, now: float) -> TandemError:
        """Why the model is not to be had now."""
        name, life = managed.model.name, managed.life
        if life.state == "failed" and life.problem:
            return self.failing(managed, now)
        seconds, known = managed.seconds(self._footprints)
        retry_after_ms = int(seconds * 1_000) if known else 1_000
        why = {
            "ready": f"all {managed.model.users} slots of it are in use",
            "loading": "it is being loaded",
            "expiring": "it is being put away",
            "queued": managed.why_not or "it waits for its turn to be loaded",
            "parked": "it is parked in host RAM, and has to be woken first",
        }.get(life.state, "it is not loaded")
        return NoCapacity(f"{name} on {self._host}: {why}", retry_after_ms=retry_after_ms, state=life.state)


def _for_host(managed: Managed) -> bool:
    """Whether room in the host's RAM, disk or cores may be what is waited for: of a model without a card any of its loads may."""
    return bool(managed.short) if managed.model.vram else managed.of_host and managed.life.state != "ready"
