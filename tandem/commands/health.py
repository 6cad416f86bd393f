"""`tandem health`: what ObservabilityHub makes of hosts, links, services and agents, with its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from common.api import observability_hub as hub
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS: Final = ("WHAT", "HOST", "NAME", "VERDICT", "SINCE", "ANSWERS IN", "REASON")
WELL: Final = ("healthy", "unknown")


@click.command()
@with_host
@with_json
def command(host: str, as_json: bool) -> Exit:
    """The hub's verdict on everything, with its reason.

    Exits 1 when something is degraded, unhealthy or unreachable.
    JSON: {"hosts", "services", "agents", "links", "as_of", "doubt"} as get_health answers it.
    """
    with asking.fabric() as client:
        found = client.call(hub.SERVICE, hub.GET_HEALTH, hub.GetHealth(host=host))
    if as_json:
        output.say_json(found)
    else:
        output.table(HEADERS, list(rows(found)), right=(4, 5))
        if found.doubt:
            output.note(f"the hub doubts its own eyes, so no verdict changes: {found.doubt}")
    return Exit.OK if all(verdict in WELL for verdict in verdicts(found)) else Exit.BAD_ANSWER


def verdicts(found: hub.FabricHealth) -> list[hub.Verdict]:
    """Every verdict in it."""
    return [each.verdict for part in (found.hosts, found.links, found.services, found.agents) for each in part]


def rows(found: hub.FabricHealth) -> Iterator[tuple[object, ...]]:
    """Everything as lines of the table: hosts, links, services, agents."""
    for host in found.hosts:
        yield "host", host.host, "", host.verdict, output.ago(host.since), millis(host.latency_ms), host.reason
    for link in found.links:
        trips = [side.round_trip_ms for side in link.sides if side.up]
        answers = millis(max(trips)) if trips else ""
        yield "link", link.host, f"to {link.peer}", link.verdict, output.ago(link.since), answers, link.reason
    for each in (*found.services, *found.agents):
        answers = millis(each.latency_ms) if each.probed else "not asked"
        yield (
            each.what,
            each.host,
            each.name,
            each.verdict,
            output.ago(each.since),
            answers,
            each.because or each.reason,
        )


def millis(milliseconds: float) -> str:
    """Milliseconds as people read them; empty for none."""
    return f"{milliseconds:.1f} ms" if milliseconds else ""
