"""One managed model as its host has it: its entry, its state, what it holds, who uses it and who waits; decides nothing."""

from __future__ import annotations

from typing import Final

import msgspec

from common.api.models import Model as Shown
from common.config.models import Model
from common.supervisor.models.states import ModelLife
from common.vram.demand import ModelKey
from common.vram.footprint import Footprints, Tier
from common.vram.loading import LoadAsked
from common.vram.placement import Wish
from common.vram.urgency import request_priority
from common.vram.waiting import DEFAULT as LINE

DISABLED: Final = "disabled in its host's startup file"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One who wants a model until `deadline`, by the owner's clock. `preload`: nobody does, it is loaded where there is room."""

    ticket: str
    model: str
    priority: int
    asked_at: float
    deadline: float
    preload: bool = False

    @property
    def rank(self) -> tuple[float, str]:
        """Its place among those who wait for the same model, lowest first: by when it asked, earlier by its priority."""
        return self.asked_at - self.priority / LINE.points_per_s, self.ticket


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The lease of a model's engine; `bytes` are on each card, and what is left there while it sleeps."""

    lease_id: str
    card_uuids: tuple[str, ...]
    bytes: int


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """An engine: where it answers, what it calls the model, and its process."""

    url: str
    upstream: str
    pid: int
    start_time: int


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A load under way: since when, when it should be over (None: not known), on which card, whether others go for it.

    `priority` is the one with which its lease is asked for.
    """

    at: float
    until: float | None
    card_uuid: str
    wake: bool
    evicts: bool
    priority: int


class Managed:
    """What is public may be read; roster.py alone changes it."""

    def __init__(self, model: Model, at: float) -> None:
        self.model = model
        self.life = ModelLife(model.name, at)
        self.held: Held | None = None
        self.serving: Serving | None = None
        self.sleeps = False
        self.begun: Begun | None = None
        self.users: set[str] = set()
        self.idle_since = at
        self.waiting: dict[str, Asked] = {}
        self.failed_for: dict[str, int] = {}
        self.missing: tuple[str, ...] = ()
        self.away = ""
        self.no_room = ""
        self.no_room_until = at
        self.short = ""
        self.loads = 0
        self.load_s = 0.0

    @property
    def key(self) -> ModelKey:
        """Under which its bytes and seconds are learned."""
        return ModelKey(self.model.name, self.model.config)

    @property
    def of_host(self) -> bool:
        """Whether its lease holds some of its host's RAM, disk or cores."""
        needs = self.model.needs
        return bool(needs.ram or needs.disk or needs.cpus)

    @property
    def asked_for(self) -> bool:
        """Whether somebody waits for it."""
        return any(not each.preload for each in self.waiting.values())

    @property
    def lacks_host(self) -> bool:
        """Whether, needing no card, it waits for what its host has beside cards, which was not to be had just now."""
        idle = self.life.state == "queued" and self.begun is None
        return self.asked_for and idle and bool(self.no_room) and not self.model.vram

    @property
    def why_not(self) -> str:
        """Why its lease was not to be had: for want of what its host has beside cards, or else."""
        return self.short or self.no_room

    @property
    def urgency(self) -> int:
        """The priority of the most urgent request that waits for it."""
        asked = (request_priority(self.model.priority, each.priority) for each in self.waiting.values())
        return max(asked, default=self.model.priority)

    @property
    def free_slots(self) -> int:
        """How many more may use it now."""
        return max(0, self.model.users - len(self.users)) if self.life.state == "ready" else 0

    @property
    def tier(self) -> Tier:
        """Where its next load comes from: one that was loaded before is expected in the page cache."""
        if self.sleeps:
            return "parked"
        return "cached" if self.loads else "cold"

    def need_bytes(self, footprints: Footprints) -> int:
        """What its lease should have on each card, as measured where that is known."""
        return footprints.need_bytes(self.key, int(self.model.vram)) if self.model.vram else 0

    def seconds(self, footprints: Footprints) -> tuple[float, bool]:
        """How long its next load should take, and whether that is more than a guess."""
        tier, key = self.tier, self.key
        whole = self.need_bytes(footprints) * self.model.cards
        known = tier in footprints.get(key).load_s
        if not known and tier != "parked" and self.model.load_s:
            return float(self.model.load_s), True
        return footprints.load_seconds(key, tier, whole), known or whole > 0

    def wish(self, footprints: Footprints) -> Wish:
        """What its next load needs: all of it anywhere, or the rest on the card where it sleeps."""
        model, need = self.model, self.need_bytes(footprints)
        if self.sleeps and self.held is not None:
            rest = max(0, need - self.held.bytes)
            return Wish(model.name, rest, card_uuid=self.held.card_uuids[0], cards=model.cards, pinned=model.pinned)
        return Wish(
            model.name,
            need,
            card_uuid=model.card_uuid,
            cards=model.cards,
            exclusive=model.exclusive,
            pinned=model.pinned,
        )

    def load_asked(self, asked: Asked, footprints: Footprints) -> LoadAsked:
        """The request as the queue for loading takes it."""
        return LoadAsked(
            ticket=asked.ticket,
            key=self.key,
            wish=self.wish(footprints),
            priority=request_priority(self.model.priority, asked.priority),
            asked_at=asked.asked_at,
            deadline=asked.deadline,
            load_s=self.seconds(footprints)[0],
        )

    def shown(self, host: str, footprints: Footprints, now: float) -> Shown:
        """The model as lists show it."""
        model, held, serving = self.model, self.held, self.serving
        idle = self.life.state in ("ready", "parked") and not self.users
        return Shown(
            name=model.name,
            host=host,
            engine=model.engine,
            state=self.life.state,
            aliases=list(model.aliases),
            capabilities=list(model.served),
            declared_bytes=int(model.vram),
            footprint_bytes=self.need_bytes(footprints),
            load_s=self.seconds(footprints)[0],
            users=len(self.users),
            slots=model.users,
            pinned=model.pinned,
            priority=model.priority,
            url=serving.url if serving else model.url,
            upstream=serving.upstream if serving else model.upstream_name,
            lease_id=held.lease_id if held else "",
            card_uuid=held.card_uuids[0] if held and held.card_uuids else "",
            pid=serving.pid if serving else 0,
            idle_s=max(0.0, now - self.idle_since) if idle else 0.0,
            config=model.config,
            adopted=model.adopted,
            problem=self.problem,
            listed=model.listed,
            enabled=model.enabled,
        )

    @property
    def lack(self) -> str:
        """Why no load of it could succeed: files that are not there, or an engine of others; empty where nothing is lacking."""
        if self.missing:
            return f"not on this host: {', '.join(self.missing)}"
        return self.away if self.held is None else ""

    @property
    def problem(self) -> str:
        """What it lacks, or why it failed last; empty where nothing is wrong."""
        if not self.model.enabled:
            return DISABLED
        return self.lack or self.life.problem or (self.why_not if self.waiting else "")
