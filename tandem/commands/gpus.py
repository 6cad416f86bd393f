"""`tandem gpus`: the cards of both hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from common.api.gpus import Card
from common.api.host_memory import HostMemory
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS = ("CARD", "NAME", "TOTAL", "FREE", "HELD", "STRANGERS", "NAMELESS", "LEASED", "KEPT", "GRANTABLE", "UUID", "")
BESIDE = ("HOST", "BESIDE", "TOTAL", "USED", "AVAILABLE", "LEASED", "KEPT", "GRANTABLE", "")


@click.command()
@with_host
@with_json
def command(host: str, as_json: bool) -> Exit:
    """The cards, by what NVML measures: total = free + held by leases' owners + strangers + nameless.

    KEPT is what is not granted of the free bytes: the guard band, room made for requests, quarantine. GRANTABLE is what a
    lease can have now. Below stands what each host has beside its cards: total = used + available.

    JSON: {"cards": [...], "hosts": [...], "missing": {host: reason}} as get_gpus answers it.
    """
    with asking.fabric() as client:
        found = asking.gpus(client, host)
    if as_json:
        output.say_json(found)
        return Exit.OK
    show(found.cards)
    if found.hosts:
        output.say()
        output.table(BESIDE, [line for host in found.hosts for line in beside(host)], right=tuple(range(2, 8)))
    for name, why in found.missing.items():
        output.note(f"cards of {name} are missing: {why}")
    return Exit.OK


def show(cards: Sequence[Card]) -> None:
    """The table of cards, with what is special on each: strangers, room made, loads, quarantine."""
    if not cards:
        output.say("no cards")
        return
    output.table(HEADERS, [row(card) for card in cards], right=tuple(range(2, 10)))
    for card in cards:
        for line in particulars(card):
            output.say(f"  {card.host}:{card.card}: {output.clean(line)}")


def row(card: Card) -> tuple[object, ...]:
    """A card as a line of the table."""
    strangers = sum(stranger.bytes for stranger in card.strangers)
    kept = card.guard_bytes + card.reserved_bytes + card.quarantined_bytes
    measured = (card.total_bytes, card.free_bytes, card.measured_bytes, strangers, card.nameless_bytes)
    return (
        f"{card.host}:{card.card}",
        card.name,
        *map(output.size, (*measured, card.leased_bytes, kept, card.grantable_bytes)),
        card.card_uuid,
        remark(card),
    )


def particulars(card: Card) -> Iterator[str]:
    """What a line of the table has no room for."""
    for stranger in card.strangers:
        yield f"{stranger.name} (pid {stranger.pid}) holds {output.size(stranger.bytes)} without a lease"
    for lease_id, kept in card.reservations.items():
        yield f"{output.size(kept)} are kept for {lease_id}"
    if card.quarantined_bytes:
        yield f"{output.size(card.quarantined_bytes)} in quarantine: evicted, and not given back"
    if card.pinned_bytes:
        yield f"{output.size(card.pinned_bytes)} are pinned"
    if card.loading:
        yield f"{card.loading} is loading"


def beside(host: HostMemory) -> Iterator[tuple[object, ...]]:
    """What a host has beside its cards, a line each; cores are only promised, so nobody says how many are used."""
    ram = (host.ram_leased_bytes, host.ram_reserved_bytes, host.ram_grantable_bytes)
    disk = (host.disk_leased_bytes, host.disk_reserved_bytes, host.disk_grantable_bytes)
    tiers = (
        ("RAM", host.ram_total_bytes, host.ram_available_bytes, ram),
        ("disk", host.disk_total_bytes, host.disk_available_bytes, disk),
    )
    for name, total, available, promised in tiers:
        figures = (total, total - available, available, *promised)
        yield host.host, name, *map(output.size, figures), host.reason
    grantable_cores = max(0.0, host.cpu_ceiling_cores - host.cpu_leased_cores - host.cpu_reserved_cores)
    cores = (host.cpu_leased_cores, host.cpu_reserved_cores, grantable_cores)
    yield host.host, "cores", f"{host.cpu_total_cores:g}", "", "", *(f"{each:.4g}" for each in cores), ""


def remark(card: Card) -> str:
    """What is special about a card; that it runs at its power limit is not."""
    slowed = [why for why in card.throttled if why != "power-cap"]
    return ", ".join(
        [
            *(["simulated"] if card.simulated else []),
            *([] if card.schedulable else [card.reason]),
            *([f"slowed down: {' '.join(slowed)}"] if slowed else []),
            *(["divided by MIG"] if card.mig and "MIG" not in card.reason else []),
        ]
    )
