"""`tandem agents`: the registry as CoreOrchestrator has it."""

from __future__ import annotations

import click

from common.api import core_orchestrator
from common.api.words import Empty
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS = ("AGENT", "HOST", "LIVENESS", "HEARD", "IN FLIGHT", "ADDRESS", "CAPABILITIES")


@click.command()
@with_host
@with_json
def command(host: str, as_json: bool) -> Exit:
    """Who is registered, where, and alive or not.

    JSON: {"agents": [...], "as_of": {...}} as list_agents answers it.
    """
    with asking.fabric() as client:
        found = client.call(core_orchestrator.SERVICE, core_orchestrator.LIST_AGENTS, Empty())
    chosen = [agent for agent in found.agents if not host or agent.location == host]
    if not chosen:
        asking.only(host)
    if as_json:
        output.say_json({"agents": chosen, "as_of": found.as_of})
    elif not chosen:
        output.say("no agents are registered" + (f" on {host}" if host else ""))
    else:
        output.table(HEADERS, [row(agent) for agent in chosen], right=(3, 4))
    return Exit.OK


def row(agent: core_orchestrator.Agent) -> tuple[object, ...]:
    """An agent as a line of the table."""
    return (
        agent.agent_name,
        agent.location or agent.host,
        agent.liveness,
        output.age(agent.heard_s),
        agent.in_flight,
        f"{agent.host}:{agent.port}",
        " ".join(agent.capabilities),
    )
