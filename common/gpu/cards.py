"""Where a host's card samples come from: the driver, or folders that stand for cards; each card claimed machine-wide.

It decides which source a host has, and marks a card that another supervisor of this machine owns. It judges no
measurement and grants nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import msgspec

from common.errors import Unavailable
from common.gpu.claims import Claim, claim, machine_wide_folder
from common.gpu.nvml import NvmlCards
from common.gpu.simulated import SimulatedCards
from common.vram.cards import CardSample

log = logging.getLogger(__name__)


class CardSource(Protocol):
    """One host's cards. Every call may block (a sick driver takes seconds): run it aside, one call at a time."""

    def sample(self, now: float) -> list[CardSample]:
        """One sample for every card ever seen, in NVML's order; `now` is the host's monotonic clock, in seconds.

        Never raises: whatever could not be measured is the sample's `problem`.
        """
        ...

    def close(self) -> None:
        """Lets go of the driver and the cards; may be called again."""
        ...


class NoCards:
    """The source of a host without any, which is looked at all the same for what it has beside cards."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def sample(self, now: float) -> list[CardSample]:
        """Raises Unavailable with the reason."""
        raise Unavailable(self._problem)

    def close(self) -> None:
        """There is nothing to let go of."""


class ClaimedCards:
    """A source whose cards are claimed as they are seen; one that is another's says so and is tried again each time."""

    def __init__(self, source: CardSource, host: str, claims_dir: Path) -> None:
        self._source = source
        self._host = host
        self._claims_dir = claims_dir
        self._claims: dict[str, Claim] = {}

    def sample(self, now: float) -> list[CardSample]:
        """The source's samples; `problem` names the owner where it is not this supervisor."""
        return [sample if sample.problem else self._claimed(sample) for sample in self._source.sample(now)]

    def close(self) -> None:
        """Gives every card up and closes the source."""
        while self._claims:
            self._claims.popitem()[1].release()
        self._source.close()

    def _claimed(self, sample: CardSample) -> CardSample:
        if sample.uuid in self._claims:
            return sample
        try:
            claimed = claim(sample.uuid, self._host, self._claims_dir)
        except Unavailable as error:
            return msgspec.structs.replace(sample, problem=error.message)
        if isinstance(claimed, Claim):
            self._claims[sample.uuid] = claimed
            return sample
        return msgspec.structs.replace(sample, problem=str(claimed))


def open_simulated(host: str, folder: Path, claims_dir: Path | None = None) -> CardSource:
    """The cards in `folder`, claimed beside them; Unavailable where it holds none."""
    return ClaimedCards(SimulatedCards(host, folder), host, claims_dir or folder / "claims")


def open_cards(host: str, simulated: Path | None = None, claims_dir: Path | None = None) -> CardSource:
    """The host's cards: NVML's; where it finds none, those in the folder `simulated`, if one is given.

    Real cards are claimed machine-wide, simulated ones beside their folders, as two TANDEM_HOMEs share none;
    `claims_dir` overrides both. Raises Unavailable, with the mend, where there are no cards at all.
    """
    try:
        return ClaimedCards(NvmlCards(host), host, claims_dir or machine_wide_folder())
    except Unavailable as error:
        if simulated is None:
            raise
        log.warning("%s; the cards in %s are simulated", error.message, simulated)
    return open_simulated(host, simulated, claims_dir)
