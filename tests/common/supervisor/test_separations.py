"""What a host did alone: each deed falls into every separation that lasted when it was done, over restarts too."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.supervisor.separations import KEPT, SEPARATIONS, Separations

PEERS = ("pc2", "pc3")


class Alone(RuleBasedStateMachine):
    """A host that does things, loses peers and finds them, and is killed; a tally of its own says what must be told."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.separations = Separations()
        self.counts: dict[str, int] = {}
        self.now = 0.0
        self.wall = 1_000.0
        self.lost: dict[str, dict[str, int]] = {}
        self.over: list[tuple[str, dict[str, int]]] = []

    def keep(self, changes: list) -> None:  # type: ignore[type-arg]
        self.store.commit(changes, Durability.NORMAL)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        self.keep(self.separations.tick(self.now, self.counts))

    @rule(step=st.floats(-1e5, 1e5))
    def the_wall_clock_is_set(self, step: float) -> None:
        self.wall = max(0.0, self.wall + step)

    @rule(deed=st.sampled_from(["leases granted", "look-ups answered"]))
    def something_is_done(self, deed: str) -> None:
        self.counts[deed] = self.counts.get(deed, 0) + 1
        for deeds in self.lost.values():
            deeds[deed] = deeds.get(deed, 0) + 1

    @rule(peer=st.sampled_from(PEERS))
    def a_peer_is_lost(self, peer: str) -> None:
        self.keep(self.separations.lost(peer, "no answer", self.now, self.wall, self.counts))
        self.lost.setdefault(peer, {})

    @rule(peer=st.sampled_from(PEERS))
    def a_peer_is_back(self, peer: str) -> None:
        self.keep(self.separations.back(peer, self.now, self.counts))
        if peer in self.lost:
            self.over.append((peer, self.lost.pop(peer)))

    @rule()
    def the_supervisor_is_killed(self) -> None:
        self.keep(self.separations.tick(self.now, self.counts))
        self.separations = Separations(one for _, one in SEPARATIONS.load(self.store))
        self.counts, self.now = {}, 0.0
        for peer in list(self.lost):
            self.keep(self.separations.lost(peer, "still no answer", self.now, self.wall, self.counts))

    @invariant()
    def what_is_told_is_what_was_done(self) -> None:
        told = self.separations.told("", 100, self.now, self.counts)
        lasting = {one.peer: one.deeds for one in told if not one.ended_at}
        assert lasting == self.lost
        over = sorted((one.peer, sorted(one.deeds.items())) for one in told if one.ended_at)
        expected = sorted((peer, sorted(deeds.items())) for peer, deeds in self.over)
        assert over == expected or len(self.over) > KEPT - len(PEERS)
        assert all(one.lasted_s >= 0 for one in told)


TestAlone = Alone.TestCase


def test_a_separation_tells_how_long_it_lasted_why_and_of_whom() -> None:
    separations = Separations()
    separations.lost("pc2", "no answer", 10.0, 1_000.0, {"leases granted": 5})
    separations.lost("pc3", "no answer", 12.0, 1_002.0, {"leases granted": 5})
    separations.back("pc2", 15.5, {"leases granted": 7})
    (first,) = separations.told("pc2", 10, 20.0, {"leases granted": 9})
    assert (first.peer, first.reason, first.lasted_s, first.deeds) == ("pc2", "no answer", 5.5, {"leases granted": 2})
    assert (first.began_at, first.ended_at) == ("1970-01-01T00:16:40.000Z", "1970-01-01T00:16:45.500Z")
    assert [one.peer for one in separations.told("", 10, 20.0, {})] == ["pc3", "pc2"]
    assert [one.peer for one in separations.told("", 1, 20.0, {})] == ["pc3"]


def test_a_peer_that_came_back_between_two_lives_ends_the_separation() -> None:
    store, former = MemoryStore(), Separations()
    store.commit(former.lost("pc2", "no answer", 0.0, 1_000.0, {}), Durability.NORMAL)
    store.commit(former.tick(60.0, {"leases granted": 3}), Durability.NORMAL)
    new = Separations(one for _, one in SEPARATIONS.load(store))
    assert new.told("", 10, 0.0, {})[0].ended_at == ""
    store.commit(new.back("pc2", 1.0, {"leases granted": 9}), Durability.NORMAL)
    (told,) = new.told("", 10, 1.0, {})
    assert (told.lasted_s, told.deeds, bool(told.ended_at)) == (60.0, {"leases granted": 3}, True)
    assert new.back("pc2", 2.0, {}) == []


def test_the_oldest_are_forgotten_and_one_that_lasts_never_is() -> None:
    store, separations = MemoryStore(), Separations()
    store.commit(separations.lost("pc3", "gone for good", 0.0, 0.0, {}), Durability.NORMAL)
    for number in range(KEPT + 10):
        store.commit(separations.lost("pc2", str(number), number, number, {}), Durability.NORMAL)
        store.commit(separations.back("pc2", number + 0.5, {}), Durability.NORMAL)
    kept = [one for _, one in SEPARATIONS.load(store)]
    assert KEPT <= len(kept) <= KEPT + 1
    assert kept[0].reason == "gone for good"
    assert kept[-1] == msgspec.structs.replace(kept[-1], reason=str(KEPT + 9), over=True)
