"""What the ledger is asked for a model's engine, and what it is told of how that gives way; asks nobody itself."""

from __future__ import annotations

from common.api.leases import LeaseGranted, Owner, Unload
from common.api.supervisor import AdmitLease
from common.config.models import Model
from common.engines.engine import Engine
from common.engines.opening import open_engine
from common.supervisor.models.managed import Held
from common.supervisor.models.unloading import ASK_S, rungs_of


def lease_request(
    model: Model,
    lease_id: str,
    identity: str,
    owner: Owner,
    need_bytes: int,
    card_uuid: str,
    load_s: float,
    priority: int,
) -> AdmitLease:
    """The lease of an engine: in use until its model is loaded, and by its shares from then on.

    It is asked for with the `priority` of whoever wants the model most, and weighs with the model's own once it is granted.
    That of one that takes no VRAM is of no card: it counts what the host has beside cards, its uses, and its process.
    """
    return AdmitLease(
        lease_id=lease_id,
        identity=identity,
        model=model.name,
        config=model.config,
        bytes=need_bytes if model.vram else 0,
        priority=priority,
        held_priority=model.priority,
        card_uuid=card_uuid if model.vram else "",
        owner=owner,
        cards=model.cards if model.vram else 0,
        exclusive=model.exclusive,
        pinned=model.pinned,
        in_use=True,
        ram_bytes=int(model.needs.ram),
        disk_bytes=int(model.needs.disk),
        cpu_cores=model.needs.cpus,
        load_s=load_s,
        unload=unload_of(model),
        declared_bytes=0 if need_bytes == model.vram else int(model.vram),
    )


def unload_of(model: Model) -> Unload | None:
    """What the ledger is told of how the engine gives way: what it can, not whom to ask, which the host knows by itself."""
    rungs = rungs_of(model, open_engine(model.engine, model.url or "http://127.0.0.1"), to_stop=False)
    if not {"sleep", "unload"}.intersection(rungs):
        return None
    return Unload(
        sleep="sleep" if "sleep" in rungs else "", unload="unload" if "unload" in rungs else "", timeout_s=ASK_S
    )


def held_of(granted: LeaseGranted) -> Held:
    """The lease as the roster keeps it."""
    return Held(lease_id=granted.lease_id, card_uuids=tuple(granted.card_uuids), bytes=granted.bytes)


def stays(model: Model, engine: Engine | None) -> bool:
    """Whether nothing can be done to get the memory back, so that nobody should plan on it."""
    return model.adopted and not model.manage and engine is not None and not rungs_of(model, engine, to_stop=False)
