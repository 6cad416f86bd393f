"""One round of dispatch: gives waiting requests to agents by the one dispatch rule, as far as agents are free.

The queues of all capabilities are merged by rank, so the most urgent request goes first whatever it asks for. The head of a queue
that has to wait holds up its own capability and no other, for all behind it want the same agents; a request that waits out a
back-off is passed over. What the round has given away counts, though nothing is applied before it ends. A round gives
MOST_SENDS requests at most and says whether there may be more to give, so that thousands that find many agents free hold
nobody up.

A queue for which nobody is left or expected waits `nobody_s` more, so that agents may come back after a restart of theirs or
of this service, and then ends as `failed: no_provider`.

It changes nothing and sends nothing.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Final

from common.dispatch.provider import Offer, Offers, Provider
from common.dispatch.rule import Candidate, Chosen, Wait, Wish, choose
from common.errors import Code
from main_pc.core_orchestrator.capabilities import payload_of
from main_pc.core_orchestrator.instructions import Decision, Send
from main_pc.core_orchestrator.request_book import Place, Request, RequestBook, end_of
from main_pc.core_orchestrator.request_facts import Fact, QueueStalled, RequestStarted

MOST_SENDS: Final = 64

EXPECTED = "its agent is starting"
NOBODY = "no agent offers it any more"

Cursor = tuple[Place, str, int]
"""A request's place, its capability, and its index in that capability's queue."""


class Round:
    """One round at `now` (monotonic seconds; `at` in RFC 3339)."""

    def __init__(self, book: RequestBook, now: float, at: str, offers: Offers) -> None:
        self._book, self._now, self._at = book, now, at
        self._offers: dict[str, Offer] = {capability: offers(capability) for capability in book.queues}
        self._candidates = {
            capability: {provider.name: self._candidate(provider) for provider in offer.providers}
            for capability, offer in self._offers.items()
        }
        self._facts: list[Fact] = []
        self._sends: list[Send] = []

    def play(self) -> Decision:
        """The facts and sends of this round; played once."""
        heads: list[Cursor] = [(queue[0], capability, 0) for capability, queue in self._book.queues.items()]
        heapify(heads)
        while heads and len(self._sends) < MOST_SENDS:
            place, capability, index = heappop(heads)
            if not self._passes(self._book.active[place[2]]):
                continue
            queue = self._book.queues[capability]
            if index + 1 < len(queue):
                heappush(heads, (queue[index + 1], capability, index + 1))
        return Decision(tuple(self._facts), tuple(self._sends), more=bool(heads))

    def _passes(self, request: Request) -> bool:
        """Deals with one request; False holds up the rest of its queue."""
        if request.not_before > self._now or request.deadline <= self._now:
            return True
        offer = self._offers[request.asked.capability]
        candidates = self._candidates[request.asked.capability]
        match choose(Wish(request.asked.host, request.tried), candidates.values(), self._now):
            case Chosen(name):
                self._give(request, next(provider for provider in offer.providers if provider.name == name))
                return True
            case Wait(_, detail):
                self._stall(request, detail, nobody=False)
            case _:
                self._unoffered(request, expected=offer.expected)
        return False

    def _candidate(self, provider: Provider) -> Candidate:
        return provider.candidate(self._book.in_flight(provider.name), self._book.last_used(provider.name))

    def _give(self, request: Request, provider: Provider) -> None:
        request_id, attempt = request.asked.request_id, request.attempts + 1
        self._count(provider.name, turn=self._book.turn + len(self._sends) + 1)
        self._facts.append(
            RequestStarted(
                request_id=request_id, agent_name=provider.name, attempt=attempt, idempotent=provider.idempotent
            )
        )
        self._sends.append(
            Send(request_id, attempt, provider.name, provider.verb, payload_of(request.asked), request.deadline)
        )

    def _count(self, agent_name: str, turn: int) -> None:
        """One more is in flight to the agent, for whichever of its capabilities."""
        for candidates in self._candidates.values():
            known = candidates.get(agent_name)
            if known is not None:
                candidates[agent_name] = replace(known, in_flight=known.in_flight + 1, last_used=turn)

    def _stall(self, request: Request, reason: str, *, nobody: bool) -> None:
        capability = request.asked.capability
        known = self._book.stalls.get(capability)
        if known is None or (known.reason, known.nobody) != (reason, nobody):
            self._facts.append(QueueStalled(capability=capability, reason=reason, nobody=nobody))

    def _unoffered(self, request: Request, *, expected: bool) -> None:
        stall = self._book.stalls.get(request.asked.capability)
        if expected:
            self._stall(request, EXPECTED, nobody=False)
        elif stall is None or not stall.nobody or self._now - stall.since < self._book.limits.nobody_s:
            self._stall(request, NOBODY, nobody=True)
        else:
            self._abandon(request.asked.capability)

    def _abandon(self, capability: str) -> None:
        error = f"{NOBODY}, and nobody came within {self._book.limits.nobody_s:g} s"
        for _, _, request_id in self._book.queues[capability]:
            request = self._book.active[request_id]
            self._facts.append(end_of(request, "failed", self._at, code=Code.NO_PROVIDER, error=error))
