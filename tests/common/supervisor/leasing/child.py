"""A host's leases in a process of their own, to be killed: python child.py FOLDER; says its port when it stands."""

from __future__ import annotations

import sys
from pathlib import Path

from common.api import supervisor
from common.service import loop
from common.service.shell import Shell, ShellSettings
from common.store.open import open_store
from common.supervisor.leasing.card_leases import CardLeases
from tests.common.supervisor.leasing.lab import two_cards


async def main(folder: Path) -> None:
    shell = Shell(ShellSettings("Supervisor", "mainpc", 0), supervisor.TOPICS, open_store(folder / "store", "leases"))
    card_leases = CardLeases(shell, "mainpc", two_cards(folder))
    card_leases.add_routes()
    await card_leases.open()
    await shell.open()
    print(shell.port, flush=True)
    await shell.stopped()


if __name__ == "__main__":
    loop.run(main(Path(sys.argv[1])))
