"""`tandem status`: the whole fabric on one screen."""

from __future__ import annotations

import asyncio

import click

from common.client.directory import Directory
from common.client.opening import directory_of_environment, open_async_client
from tandem import asking, output
from tandem.commands.gpus import remark
from tandem.exits import Exit
from tandem.options import with_json
from tandem.overview import AgentSeen, HostSeen, LinkSeen, ServiceSeen, Survey
from tandem.survey import survey


@click.command()
@with_json
def command(as_json: bool) -> Exit:
    """The whole fabric on one screen.

    Exits 1 when something configured is not ready.
    JSON: {"ok", "problems", "hosts", "services", "agents", "cards", "leases": {"count", "bytes"},
    "requests": {"queued", "running"}, "tasks": {"queued", "running", "dead"}, "errors": {"new", "ongoing", "regressed"},
    "links", "breakers"}.
    """
    found = asyncio.run(_look(directory_of_environment()))
    if as_json:
        output.say_json(found)
    else:
        show(found)
    return Exit.OK if found.ok else Exit.BAD_ANSWER


async def _look(directory: Directory) -> Survey:
    async with open_async_client(asking.settings(attempts=1), directory) as client:
        return await survey(client, directory)


def show(found: Survey) -> None:
    """The screen: hosts, services, agents, cards, sums, and what is wrong."""
    output.table(("HOST", "", "LOAD", "MEMORY", "DISK FREE"), [_host(each) for each in found.hosts], right=(2, 3, 4))
    output.say()
    output.table(
        ("SERVICE", "HOST", "HEALTH", "UP", "ADDRESS"), [_service(each) for each in found.services], right=(3,)
    )
    if found.agents:
        output.say()
        headers = ("AGENT", "HOST", "PHASE", "LIVENESS", "RESTARTS", "CAPABILITIES")
        output.table(headers, [_agent(each) for each in found.agents], right=(4,))
    if found.cards:
        output.say()
        _cards(found)
    output.say()
    output.say(
        f"leases {found.leases.count} ({output.size(found.leases.bytes)})   "
        f"requests {found.requests.queued} queued, {found.requests.running} running   "
        f"tasks {found.tasks.queued} queued, {found.tasks.running} running, {found.tasks.dead} dead"
    )
    errors = found.errors
    output.say(
        f"errors {errors.new} new, {errors.ongoing} ongoing, {errors.regressed} regressed   "
        f"open breakers {len(found.breakers)}"
    )
    for link in found.links:
        output.say(output.clean(_link(link)))
    for problem in found.problems:
        output.say(output.paint(output.clean(f"not ok: {problem}"), "bad"))
    if found.ok:
        output.say(output.paint("all is well", "good"))


def _host(seen: HostSeen) -> tuple[object, ...]:
    if not seen.reachable:
        since = "" if seen.heard_s is None else f", last heard {output.age(seen.heard_s)} ago"
        return seen.host, f"unreachable{since}", "", "", ""
    vitals = seen.vitals
    if vitals is None:
        return seen.host, "reachable", "", "", ""
    memory = f"{output.size(vitals.memory_used_bytes)} of {output.size(vitals.memory_total_bytes)}"
    load = f"{vitals.load_1m:.1f} on {vitals.cores} cores"
    return seen.host, "reachable", load, memory, output.size(vitals.disk_free_bytes)


def _link(seen: LinkSeen) -> str:
    if not seen.joined:
        return f"link {seen.host} to {seen.peer}: not joined"
    trip = f", {seen.round_trip_ms:.1f} ms there and back" if seen.up and seen.round_trip_ms is not None else ""
    return f"link {seen.host} to {seen.peer}: {'up' if seen.up else 'down'} for {output.age(seen.since_s)}{trip}"


def _service(seen: ServiceSeen) -> tuple[object, ...]:
    up = output.age(seen.uptime_s) if seen.status != "unreachable" else ""
    health = seen.status if seen.ready or seen.status == "unreachable" else f"{seen.status}, not ready"
    return seen.service, seen.host, health, up, seen.address.removeprefix("tcp://")


def _agent(seen: AgentSeen) -> tuple[object, ...]:
    return seen.agent_name, seen.host, seen.phase, seen.liveness, seen.restarts, " ".join(seen.capabilities)


def _cards(found: Survey) -> None:
    rows = [
        (
            f"{card.host}:{card.card}",
            card.name,
            *map(output.size, (card.total_bytes, card.free_bytes, card.leased_bytes, card.used_bytes)),
            remark(card),
        )
        for card in found.cards
    ]
    output.table(("CARD", "NAME", "TOTAL", "FREE", "LEASED", "USED", ""), rows, right=(2, 3, 4, 5))
