"""`tandem plan`: what would happen to a request for VRAM now; nothing is changed."""

from __future__ import annotations

from typing import Final

import click

from common.api.leases import LeasePlan, PlanLease
from tandem import asking, output
from tandem.commands.why import say_verdict
from tandem.exits import Exit
from tandem.options import CARDS, PRIORITY, card, size, with_host, with_json

OUTCOMES: Final = {
    "grant": Exit.OK,
    "share": Exit.OK,
    "evict": Exit.OK,
    "wait": Exit.TRY_LATER,
    "never": Exit.BAD_ANSWER,
}


@click.command()
@click.option("--vram", type=size, required=True, metavar="SIZE", help="How much, such as 10GiB.")
@click.option("--model", default="model", show_default=True, help="For which model.")
@click.option("--priority", type=PRIORITY, default=50, show_default=True, help="0 to 100, higher first.")
@click.option("--card", "card_uuid", type=card, default="", metavar="UUID", help="Only this card.")
@click.option("--cards", type=CARDS, default=1, show_default=True, help="So many cards of one host, that much on each.")
@click.option("--exclusive", is_flag=True, help="Each card for itself alone.")
@click.option("--pinned", is_flag=True, help="Never to be evicted.")
@click.option("--share", is_flag=True, help="Join a lease of the same model where one lives.")
@click.option("--config", default="", metavar="TEXT", help="What tells loads of one model apart.")
@with_host
@with_json
def command(
    vram: int,
    model: str,
    priority: int,
    card_uuid: str,
    cards: int,
    exclusive: bool,
    pinned: bool,
    share: bool,
    config: str,
    host: str,
    as_json: bool,
) -> Exit:
    """What would happen to a request for VRAM now, and who would go for it.

    JSON: the reply of the verb plan. Exits 0 when it would be granted (for one that waits, after others went), 75 when it would
    wait, 1 when no card could ever hold it.
    """
    asked = PlanLease(
        model=model,
        bytes=int(vram),
        priority=priority,
        host=host,
        card_uuid=card_uuid,
        cards=cards,
        exclusive=exclusive,
        pinned=pinned,
        share=share,
        config=config,
    )
    with asking.fabric() as client:
        planned = asking.plan(client, asked)
    if as_json:
        output.say_json(planned)
    else:
        show(planned)
    return OUTCOMES[planned.outcome]


def show(planned: LeasePlan) -> None:
    """The outcome in a sentence, then every card's verdict."""
    place = "there" if planned.card_uuid else "at most"
    free = "" if planned.outcome == "never" else f", {output.size(planned.free_bytes)} free {place}"
    needs = f"{output.size(planned.need_bytes)} needed{free}"
    where = f" on {planned.host} {planned.card_uuid}" if planned.card_uuid else ""
    words = {
        "grant": f"would be granted{where}",
        "share": f"would share {planned.share}{where}",
        "evict": f"would be granted{where} after others went",
        "wait": "would wait",
        "never": "can never be granted",
    }
    reason = f": {planned.reason}" if planned.reason else ""
    output.say(output.clean(f"{words[planned.outcome]} ({needs}){reason}"))
    for verdict in planned.cards:
        say_verdict(verdict)
