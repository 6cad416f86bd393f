"""Which hosts of the fabric this machine is: a command can use only the cards of the machine that it runs on.

A relay offers another host's supervisor on this loopback, so an address proves nothing. A supervisor is here when the machine
it says it runs on is this one. Nobody listens where none runs, which is known at once; one that listens and says nothing is
busy, and is given time.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from common.api import basic
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.directory import Place
from common.client.opening import directory_of_environment, open_async_client
from common.errors import Conflict, Forbidden, TandemError, Unavailable
from common.gpu.process_identity import MACHINE, this_machine
from tandem.asking import SUPERVISOR, TIMEOUT_S, hosts, only, settings

CONNECT_S: Final = 1.5
"""How long a supervisor's port may take to accept a connection."""
MOMENT_S: Final = 5.0
"""How much longer another one may take that listens: one that is left out is asked for none of its cards."""


def host_here(named: str = "", *, other: str = "", invited: str = "") -> str:
    """The one host of this machine that a command speaks for: `named`, else TANDEM_HOST, else the one whose supervisor runs here.

    `other` is a host that it is not; `invited` the only one that it may be, else Forbidden. Conflict where there are several.
    """
    told = named or os.environ.get("TANDEM_HOST", "")
    here = only(told) if told else asyncio.run(_hosts_here(other))
    if invited:
        if invited not in here:
            mend = f"run `tandem join` on {invited}, or `tandem invite {here[0]}` on the other host for this one"
            raise Forbidden(f"this bundle invites {invited}; this is {' and '.join(here)}", mend=mend)
        return invited
    if len(here) > 1:
        raise Conflict(f"{' and '.join(here)} run on this machine", mend="say which is meant with --host")
    return here[0]


async def _hosts_here(other: str) -> list[str]:
    async with open_async_client(settings()) as client:
        return await hosts_here(client, [host for host in hosts() if host != other])


async def hosts_here(client: AsyncClient, hosts: list[str], patience_s: float = TIMEOUT_S) -> list[str]:
    """Those of `hosts` whose supervisors run on this machine. Unavailable when there is none, or none that answers in time.

    Once one has said that it is here, the others get a moment more: one that were here too would have answered.
    """
    looks = {host: asyncio.create_task(_look(client, host, patience_s)) for host in hosts}
    waiting = set(looks.values())
    while waiting:
        known = any(look.done() and not look.result() for look in looks.values())
        first = asyncio.FIRST_COMPLETED
        done, waiting = await asyncio.wait(waiting, timeout=MOMENT_S if known else None, return_when=first)
        if not done:
            break
    for look in waiting:
        look.cancel()
    here = [host for host, look in looks.items() if look not in waiting and not look.result()]
    if not here:
        reasons = "; ".join(f"{host}: {look.result()}" for host, look in looks.items())
        mend = "start this host's supervisor, or say which host this is with TANDEM_HOST or --host"
        raise Unavailable(f"no supervisor runs on this machine ({reasons})", mend=mend)
    return here


async def _look(client: AsyncClient, host: str, patience_s: float) -> str:
    """Why `host` is not here; empty when it is."""
    name = f"{SUPERVISOR}{host}"
    silence = await _silence(directory_of_environment().place(name))
    if silence:
        return silence
    try:
        info = await client.call(name, basic.INFO, Empty(), timeout_s=patience_s, idempotent=False)
    except TandemError as error:
        return error.message
    return "" if info.metadata.get(MACHINE) == this_machine() else "it runs on another machine"


async def _silence(place: Place | None) -> str:
    """Why nobody can be asked at `place`; empty when somebody listens there, or the address is none of TCP."""
    address = place.requests.address if place is not None else ""
    where, _, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://"):
        return ""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(where.strip("[]"), int(port))
    except TimeoutError:
        return f"{address} takes no connection"
    except OSError as error:
        return f"nobody listens at {address}: {os.strerror(error.errno) if error.errno else error}"
    writer.close()
    return ""
