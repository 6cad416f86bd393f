"""Opens this host's cards for its leases: NVML's, or simulated ones where that is asked for; measures and grants nothing.

A driver may take long to wake, or never do. A start waits for it OPEN_S; after that whoever looks at the cards does, aside.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from common.config.schema import Startup
from common.errors import Unavailable
from common.gpu.cards import CardSource, open_cards, open_simulated
from common.gpu.simulated import cards_folder, ensure_cards
from common.vram.cards import CardSample

OPEN_S: Final = 5.0
"""How long a start waits for the driver; one that nobody used takes a second or two to wake."""


class HostCards(NamedTuple):
    """The host's cards, or None with the `problem`; `folder` is where they lie when they are simulated."""

    source: CardSource | None
    problem: str = ""
    folder: Path | None = None


async def host_cards(
    startup: Startup, home: Path, *, simulate: bool, leave_real: bool = False, within_s: float = OPEN_S
) -> HostCards:
    """The host's cards, after `within_s` at most; `home` is TANDEM_HOME. Those that are late are opened meanwhile.

    With `leave_real` NVML is not asked: real cards are somebody else's.
    """
    real = partial(_open, startup, home, simulate=simulate)
    opening = _aside(partial(_simulated, startup, home, open_simulated) if leave_real else real)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(opening), within_s)
    except TimeoutError:
        return HostCards(_LateCards(opening))


class _LateCards:
    """Cards that are still being opened, as a CardSource: a look waits until they are."""

    def __init__(self, opening: Future[HostCards]) -> None:
        self._opening = opening

    def sample(self, now: float) -> list[CardSample]:
        """The cards' samples; raises Unavailable where it turned out that there are none."""
        cards = self._opening.result()
        if cards.source is None:
            raise Unavailable(cards.problem)
        return cards.source.sample(now)

    def close(self) -> None:
        """Lets go of what was opened; what is still being opened ends with the process."""
        if self._opening.done() and (source := self._opening.result().source) is not None:
            source.close()


def _aside(work: Callable[[], HostCards]) -> Future[HostCards]:
    """Does `work` on a thread that nobody waits for: a driver that never answers must not keep the process from ending."""
    future: Future[HostCards] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="cards-open", daemon=True).start()
    return future


def _open(startup: Startup, home: Path, *, simulate: bool) -> HostCards:
    try:
        return HostCards(open_cards(startup.host))
    except (Unavailable, OSError) as error:
        if not simulate:
            return HostCards(None, str(error))
    return _simulated(startup, home, open_cards)


def _simulated(startup: Startup, home: Path, opened: Callable[[str, Path], CardSource]) -> HostCards:
    folder = cards_folder(home, startup.host)
    try:
        cards = startup.simulated_cards
        ensure_cards(folder, startup.host, [int(card.memory) for card in cards], [card.name for card in cards])
        return HostCards(opened(startup.host, folder), folder=folder)
    except (Unavailable, OSError) as error:
        return HostCards(None, str(error))
