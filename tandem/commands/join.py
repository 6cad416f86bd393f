"""`tandem join BUNDLE`: this host joins the one that wrote the bundle."""

from __future__ import annotations

import time
from pathlib import Path

import click

from common.api import links
from common.clock import timestamp
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_json

TIMEOUT_S = 30.0


@click.command()
@click.argument("file", metavar="BUNDLE", type=click.Path(path_type=Path))
@with_json
def command(file: Path, as_json: bool) -> Exit:
    """Join the host that wrote BUNDLE with `tandem invite`.

    This host's supervisor has to run, and so has the inviting one. Afterwards nothing secret is left in the file.
    JSON: {"host", "joined", "hosts", "replaced"}.
    """
    from common.supervisor.links.bundle import Spent
    from tandem import bundle_file
    from tandem.here import host_here

    shown = bundle_file.read(file)
    own = host_here("", invited=shown.host)
    with asking.fabric(TIMEOUT_S) as client:
        joined = client.call(f"{asking.SUPERVISOR}{own}", links.JOIN_HOST, links.JoinHost(bundle=shown))
    try:
        bundle_file.spend(file, Spent(host=own, inviter=joined.host, used_at=timestamp(time.time())))
    except OSError as error:
        output.note(f"{file} still holds keys, which admit nobody any more: {error.strerror}")
    if as_json:
        told = {"host": own, "joined": joined.host, "hosts": joined.hosts, "replaced": joined.replaced}
        output.say_json(told)
        return Exit.OK
    output.say(f"{own} has joined {joined.host}; `tandem status` shows both")
    if joined.replaced:
        output.say("one knew the other by another key before, which counts no more")
    return Exit.OK
