"""`tandem expel HOST`: a host is sent away, and none of its keys counts any more."""

from __future__ import annotations

import click

from common.api import links
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_json


@click.command()
@click.argument("host")
@click.option(
    "--host", "sender", default="", metavar="NAME", help="The host to say it; default: the one of this machine."
)
@with_json
def command(host: str, sender: str, as_json: bool) -> Exit:
    """Trust none of a host's keys any more, here and on every host that trusts this one.

    Its connections end, and it comes back by a new `tandem invite` alone. JSON: {"host", "expelled"}.
    """
    from tandem.here import host_here

    own = host_here(sender, other=host)
    with asking.fabric() as client:
        client.call(f"{asking.SUPERVISOR}{own}", links.EXPEL_HOST, links.ExpelHost(host=host))
    if as_json:
        output.say_json({"host": own, "expelled": host})
        return Exit.OK
    output.say(f"{host} has been sent away from {own}; `tandem invite {host}` lets it in again")
    return Exit.OK
