"""A roster on cards and a clock of the test's own, for the rooms that it decides with."""

from __future__ import annotations

from typing import Any

from common.api.leases import Lease, Owner
from common.config.models import Model
from common.config.units import Size
from common.errors import TandemError
from common.supervisor.models.cards_seen import residency
from common.supervisor.models.instructions import Begin, Changed, Instruction, Refuse, Serve
from common.supervisor.models.managed import Asked, Held, Managed, Serving
from common.supervisor.models.roster import Roster
from common.vram.demand import Demand, Horizon
from common.vram.footprint import Footprints
from common.vram.placement import Candidate

GIB = 2**30
FAR = 1_000_000.0


def model(name: str, gib: float = 4, **fields: Any) -> Model:
    fields = {"command": ["server", "{port}"], "slots": 1, **fields}
    return Model(name, fields.pop("engine", "llama-server"), Size(int(gib * GIB)), **fields)


def lease(lease_id: str, name: str, gib: float, **fields: Any) -> Lease:
    told: dict[str, Any] = {
        "lease_id": lease_id, "model": name, "bytes": int(gib * GIB), "measured_bytes": 0, "verified": True,
        "priority": 50, "host": "h", "card": 0, "card_uuid": "u0", "fencing_token": 1, "owner": Owner(),
        "identity": "", "ttl_s": 60.0, "expires_in_s": 60.0, "granted_at": "", "card_uuids": ["u0"], "in_use": False,
        "load_s": 3.0,
    }  # fmt: skip
    return Lease(**told | fields)


class Desk:
    """A roster, its cards and a clock; what it wants done is gathered."""

    def __init__(self, *models: Model, cards: int = 1, free_gib: float = 12, host: str = "h") -> None:
        self.now = 100.0
        self.free = [free_gib] * cards
        self.footprints = Footprints(host)
        self.roster = Roster(host, models, self.footprints, self.now)
        self.leases: list[Lease] = []
        self.tickets = 0

    def ask(self, name: str, wait_s: float = FAR, capability: str = "", **fields: Any) -> str:
        self.tickets += 1
        ticket = f"t{self.tickets}"
        asked = Asked(
            **{
                "ticket": ticket, "model": name, "priority": 50, "asked_at": self.now, "deadline": self.now + wait_s,
                **fields,
            }
        )  # fmt: skip
        self.roster.ask(asked, capability, self.now)
        return ticket

    def step(self) -> list[Instruction]:
        candidates = [
            Candidate("h", index, f"u{index}", int(free * GIB), 12 * GIB) for index, free in enumerate(self.free)
        ]
        loading = {m.begun.card_uuid: m.begun.until or self.now for m in self.roster if m.begun}
        return self.roster.step(residency(candidates, self.leases, loading, Demand(), Horizon()), self.now)

    def does(self) -> list[Instruction]:
        return [each for each in self.step() if not isinstance(each, Changed)]

    def grant(self, name: str, gib: float = 4) -> None:
        self.roster.granted(name, Held(lease_id=f"l-{name}", card_uuids=("u0",), bytes=int(gib * GIB)), self.now)

    def load(self, name: str, gib: float = 4) -> None:
        self.grant(name, gib)
        self.roster.loaded(name, Serving(url="http://e", upstream=name, pid=1, start_time=2), 3.0, self.now)

    def loaded(self, name: str) -> list[Instruction]:
        """The model loaded for one who asks, from the beginning."""
        self.ask(name)
        (begin,) = self.does()
        assert isinstance(begin, Begin)
        self.load(name)
        return self.does()

    def state(self, name: str) -> str:
        return self.roster.find(name).life.state

    def managed(self, name: str) -> Managed:
        return self.roster.find(name)


def served(instructions: list[Instruction]) -> list[str]:
    return [each.asked.ticket for each in instructions if isinstance(each, Serve)]


def refused(instructions: list[Any]) -> dict[str, TandemError]:
    return {each.asked.ticket: each.error for each in instructions if isinstance(each, Refuse)}
