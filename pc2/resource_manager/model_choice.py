"""Which host is asked for a model: pure, by what the hosts say of their models and by what a load would cost on each.

    ready with a free slot   fewest users first
    loading                  a load that goes on is joined
    parked                   awake again sooner than loaded
    absent, with room        the host whose load is the quickest
    absent, others would go  where that costs least
    ready, all slots taken   a place in its line
    absent, no room          where it may come free

What a host says it cannot do at all (files that it lacks, an engine that keeps failing) comes last, with its reason. The host
then decides; where it refuses for now, the next is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final, Literal

import msgspec

from common.api.models import Model, UseModel
from common.errors import BadRequest, NotFound, TandemError, Unavailable

Outcome = Literal["grant", "evict", "wait", "never"]
NO_ROOM: Final = ("wait", 0.0)


class Room(msgspec.Struct, frozen=True):
    """What a lease for the model would come to on a host: the planner's outcome, and the price of the dearest that goes."""

    outcome: Outcome
    price: float = 0.0


def named(models: Iterable[Model], name: str) -> list[Model]:
    """The models, one of each host at most, that answer to the name; not those that are disabled."""
    return [model for model in models if model.enabled and _answers_to(model, name)]


def order(asked: UseModel, models: Sequence[Model], rooms: Mapping[str, Room]) -> list[Model]:
    """The hosts' models to be asked for, best first; `rooms` says by host what a load there would come to."""
    able = [model for model in models if not asked.host or model.host == asked.host]
    return sorted(able, key=lambda model: _place(model, rooms.get(model.host, Room("wait"))))


def refusal(asked: UseModel, models: Sequence[Model], missing: Mapping[str, str]) -> TandemError | None:
    """Why nobody can be asked; None where somebody can."""
    found = [model for model in named(models, asked.model) if not asked.host or model.host == asked.host]
    if not found:
        return _unknown(asked, models, missing)
    if asked.capability and not any(asked.capability in model.capabilities for model in found):
        can = ", ".join(found[0].capabilities) or "nothing that is told"
        mend = "ask for what it serves, or add it to the model's `capabilities` in the startup file"
        return BadRequest(f"{asked.model} does not serve {asked.capability}; it serves {can}", mend=mend)
    return None


def _answers_to(model: Model, name: str) -> bool:
    return name == model.name or name in model.aliases


def _unknown(asked: UseModel, models: Sequence[Model], missing: Mapping[str, str]) -> TandemError:
    where = f" on {asked.host}" if asked.host else ""
    here = [model for model in models if asked.host in ("", model.host)]
    off = [model.host for model in here if not model.enabled and _answers_to(model, asked.model)]
    disabled = f"{asked.model} is disabled on {' and on '.join(off)}" if off else ""
    away = {host: why for host, why in missing.items() if asked.host in ("", host)}
    if away:
        reasons = "; ".join([*(f"{host}: {why}" for host, why in away.items()), *filter(None, [disabled])])
        return Unavailable(f"no model {asked.model!r}{where} that can be heard of ({reasons})", retry_after_ms=1_000)
    if disabled:
        mend = "set `enabled: true` in its entry in that host's startup file, then `tandem models reload`"
        return NotFound(disabled, mend=mend)
    names = [name for model in models if model.enabled for name in (model.name, *model.aliases)]
    close = get_close_matches(asked.model, names, n=1)
    mend = (
        f"did you mean {close[0]!r}?" if close else "`tandem models` lists them; startup files name them under `models`"
    )
    return NotFound(f"no model {asked.model!r}{where}", mend=mend)


def _place(model: Model, room: Room) -> tuple[int, float, float, str]:
    if model.state == "failed" or (model.problem and model.state == "absent"):
        return 9, model.load_s, 0.0, model.host
    taken = model.users >= model.slots
    if model.state == "ready":
        return (5 if taken else 0), float(model.users), 0.0, model.host
    if model.state in ("loading", "queued"):
        return 1, float(model.users), model.load_s, model.host
    if model.state == "parked":
        return 2, model.load_s, 0.0, model.host
    rank = {"grant": 3, "evict": 4, "wait": 6, "never": 8}[room.outcome]
    return rank, room.price, model.load_s, model.host
