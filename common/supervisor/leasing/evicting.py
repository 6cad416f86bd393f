"""Evictions under way on one host: one ladder for each order, driven by looks at the cards, clocks and what was answered.

Orders run side by side, also on one card. What each rung is and when it is done the pure ladder decides (common/vram/ladder.py);
this shell performs its acts aside, asks for looks, notices when an owner has ended, and tells at the end what came of it. It
chooses no victim and ends no lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from common.api.decisions import Rung, RungName
from common.errors import Unavailable
from common.gpu import process_identity
from common.gpu.process_identity import ExitWatch
from common.resilience.polling import Polling
from common.service.shell import Shell
from common.supervisor.leasing.rung_acts import FindUnloader, NotParked, RungActs, describe, nobody, parks
from common.supervisor.leasing.sampling import Look as CardLook
from common.vram.cards import ProcessId
from common.vram.ladder import (
    Act,
    Action,
    Answered,
    Event,
    Finish,
    Ladder,
    Look,
    Looked,
    Outcome,
    OwnerGone,
    Target,
    Tick,
)
from common.vram.lease_decision import EvictionOrder
from common.vram.rungs import DEFAULT, LadderPolicy, rungs_for
from common.vram.sight import Sight

POLLING: Final = Polling(soonest_s=0.002, slowest_s=0.05)
"""When an eviction asks for a look, and sees whether its owner lives: 2, 4, 8 ms and so on after each act, answer and end."""
CLOSE_S: Final = 2.0

Done = Callable[[EvictionOrder, Outcome, list[Rung]], None]


class _Eviction:
    """One order under way."""

    def __init__(self, order: EvictionOrder, ladder: Ladder, sight: Sight, bound_s: float) -> None:
        self.order = order
        self.ladder = ladder
        self.sight = sight
        self.bound_s = bound_s
        self.since = 0.0
        self.gone = False
        self.acts: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.watch: ExitWatch | None = None

    def end(self) -> None:
        """Nothing more is done about it."""
        for act in self.acts:
            act.cancel()
        if self.timer is not None:
            self.timer.cancel()
        if self.watch is not None:
            self.watch.close()


class Evictor:
    """Carries orders out; `done` is called once for each, in a turn of the loop of its own, unless it is closed before.

    `look_soon` has the cards looked at, and `looked` is to be told of every look. `unloader` finds whoever knows an order's owner
    better than its lease does, `not_parked` says why an order's weights do not fit into host RAM after all.
    """

    def __init__(
        self,
        shell: Shell,
        look_soon: Callable[[], None],
        done: Done,
        unloader: FindUnloader = nobody,
        policy: LadderPolicy = DEFAULT,
        not_parked: NotParked = parks,
    ) -> None:
        self._loop = shell.loop
        self._log = shell.log
        self._now = shell.clock.monotonic
        self._acts = RungActs(shell.context, shell.clock, unloader, not_parked)
        self._look_soon = look_soon
        self._done = done
        self._policy = policy
        self._last: CardLook | None = None
        self._evictions: list[_Eviction] = []
        self._untold: list[_Eviction] = []
        self._ended: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._evictions)

    def concerns(self, owner: ProcessId) -> bool:
        """Whether an eviction from this owner is under way: what its end means is then seen on the card."""
        return any(eviction.order.owner == owner for eviction in (*self._evictions, *self._untold))

    def evict(self, order: EvictionOrder) -> float:
        """Begins, unless one of these leases' evictions is under way; the seconds it takes at most, in all."""
        for other in (*self._evictions, *self._untold):
            if not set(other.order.lease_ids).isdisjoint(order.lease_ids):
                return other.bound_s
        eviction = self._eviction(order, rungs_for(self._acts.means(order)))
        self._evictions.append(eviction)
        self._watch(eviction)
        self._perform(eviction, eviction.ladder.begin())
        return eviction.bound_s

    def looked(self, look: CardLook) -> None:
        """Takes in a look at the cards."""
        self._last = look
        for eviction in list(self._evictions):
            self._see_owner(eviction)
            self._feed(eviction, eviction.sight.look(look.samples, look.tree, look.began_at))

    async def close(self) -> None:
        """Leaves every eviction as it is; what was under way is not told of any more."""
        self._closed = True
        acts = {act for eviction in self._evictions for act in eviction.acts} | self._ended
        for eviction in self._evictions:
            eviction.end()
        self._evictions.clear()
        if acts:
            await asyncio.wait(acts, timeout=CLOSE_S)

    def _eviction(self, order: EvictionOrder, rungs: tuple[RungName, ...]) -> _Eviction:
        policy, asked, cards = self._policy, order.unload, _cards(order)
        sight, last = Sight(order.owner, cards), self._last
        seen = Looked(0.0, None, None) if last is None else sight.look(last.samples, last.tree, last.began_at)
        ask_s = policy.ask_s if asked is None else min(asked.timeout_s, policy.longest_ask_s)
        target = Target(
            owner=order.owner,
            rungs=rungs,
            expected_bytes=order.expected_bytes * len(cards),
            held_bytes=seen.owner_bytes,
            free_bytes=seen.free_bytes,
            keep_bytes=order.keep_bytes,
            residual_bytes=order.residual_bytes * len(cards),
            ask_s=ask_s,
        )
        return _Eviction(order, Ladder(target, policy, self._now()), sight, policy.longest_s(rungs, ask_s))

    def _watch(self, eviction: _Eviction) -> None:
        owner = eviction.order.owner
        if owner is None:
            return
        try:
            eviction.watch = process_identity.watch_exit(*owner, self._loop, partial(self._see_owner, eviction))
        except Unavailable as error:
            self._log.info("%s; it is looked at instead", error.message)

    def _see_owner(self, eviction: _Eviction) -> None:
        """Tells the ladder once none of the owner's processes lives."""
        if eviction.gone or eviction.order.owner is None:
            return
        if not any(process_identity.is_alive(*member) for member in eviction.sight.members):
            eviction.gone = True
            self._feed(eviction, OwnerGone())
            self._arm_anew(eviction)

    def _tick(self, eviction: _Eviction) -> None:
        self._see_owner(eviction)
        self._feed(eviction, Tick())
        self._arm(eviction)

    def _arm_anew(self, eviction: _Eviction) -> None:
        """Something happened whose effect may be seen at any moment now: it is looked for soon, and then ever later."""
        eviction.since = self._now()
        self._arm(eviction)

    def _arm(self, eviction: _Eviction) -> None:
        if eviction.timer is not None:
            eviction.timer.cancel()
        if eviction.ladder.outcome is None and not self._closed:
            now = self._now()
            left_s = max(0.0, eviction.ladder.next_at - now)
            pause_s = min(POLLING.pause_s(now - eviction.since), left_s)
            eviction.timer = self._loop.call_later(pause_s, self._tick, eviction)

    def _feed(self, eviction: _Eviction, event: Event) -> None:
        self._perform(eviction, eviction.ladder.step(event, self._now()))

    def _perform(self, eviction: _Eviction, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Act(rung):
                    self._begin(eviction, rung)
                case Look() if not eviction.order.card_uuid:
                    self._loop.call_soon(self._see_nothing, eviction)
                case Look():
                    self._look_soon()
                case Finish(outcome):
                    self._finish(eviction, outcome)

    def _see_nothing(self, eviction: _Eviction) -> None:
        """Of what is of no card none has to be looked at: there is nothing to see."""
        if eviction in self._evictions:
            self._feed(eviction, Looked(self._now(), 0, 0))

    def _begin(self, eviction: _Eviction, rung: RungName) -> None:
        leases = ", ".join(eviction.order.lease_ids)
        self._log.info("eviction of %s from %s: %s", leases, eviction.order.card_uuid, rung)
        act = self._loop.create_task(self._act(eviction, rung))
        eviction.acts.add(act)
        act.add_done_callback(eviction.acts.discard)
        self._arm_anew(eviction)

    async def _act(self, eviction: _Eviction, rung: RungName) -> None:
        order, members = eviction.order, eviction.sight.members
        within_s = self._policy.answer_s(rung, eviction.ladder.target.ask_s)
        try:
            async with asyncio.timeout(within_s):
                said = await self._acts.perform(rung, order, members)
            answered = Answered(rung, said.ok, said.text)
        except TimeoutError:
            answered = Answered(rung, False, f"no answer within {within_s:g} s")
        except Exception as error:
            answered = Answered(rung, False, describe(error))
        self._feed(eviction, answered)
        self._arm_anew(eviction)
        if rung == "kill" and eviction.ladder.outcome is None:
            await self._acts.keep_killing(members)

    def _finish(self, eviction: _Eviction, outcome: Outcome) -> None:
        self._evictions.remove(eviction)
        self._untold.append(eviction)  # until what came of it is written down nobody else may say how its leases ended
        self._ended |= eviction.acts
        for act in eviction.acts:
            act.add_done_callback(self._ended.discard)
        # An act that told the ladder its last word is this very task, and ends by itself.
        self._loop.call_soon(self._tell, eviction, outcome)

    def _tell(self, eviction: _Eviction, outcome: Outcome) -> None:
        eviction.end()
        self._untold.remove(eviction)
        if not self._closed:
            self._done(eviction.order, outcome, eviction.ladder.rungs())


def _cards(order: EvictionOrder) -> tuple[str, ...]:
    """The cards to look at: all of them where its owner is seen there and has nothing else, else the one that is needed.

    None for what is of no card.
    """
    if not order.card_uuid:
        return ()
    alone = order.held_bytes is not None and not order.keep_bytes and not order.spared
    return order.card_uuids if alone else (order.card_uuid,)
