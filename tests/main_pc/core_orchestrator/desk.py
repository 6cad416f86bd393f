"""A stand-in for the shell: applies, commits and performs what the rules decide, on a manual clock."""

from __future__ import annotations

from typing import Any

from common.api.core_orchestrator import RequestStatus, SubmitRequest
from common.dispatch.provider import Offer, Provider
from common.errors import TandemError
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from main_pc.core_orchestrator.instructions import Decision, Send, Withdraw
from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.request_facts import load, rows
from main_pc.core_orchestrator.request_limits import Limits
from main_pc.core_orchestrator.requests import Caller, Requests

AT = "2026-01-01T00:00:00Z"


def provider(name: str = "a", **changes: Any) -> Provider:
    known: dict[str, Any] = {
        "host": "mainpc",
        "liveness": "alive",
        "verb": "text",
        "idempotent": True,
        "concurrency": 1,
    }
    return Provider(name=name, **(known | changes))


class Desk:
    """One CoreOrchestrator without a network; `agents` are the providers of each capability."""

    def __init__(self, limits: Limits | None = None, **agents: list[Provider]) -> None:
        self.store = MemoryStore()
        self.book = RequestBook(limits)
        self.requests = Requests(self.book)
        self.agents: dict[str, list[Provider]] = agents
        self.expected: set[str] = set()
        self.now = 0.0
        self.sent: list[Send] = []
        self.withdrawn: list[Withdraw] = []
        self.published: list[RequestStatus] = []
        self.facts: list[tuple[Any, float]] = []
        self.names = 0

    def offers(self, capability: str) -> Offer:
        return Offer(tuple(self.agents.get(capability, ())), capability in self.expected)

    def offered(self, capability: str) -> bool:
        return bool(self.agents.get(capability)) or capability in self.expected

    def perform(self, decision: Decision) -> Decision:
        changes = []
        for fact in decision.facts:
            self.facts.append((fact, self.now))
            status = self.book.apply(fact, self.now)
            changes += rows(fact)
            self.published += [status] if status else []
        self.store.commit(changes, Durability.NORMAL)
        for instruction in decision.instructions:
            if isinstance(instruction, Send):
                self.sent.append(instruction)
            else:
                self.withdrawn.append(instruction)
        return decision

    def submit(self, capability: str = "text", caller: Caller | None = None, **fields: Any) -> str:
        self.names += 1
        asked = SubmitRequest(capability=capability, **fields)
        submitted = self.requests.submit(
            asked, caller or Caller("me", "mainpc"), request_id=f"req-{self.names}", offered=self.offered, at=AT
        )
        self.perform(submitted.decision)
        return submitted.request_id

    def dispatch(self) -> list[Send]:
        before = len(self.sent)
        self.perform(self.requests.dispatch(self.now, AT, self.offers))
        return self.sent[before:]

    def answer(self, send: Send, result: Any = "yes") -> None:
        self.perform(self.requests.answered(send.request_id, send.attempt, result, AT))

    def fail(self, send: Send, error: TandemError) -> None:
        self.perform(self.requests.failed(send.request_id, send.attempt, error, AT))

    def lose(self, agent_name: str) -> None:
        self.perform(self.requests.agent_lost(agent_name, AT))

    def cancel(self, request_id: str) -> None:
        self.perform(self.requests.cancel(request_id, AT))

    def expire(self) -> None:
        self.perform(self.requests.expire(self.now, AT))

    def trim(self) -> None:
        self.perform(self.requests.trim(self.now))

    def restart(self, live: tuple[tuple[str, int], ...] = ()) -> None:
        self.book.load(load(self.store), self.now)
        self.perform(self.requests.resume(AT, live))

    def status(self, request_id: str) -> RequestStatus:
        return self.book.status(request_id)
