"""`tandem leases`: who holds VRAM."""

from __future__ import annotations

import click

from common.api.leases import Lease
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS = ("LEASE", "MODEL", "CARD", "LEASED", "MEASURED", "STATE", "PRIORITY", "EXPIRES", "OWNER")


@click.command()
@with_host
@with_json
def command(host: str, as_json: bool) -> Exit:
    """Who holds VRAM, and how much of it.

    JSON: {"leases": [...], "as_of": {...}, "missing": {host: reason}} as list_leases answers it.
    """
    with asking.fabric() as client:
        found = asking.live_leases(client, host)
    if as_json:
        output.say_json(found)
        return Exit.OK
    if found.leases:
        output.table(HEADERS, [row(lease) for lease in found.leases], right=(3, 4, 6, 7))
    else:
        output.say("no leases")
    for name, why in found.missing.items():
        output.note(f"leases of {name} are missing: {why}")
    return Exit.OK


def row(lease: Lease) -> tuple[object, ...]:
    """A lease as a line of the table."""
    return (
        lease.lease_id,
        lease.model,
        place(lease),
        leased(lease),
        output.size(lease.measured_bytes) if lease.verified else "unverified",
        state(lease),
        lease.priority,
        "with owner" if lease.owner.pid and lease.owner.start_time else output.age(lease.expires_in_s),
        owner(lease),
    )


def place(lease: Lease) -> str:
    """The card that it is on, and on how many more; of a lease of no card, its host."""
    if not lease.card_uuid:
        return f"{lease.host}, no card"
    more = f" and {len(lease.card_uuids) - 1} more" if len(lease.card_uuids) > 1 else ""
    return f"{lease.host}:{lease.card}{more}"


def leased(lease: Lease) -> str:
    """What the lease counts, with what was declared where its model turned out to take something else."""
    if lease.state == "parked" or lease.declared_bytes in (0, lease.bytes):
        return output.size(lease.bytes)
    return f"{output.size(lease.bytes)} (declared {output.size(lease.declared_bytes)})"


def state(lease: Lease) -> str:
    """What the lease is doing: whether it may go, and why not."""
    if lease.shares:
        return f"shares {lease.shares}"
    if lease.state == "expiring":
        return f"expiring: {lease.reason}" if lease.reason else "expiring"
    if lease.state == "parked":
        return "parked in RAM"
    users = f", {lease.users} users" if lease.users > 1 else ""
    using = f"in use{users}" if lease.in_use or lease.users else f"idle {output.age(lease.idle_s)}"
    marks = [mark for mark, holds in (("pinned", lease.pinned), ("exclusive", lease.exclusive)) if holds]
    return ", ".join([using, *marks])


def owner(lease: Lease) -> str:
    """Whose life the lease hangs on, or who asked for it."""
    if not lease.owner.pid:
        return lease.owner.agent_name or lease.identity
    return f"{lease.owner.agent_name or 'pid'} {lease.owner.pid}".strip()
