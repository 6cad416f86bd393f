"""`tandem plan`: what would happen to a request for VRAM now; nothing is changed."""

from __future__ import annotations

from typing import Final

import click

from common.api.decisions import LeasePlan, PlanLease
from common.vram.placement import NOT_ASKED
from tandem import asking, output
from tandem.commands.why import say_verdict
from tandem.exits import Exit
from tandem.options import Terms, with_host, with_json, with_terms

OUTCOMES: Final = {
    "grant": Exit.OK,
    "share": Exit.OK,
    "evict": Exit.OK,
    "wait": Exit.TRY_LATER,
    "never": Exit.BAD_REQUEST,
}


@click.command()
@with_terms
@click.option("--model", default="model", show_default=True, help="For which model.")
@with_host
@with_json
def command(terms: Terms, model: str, host: str, as_json: bool) -> Exit:
    """What would happen to a request for VRAM now, and who would go for it.

    JSON: the reply of the verb plan. Exits 0 when it would be granted (for one that waits, after others went), 75 when it would
    wait, 76 when no card could ever hold it, 1 when there is no such card.
    """
    with asking.fabric() as client:
        card_uuid = asking.card_uuid(client, terms.card, host)
        planned = asking.plan(client, PlanLease(model=model, host=host, **terms.asked(card_uuid)))
    if as_json:
        output.say_json(planned)
    else:
        show(planned)
    return ended(planned)


def ended(planned: LeasePlan) -> Exit:
    """The code that `tandem run` would end with for want of a card, 0 where it would get one."""
    in_question = any(verdict.reason != NOT_ASKED for verdict in planned.cards)
    return OUTCOMES[planned.outcome] if in_question or planned.outcome != "never" else Exit.BAD_ANSWER


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
