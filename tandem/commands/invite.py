"""`tandem invite HOST`: a bundle by which one host may join this one, once."""

from __future__ import annotations

from pathlib import Path

import click

from common.api import links
from common.config.units import Duration, format_seconds
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import some_time, with_json


@click.command()
@click.argument("host")
@click.option(
    "--ttl", "ttl_s", type=some_time, default="15m", show_default=True, metavar="TIME", help="How long it is good."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, metavar="FILE", help="Default: HOST.tandem-invite."
)
@click.option("--address", default="", help="Where HOST reaches this one; default: the first under `listen`.")
@click.option(
    "--host", "inviter", default="", metavar="NAME", help="The inviting host; default: the one of this machine."
)
@with_json
def command(host: str, ttl_s: Duration, out: Path | None, address: str, inviter: str, as_json: bool) -> Exit:
    """Let another host in: writes a bundle that HOST joins with, once.

    The file holds keys: whoever has it before HOST can join in its stead. It is written for your eyes alone, and never over
    another file. JSON: {"file", "host", "inviter", "expires_at", "next"}.
    """
    from tandem.bundle_file import NewFile
    from tandem.here import host_here

    path = out or Path(f"{host}.tandem-invite")
    own = host_here(inviter, other=host)
    with NewFile(path) as file, asking.fabric() as client:
        asked = links.InviteHost(host=host, address=address, ttl_s=float(ttl_s))
        made = client.call(f"{asking.SUPERVISOR}{own}", links.INVITE_HOST, asked)
        file.write(made)
    following = f"tandem join {path.name}"
    if as_json:
        told = {"file": str(path), "host": host, "inviter": own, "expires_at": made.expires_at, "next": following}
        output.say_json(told)
        return Exit.OK
    output.say(f"{path} lets {host} join {own}, once, within {format_seconds(ttl_s)} (until {made.expires_at})")
    output.say(f"bring it to {host} unseen (`scp -p {path} {host}:`), and there: {following}")
    return Exit.OK
