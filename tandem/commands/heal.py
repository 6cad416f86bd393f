"""`tandem heal`: what each host did while it was alone, and whether anything is in conflict now that they are together."""

from __future__ import annotations

import time
from typing import Final

import click

from common.api import core_orchestrator, gpus, leases, links
from common.api.separations import LIST_SEPARATIONS, ListSeparations
from common.api.words import Empty
from common.client.sync import Client
from common.errors import TandemError, Unavailable
from tandem import asking, healing, output
from tandem.exits import Exit
from tandem.healing import Alone, Healed
from tandem.options import with_json

AGAIN_S: Final = 0.5
"""Two hosts are asked one after the other: what is a conflict no more after this time was a change on its way."""


@click.command()
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="The newest so many.")
@with_json
def command(limit: int, as_json: bool) -> Exit:
    """What each host did while it was alone, and whether anything is in conflict.

    A heal needs no hand: a card has one writer, so nothing is granted twice. This looks whether that is so.
    Exits 1 when something is in conflict or could not be looked at.

    JSON: {"ok", "separations": [...], "conflicts": [...], "missing": {who: reason}}.
    """
    with asking.fabric() as client:
        found = look(client, limit)
        if found.conflicts:
            time.sleep(AGAIN_S)
            found = look(client, limit)
    if as_json:
        output.say_json(found)
    else:
        show(found)
    return Exit.OK if found.ok else Exit.BAD_ANSWER


def look(client: Client, limit: int) -> Healed:
    """Ask every host what it did, and compare what they hold. Unavailable when none answers."""
    hosts = asking.hosts()
    apart, away = asking.each_host(client, hosts, LIST_SEPARATIONS, ListSeparations(limit=limit))
    if not apart:
        raise Unavailable(f"no host answers: {next(iter(away.values())).message}")
    reached = list(apart)
    cards, unseen = asking.each_host(client, reached, gpus.GET_GPUS, gpus.GetGpus())
    held, unheld = asking.each_host(client, reached, leases.LIST_LEASES, leases.ListLeases())
    copies, uncopied = asking.each_host(client, reached, core_orchestrator.LIST_AGENTS, Empty())
    linked, unlinked = asking.each_host(client, reached, links.LIST_LINKS, links.ListLinks())
    missing = {host: error.message for host, error in (away | unseen | unheld | uncopied | unlinked).items()}
    try:
        registry = client.call(core_orchestrator.SERVICE, core_orchestrator.LIST_AGENTS, Empty())
    except TandemError as error:
        registry = None
        missing[core_orchestrator.SERVICE] = error.message
    conflicts = healing.conflicts(
        [card for answer in cards.values() for card in answer.cards],
        [lease for answer in held.values() for lease in answer.leases],
        registry,
        copies,
        linked.values(),
    )
    told = healing.separations(apart.values(), limit)
    return Healed(ok=not conflicts and not missing, separations=told, conflicts=conflicts, missing=missing)


def show(found: Healed) -> None:
    """The separations, then what is wrong."""
    for one in found.separations:
        output.say(output.clean(line(one)))
    if not found.separations:
        output.say("no host was ever without another")
    for name, why in found.missing.items():
        output.note(f"{name} could not be looked at: {why}")
    for conflict in found.conflicts:
        output.say(output.paint(output.clean(f"in conflict: {conflict}"), "bad"))
    if found.ok:
        output.say(output.paint("nothing is in conflict", "good"))


def line(one: Alone) -> str:
    """One separation in a sentence."""
    lasted = f"for {output.age(one.lasted_s)}, since {one.began_at}"
    until = f"until {one.ended_at}" if one.ended_at else "and still is"
    deeds = ", ".join(f"{count} {deed}" for deed, count in one.deeds.items()) or "nothing that is counted"
    return f"{one.host} was without {one.peer} {lasted} {until} ({one.reason or 'no reason known'}); it did: {deeds}"
