"""`tandem gpus`: the cards of both hosts."""

from __future__ import annotations

from collections.abc import Sequence

import click

from common.api.leases import Card
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS = ("CARD", "NAME", "TOTAL", "FREE", "LEASED", "USED", "GRANTABLE", "UUID", "")


@click.command()
@with_host
@with_json
def command(host: str, as_json: bool) -> Exit:
    """The cards: total, free, leased, used.

    JSON: {"cards": [...], "missing": {host: reason}} as get_gpus answers it.
    """
    with asking.fabric() as client:
        found = asking.gpus(client, host)
    if as_json:
        output.say_json(found)
        return Exit.OK
    show(found.cards)
    for name, why in found.missing.items():
        output.note(f"cards of {name} are missing: {why}")
    return Exit.OK


def show(cards: Sequence[Card]) -> None:
    """The table of cards, with the strangers on each."""
    if not cards:
        output.say("no cards")
        return
    output.table(HEADERS, [row(card) for card in cards], right=(2, 3, 4, 5, 6))
    for card in cards:
        for stranger in card.strangers:
            output.say(
                f"  {card.host}:{card.card}: {output.clean(stranger.name)} (pid {stranger.pid}) "
                f"holds {output.size(stranger.bytes)} without a lease"
            )


def row(card: Card) -> tuple[object, ...]:
    """A card as a line of the table."""
    return (
        f"{card.host}:{card.card}",
        card.name,
        *map(
            output.size, (card.total_bytes, card.free_bytes, card.leased_bytes, card.used_bytes, card.grantable_bytes)
        ),
        card.card_uuid,
        remark(card),
    )


def remark(card: Card) -> str:
    """What is special about a card."""
    return ", ".join([*(["simulated"] if card.simulated else []), *([] if card.schedulable else [card.reason])])
