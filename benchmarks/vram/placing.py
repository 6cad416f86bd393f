"""How full a large cluster gets before it turns requests away: the openb trace, by VRAM alone.

Requests are drawn from the trace by chance until they ask for 1.3 times what the cluster has, as its authors do (Weng et al.,
USENIX ATC 2023); none ever ends. A request for several cards gets whole ones of one node. What counts is the share of all
cards that is allocated in the end.
"""

from __future__ import annotations

import csv
from functools import cache
from random import Random
from typing import Final

import msgspec

from benchmarks.vram.traces import DATA
from common.vram.amount import MIB
from common.vram.demand import Demand, Horizon
from common.vram.placement import Candidate, Wish, picks
from common.vram.residency import Residency

ASKED: Final = 1.3
WHOLE: Final = 1_000
PER_MILLI: Final = 16 * MIB
"""A card of the trace has a thousand shares; so many bytes stand for one."""


@cache
def nodes() -> tuple[int, ...]:
    """The cards of each node."""
    with (DATA / "openb_nodes.csv").open(newline="") as file:
        return tuple(int(row["gpu"]) for row in csv.DictReader(file))


@cache
def pods() -> tuple[tuple[int, int], ...]:
    """Of each pod that wants cards, how many and how much of each, in thousandths."""
    with (DATA / "openb_pods.csv").open(newline="") as file:
        wanted = ((int(row["num_gpu"]), int(row["gpu_milli"])) for row in csv.DictReader(file))
        return tuple(each for each in wanted if each[0])


def allocated(seed: int, share: float = 1.0) -> float:
    """The share of the cards allocated at the end, with that share of the nodes."""
    rng = Random(seed)
    kept = nodes()[:: round(1 / share)]
    cluster, total = _Cluster(kept), sum(kept) * WHOLE
    asked = taken = 0
    while asked < ASKED * total:
        count, milli = rng.choice(pods())
        asked += count * milli
        taken += count * milli if cluster.place(count, milli) else 0
    return taken / total


class _Cluster:
    def __init__(self, kept: tuple[int, ...]) -> None:
        self._residency = Residency(Demand(), Horizon())
        self._cards: dict[str, Candidate] = {}
        for node, count in enumerate(kept):
            for index in range(count):
                self._see(Candidate(f"node{node:04d}", index, f"{node}:{index}", WHOLE * PER_MILLI, WHOLE * PER_MILLI))

    def place(self, count: int, milli: int) -> bool:
        """Whether the request found room."""
        wish = Wish("pod", milli * PER_MILLI, cards=count)
        if count > 1:
            chosen = picks(wish, self._cards.values())
        else:
            room = self._residency.room(wish, 50, 0.0)
            chosen = () if room is None else (room.card,)
        for card in chosen:
            left = card.grantable_bytes - wish.need_bytes
            self._see(msgspec.structs.replace(card, grantable_bytes=left))
        return bool(chosen)

    def _see(self, card: Candidate) -> None:
        self._cards[card.uuid] = card
        self._residency.see(card)
