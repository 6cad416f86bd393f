"""`tandem leases`: who holds VRAM."""

from __future__ import annotations

import click

from common.api.leases import Lease
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS = ("LEASE", "MODEL", "CARD", "LEASED", "MEASURED", "PRIORITY", "EXPIRES", "OWNER")


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
        output.table(HEADERS, [row(lease) for lease in found.leases], right=(3, 4, 5, 6))
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
        f"{lease.host}:{lease.card}",
        output.size(lease.bytes),
        output.size(lease.measured_bytes) if lease.verified else "unverified",
        lease.priority,
        "with owner" if lease.owner.pid and lease.owner.start_time else output.age(lease.expires_in_s),
        owner(lease),
    )


def owner(lease: Lease) -> str:
    """Whose life the lease hangs on, or who asked for it."""
    if not lease.owner.pid:
        return lease.owner.agent_name or lease.identity
    return f"{lease.owner.agent_name or 'pid'} {lease.owner.pid}".strip()
