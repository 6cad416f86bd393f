"""Where spools lie: `TANDEM_HOME/<host>/spool/<process>/<receiver>[.N]`, and the name that each one's numbers count under.

Several processes of one name, such as the workers of a pool, have a spool each: the second takes `.2`, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from common.errors import Conflict
from common.reporting.receivers import Receiver, Sender
from common.reporting.spool import Spool

SPOOLS: Final = 64
"""Living processes of one name that have a spool each."""

_ODD: Final = re.compile(r"[^A-Za-z0-9_.:/@ -]")
_NAME_CHARS: Final = 100


def agent_name(name: str) -> str:
    """`name` as an agent's name on the wire: what must not stand in one becomes an underscore."""
    cut = _ODD.sub("_", name)[:_NAME_CHARS]
    return cut if cut and (cut[0].isalnum() or cut[0] == "_") else f"_{cut[1:]}"


def spools_of(home: Path, host: str) -> Path:
    """The folder of all spools of a host."""
    return home / host / "spool"


def process_folder(home: Path, host: str, process: str) -> Path:
    """The folder of one process's spools."""
    return spools_of(home, host) / quote(process, safe=" @:")


def sender_of(folder: Path) -> Sender:
    """Whose spool lies in `folder`."""
    process = unquote(folder.parent.name)
    _, _, number = folder.name.partition(".")
    host = folder.parents[2].name
    return Sender(f"{host}/{process}{f'#{number}' if number else ''}"[:128], process)


def claim(process: Path, receiver: Receiver, wall: float) -> Spool:
    """A spool of this life's own, open; Conflict where too many lives of the process have one, OSError as it comes."""
    for number in range(1, SPOOLS + 1):
        spool = Spool(process / (receiver.folder if number == 1 else f"{receiver.folder}.{number}"))
        try:
            spool.open(wall)
        except Conflict:
            continue
        return spool
    raise Conflict(f"{SPOOLS} living processes spool in {process} already")


def leftovers(process: Path, receiver: Receiver, wall: float) -> Iterator[Spool]:
    """Every spool of the process that holds something and that no living process has; they are open from here on."""
    for folder in sorted(process.glob(f"{receiver.folder}*")):
        if not any(folder.glob("*.seg")):
            continue
        spool = Spool(folder)
        try:
            spool.open(wall)
        except (Conflict, OSError):
            continue
        yield spool
