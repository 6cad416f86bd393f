"""Requests in flight: takes them in, lets the rules decide, makes the facts durable, and performs what was decided.

One turn is: decide, write the facts' rows and apply them; after the commit, publish, tell those who stay, and call agents. An
agent's outcome is kept until its fact is durable, so a full disk loses no answer that was heard.

It decides nothing itself: `requests` does, on the book.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from common.api.core_orchestrator import REQUESTS_CHANGED, RequestChanged, RequestId, RequestStatus, SubmitRequest
from common.client.aio import AsyncClient
from common.dispatch.provider import Offer
from common.errors import NotFound, StorageUnavailable, TandemError
from common.ids import new_id
from common.registry.location import Routes
from common.service.call import Call
from common.service.shell import Shell
from main_pc.core_orchestrator.calling import Calling, Key
from main_pc.core_orchestrator.capabilities import providers_of
from main_pc.core_orchestrator.instructions import Decision, Send
from main_pc.core_orchestrator.registry import Registry
from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.request_facts import rows
from main_pc.core_orchestrator.requests import Caller, Requests
from main_pc.core_orchestrator.staying import Staying
from main_pc.core_orchestrator.turns import Turns

FINISH_S: Final = 2.0
"""How long calls under way and those who wait for them keep a service from stopping."""


class Dispatching:
    """The shell around `requests`; `expected` says whether an agent that is configured or restarting offers a capability."""

    def __init__(
        self,
        shell: Shell,
        turns: Turns,
        book: RequestBook,
        registry: Registry,
        client: AsyncClient,
        routes: Routes,
        expected: Callable[[str], bool],
    ) -> None:
        self._shell = shell
        self._turns = turns
        self._book = book
        self._registry = registry
        self._expected = expected
        self._requests = Requests(book)
        self._staying = Staying(book, shell.clock)
        self._calling = Calling(shell, client, registry, routes, self._ended, self._part)
        self._unreported: dict[Key, tuple[Send, object]] = {}
        self._must_resume = True
        self._stopping = False

    # what callers ask

    async def submit(self, asked: SubmitRequest, call: Call) -> RequestStatus:
        """submit_request: answers once it is durable, or where waiting is asked, when it ended or the time is over."""
        self._shell.journal.begin()
        caller = Caller(call.identity, call.host)
        submitted = self._requests.submit(
            asked, caller, request_id=new_id("req", self._shell.rng), offered=self._offered, at=self._turns.at()
        )
        self._take(submitted.decision)
        self.dispatch()
        await self._shell.journal.committed()
        if asked.wait:
            await self._staying.until_ended(submitted.request_id, call, asked.wait_s)
        return self._status(submitted.request_id)

    def get(self, asked: RequestId, _call: Call) -> RequestStatus:
        """get_request."""
        return self._status(asked.request_id)

    def cancel(self, asked: RequestId, _call: Call) -> RequestStatus:
        """cancel_request."""
        self._shell.journal.begin()
        self._take(self._requests.cancel(asked.request_id, self._turns.at()))
        self.dispatch()
        return self._status(asked.request_id)

    # what happens meanwhile

    def dispatch(self) -> None:
        """Give waiting requests to agents that are free: an agent or a request came, or one was done."""
        if self._shell.journal.able and not self._stopping and self._book.queues:
            decision = self._requests.dispatch(self._turns.now(), self._turns.at(), self._offers)
            self._take(decision)
            if decision.more:
                self._shell.loop.call_soon(self.dispatch)

    def agent_lost(self, agent_name: str) -> None:
        """The agent is gone with what it worked on; while nothing can be committed, `tick` sees to it later."""
        calls = list(self._book.calls_to(agent_name))
        if not calls or not self._shell.journal.able:
            return
        self._take(self._requests.agent_lost(agent_name, self._turns.at()), lambda: self._calling.lose(calls))

    def tick(self) -> None:
        """What time alone brings about; called several times a second."""
        if not self._shell.journal.able:
            return
        if self._must_resume:
            self.resume()
        for send, outcome in list(self._unreported.values()):
            self._report(send, outcome)
        self._take(self._requests.expire(self._turns.now(), self._turns.at()))
        for agent_name in set(self._book.calls.values()):
            if self._is_expired(agent_name):
                self.agent_lost(agent_name)
        self.dispatch()

    def trim(self) -> None:
        """Let go of what is no longer kept; called now and then."""
        if self._shell.journal.able:
            self._take(self._requests.trim(self._turns.now()))

    def loaded(self) -> None:
        """The book was loaded anew: calls that are not under way here are interrupted in the next turn."""
        self._must_resume = True

    def resume(self) -> None:
        """Interrupt the runs that nobody here hears any more."""
        self._must_resume = False
        live = {*self._calling.open, *self._unreported}
        self._take(self._requests.resume(self._turns.at(), live))

    async def finish(self) -> None:
        """Send nothing more, let calls under way end for FINISH_S, then answer everyone with the state as it stands.

        What is still running then is interrupted by the next life of the service.
        """
        self._stopping = True
        await self._calling.finish(FINISH_S)
        self._staying.dismiss()
        await asyncio.sleep(0)

    @property
    def active(self) -> int:
        """Requests waiting or running."""
        return len(self._book.active)

    @property
    def calls(self) -> int:
        """Calls to agents under way."""
        return len(self._calling.open)

    # inside

    def _status(self, request_id: str) -> RequestStatus:
        self._shell.journal.look()
        return self._book.status(request_id)

    def _offered(self, capability: str) -> bool:
        return self._registry.offers(capability) or self._expected(capability)

    def _offers(self, capability: str) -> Offer:
        providers = providers_of(capability, self._registry.offering(capability), self._calling.breaker_of)
        return Offer(providers, expected=not providers and self._expected(capability))

    def _is_expired(self, agent_name: str) -> bool:
        try:
            return self._registry.entry(agent_name).liveness == "expired"
        except NotFound:
            return False

    def _part(self, request_id: str, attempt: int, part: Any) -> None:
        if self._book.runs(request_id, attempt):
            self._staying.part(request_id, part)

    def _ended(self, send: Send, outcome: object) -> None:
        self._unreported[send.request_id, send.attempt] = (send, outcome)
        if self._shell.journal.able:
            self._report(send, outcome)
            self.dispatch()

    def _report(self, send: Send, outcome: object) -> None:
        key, at = (send.request_id, send.attempt), self._turns.at()
        if isinstance(outcome, TandemError):
            decision = self._requests.failed(*key, outcome, at)
        else:
            decision = self._requests.answered(*key, outcome, at)
        self._take(decision, lambda: self._unreported.pop(key, None))

    def _take(self, decision: Decision, then: Callable[[], object] = lambda: None) -> None:
        """Make a decision true: its facts now, and after their commit its instructions and `then`."""
        now = self._turns.now()
        self._shell.journal.write([change for fact in decision.facts for change in rows(fact)])
        changed = [status for fact in decision.facts if (status := self._book.apply(fact, now)) is not None]
        for status in changed:
            self._turns.publish(REQUESTS_CHANGED, status.request_id, RequestChanged(status=status))

        def act(failure: StorageUnavailable | None) -> None:
            if failure is None:
                then()
                self._act(decision, changed)

        self._shell.journal.hold(act)

    def _act(self, decision: Decision, changed: list[RequestStatus]) -> None:
        for status in changed:
            self._staying.told(status)
        for instruction in decision.instructions:
            if isinstance(instruction, Send):
                self._calling.start(instruction)
            else:
                self._calling.withdraw((instruction.request_id, instruction.attempt))
