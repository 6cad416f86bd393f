"""`tandem why`: the receipts about a lease, a request's key or a model."""

from __future__ import annotations

import click

from common.api.decisions import CardVerdict, Explain, Receipt, Rung, Victim
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_json


@click.command()
@click.argument("subject", metavar="LEASE|MODEL|KEY")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The newest so many.")
@with_json
def command(subject: str, limit: int, as_json: bool) -> Exit:
    """Why a lease or a model was granted, refused, evicted or ended, newest first.

    Of a model at most a quarter are of uses and renewals. Of an eviction: every lease that was weighed with its price, and each
    rung with what the card showed before and after.

    JSON: {"receipts": [...]} as explain answers it. Exits 1 when nothing is remembered about the subject.
    """
    if not 1 <= len(subject) <= 128:
        raise click.BadParameter("a lease, model or key has 1 to 128 characters", param_hint="LEASE|MODEL|KEY")
    with asking.fabric() as client:
        found = asking.explanation(client, Explain(subject=subject, limit=limit))
    if as_json:
        output.say_json(found)
    elif not found.receipts:
        output.say(f"nothing is remembered about {output.clean(subject)}")
    for receipt in () if as_json else found.receipts:
        show(receipt)
    return Exit.OK if found.receipts else Exit.BAD_ANSWER


def show(receipt: Receipt) -> None:
    """One decision: what, why, and what each card had to say."""
    where = f" on {receipt.host}" if receipt.host else ""
    free = f", {output.size(receipt.free_bytes)} free" if receipt.cards else ""
    needs = f"{receipt.model} needs {output.size(receipt.need_bytes)}{free}"
    output.say(output.clean(f"{receipt.at}  {receipt.decision}{where}  {receipt.lease_id}  {needs}: {receipt.reason}"))
    for verdict in receipt.cards:
        say_verdict(verdict)
    for victim in () if any(verdict.victims for verdict in receipt.cards) else receipt.victims:
        say_victim(victim)
    for rung in receipt.rungs:
        say_rung(rung)
    if receipt.rungs:
        returned = f"{output.size(receipt.returned_bytes)} returned of {output.size(receipt.expected_bytes)} expected"
        output.say(f"    {returned}; {receipt.lost_s:.1f} s of loading it is expected to cost")


def say_victim(victim: Victim) -> None:
    """One lease that was weighed, indented: its price, and what became of it."""
    chance = f"{victim.want:.0%} likely to be used soon"
    costs = f"price {victim.price:.2f} ({chance}, {victim.load_s:.0f} s to load, idle {output.age(victim.idle_s)})"
    goes = "goes" if victim.chosen else "stays"
    held = f"{victim.model} {output.size(victim.bytes)}"
    output.say(output.clean(f"      {goes}: {victim.lease_id}  {held}  {costs}: {victim.reason}"))


def say_rung(rung: Rung) -> None:
    """One rung of an eviction, indented: what was done, what was answered, and what the card showed."""
    shown = f"{output.size(rung.bytes_before)} -> {output.size(rung.bytes_after)}"
    claimed = f", answered: {rung.claimed}" if rung.claimed else ""
    output.say(output.clean(f"    {rung.rung}: {rung.outcome}, {shown} in {output.age(rung.took_s)}{claimed}"))


def say_verdict(verdict: CardVerdict) -> None:
    """One card's verdict, indented."""
    fits = ("would fit after evictions" if verdict.victims else "fits") if verdict.feasible else "does not fit"
    grantable = output.size(verdict.grantable_bytes)
    reason = f": {verdict.reason.removeprefix('fits, ')}" if verdict.reason else ""
    output.say(output.clean(f"    {verdict.host}:{verdict.card}  {fits}, {grantable} grantable{reason}"))
    for victim in verdict.victims:
        say_victim(victim)
