"""Opens this host's cards for its leases: NVML's, or simulated ones where that is asked for; measures and grants nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from common.config.schema import Startup
from common.errors import Unavailable
from common.gpu.cards import CardSource, open_cards
from common.gpu.simulated import CardFile, card_uuid, cards_folder, create_card


class HostCards(NamedTuple):
    """The host's cards, or None with the `problem`; `folder` is where they lie when they are simulated."""

    source: CardSource | None
    problem: str = ""
    folder: Path | None = None


def open_host_cards(startup: Startup, home: Path, *, simulate: bool) -> HostCards:
    """The host's cards; `home` is TANDEM_HOME. Blocks while the driver starts: run it aside."""
    try:
        return HostCards(open_cards(startup.host))
    except (Unavailable, OSError) as error:
        if not simulate:
            return HostCards(None, str(error))
    folder = cards_folder(home, startup.host)
    try:
        _make(startup, folder)
        return HostCards(open_cards(startup.host, simulated=folder), folder=folder)
    except (Unavailable, OSError) as error:
        return HostCards(None, str(error))


def _make(startup: Startup, folder: Path) -> None:
    """The file's cards, where they are not there yet: what lies in the folders of those that are is theirs."""
    for index, card in enumerate(startup.simulated_cards):
        if not (folder / str(index) / "card.json").exists():
            file = CardFile(card_uuid(startup.host, index), card.name, int(card.memory))
            create_card(folder / str(index), file)
