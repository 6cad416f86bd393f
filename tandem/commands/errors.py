"""`tandem errors`: the groups ErrorBus keeps; `show` one with its samples, `resolve` one that is dealt with."""

from __future__ import annotations

from typing import Final, get_args

import click

from common.api import error_bus
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

HEADERS: Final = ("GROUP", "STATE", "COUNT", "LAST", "SEVERITY", "AGENTS", "ERROR")
STATES: Final = ("unresolved", *get_args(error_bus.GroupState), "any")
NAMED: Final = 3
"""Agents named in a line of the table; the others are counted."""


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(STATES), default="unresolved", show_default=True, help="Only these.")
@click.option("--agent", default="", metavar="NAME", help="Only this agent's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The newest so many.")
@with_host
@with_json
@click.pass_context
def command(context: click.Context, state: str, agent: str, limit: int, host: str, as_json: bool) -> None:
    """What went wrong, grouped and counted.

    JSON: {"groups": [...], "total", "as_of"} as list_error_groups answers it; `show` and `resolve` print one group.
    """
    if context.invoked_subcommand is not None:
        return
    wanted = "" if state == "any" else state
    asked = error_bus.ListErrorGroups(state=wanted, agent=agent, host=host, limit=limit)  # type: ignore[arg-type]
    with asking.fabric() as client:
        found = client.call(error_bus.SERVICE, error_bus.LIST_ERROR_GROUPS, asked)
    if not found.groups:
        asking.only(host)
    if as_json:
        output.say_json(found)
    elif not found.groups:
        output.say("no errors" if state in ("any", "unresolved") else f"no errors are {state}")
    else:
        output.table(HEADERS, [row(group) for group in found.groups], right=(2, 3))
        if found.total > len(found.groups):
            output.note(f"{found.total - len(found.groups)} more; --limit shows them")


def row(group: error_bus.ErrorGroup) -> tuple[object, ...]:
    """A group as a line of the table."""
    more = f" and {len(group.agents) - NAMED} more" if len(group.agents) > NAMED else ""
    return (
        group.group_id,
        group.state,
        group.count,
        output.ago(group.last_seen),
        group.severity,
        " ".join(group.agents[:NAMED]) + more,
        f"{group.error_type}: {group.message}" if group.message else group.error_type,
    )


@command.command("show")
@click.argument("group_id", metavar="GROUP")
@with_json
def show(group_id: str, as_json: bool) -> Exit:
    """One group: its counts by agent and host, and samples."""
    with asking.fabric() as client:
        found = client.call(error_bus.SERVICE, error_bus.GET_ERROR_GROUP, error_bus.GroupId(group_id=group_id))
    if as_json:
        output.say_json(found)
        return Exit.OK
    output.say(output.clean(f"{found.error_type}: {found.message}"))
    often = "once" if found.count == 1 else f"{found.count} times"
    output.say(f"{found.state}, {found.severity}, {often}, first {found.first_seen}, last {found.last_seen}")
    if found.resolved_at:
        by = f" by {found.resolved_by}" if found.resolved_by else ""
        output.say(output.clean(f"resolved {found.resolved_at}{by}: {found.note or 'without a note'}"))
    _say_counts("agents", found.by_agent, found.other_agents)
    _say_counts("hosts", found.by_host, found.other_hosts)
    for sample in found.samples:
        _say_sample(sample)
    return Exit.OK


def _say_counts(what: str, counts: dict[str, int], others: int) -> None:
    parts = [f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: -each[1])]
    parts += [f"others {others}"] if others else []
    output.say(output.clean(f"{what}: {', '.join(parts)}"))


def _say_sample(sample: error_bus.ErrorSample) -> None:
    output.say()
    output.say(output.clean(f"{sample.occurred_at}  {sample.agent} on {sample.host}: {sample.message}"))
    for name, value in sample.details.items():
        output.say(output.clean(f"    {name}: {value}"))
    for line in sample.stack.splitlines():
        output.say(f"    {output.clean(line)}")


@command.command("resolve")
@click.argument("group_id", metavar="GROUP")
@click.option("--note", default="", metavar="TEXT", help="How it was dealt with.")
@with_json
def resolve(group_id: str, note: str, as_json: bool) -> Exit:
    """Say that a group is dealt with; it comes back as regressed if it occurs again."""
    asked = error_bus.ResolveErrorGroup(group_id=group_id, note=note)
    with asking.fabric() as client:
        group = client.call(error_bus.SERVICE, error_bus.RESOLVE_ERROR_GROUP, asked)
    if as_json:
        output.say_json(group)
    else:
        output.say(f"{group.group_id} is {group.state}")
    return Exit.OK
