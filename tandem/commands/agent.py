"""`tandem agent start|stop|restart NAME`: one process of a startup file, through its host's supervisor."""

from __future__ import annotations

from typing import Final

import click

from common.api import supervisor
from common.api.words import AnyVerb
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

VERBS: Final[dict[str, AnyVerb]] = {
    "start": supervisor.START_AGENT,
    "stop": supervisor.STOP_AGENT,
    "restart": supervisor.RESTART_AGENT,
}


@click.group()
def command() -> None:
    """Start, stop or restart a process of a startup file.

    JSON: {"agent_name", "host", "operation_id", "phase"}.
    """


def _add(word: str, verb: AnyVerb) -> None:
    @command.command(word, help=f"{verb.summary.capitalize()}.")
    @click.argument("name")
    @with_host
    @with_json
    def operate(name: str, host: str, as_json: bool) -> Exit:
        with asking.fabric() as client:
            where = asking.host_of(client, name, host)
            begun = client.call(f"{asking.SUPERVISOR}{where}", verb, supervisor.AgentName(agent_name=name))
        if as_json:
            told = {"agent_name": name, "host": where, "operation_id": begun.operation_id, "phase": begun.phase}
            output.say_json(told)
        else:
            output.say(f"{word} of {name} on {where} has begun ({begun.operation_id}); it is {begun.phase}")
        return Exit.OK


for _word, _verb in VERBS.items():
    _add(_word, _verb)
