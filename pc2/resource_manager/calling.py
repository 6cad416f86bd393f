"""Calls to the supervisors: performs what the planner asks of them, and forwards what only they can answer.

Nothing is sent twice from here: whether an ask may be repeated is the planner's knowledge, and a forwarded verb is its caller's.
It decides nothing about leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, TypeVar

from common.api.leases import RELEASE_LEASE
from common.api.supervisor import ADMIT_LEASE
from common.api.words import Message, Verb
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.errors import Internal, NotFound, TandemError
from common.service.call import Call
from common.service.shell import Shell
from pc2.resource_manager.events import Admitted, Refused, Returned
from pc2.resource_manager.instructions import AskSupervisor, ReturnLease, WithdrawAsk
from pc2.resource_manager.planner import MIDWAY
from pc2.resource_manager.turns import Turns

SUPERVISOR: Final = "Supervisor/"
LIVE_S: Final = 1.0
"""How long a list waits for a supervisor before it shows what was last known."""
FORWARD_S: Final = 3.0
"""How long a renewal or a release waits for its supervisor, where its caller has no less."""

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)


class Calling:
    """The supervisors of the directory; `turns` is set before the first ask.

    An answer to an ask is waited for `answer_s`, and for as long beyond it as the supervisor may have others go for it.
    """

    turns: Turns

    def __init__(self, shell: Shell, client: AsyncClient, directory: Directory, answer_s: float) -> None:
        self._shell = shell
        self._client = client
        self._hosts = tuple(name.removeprefix(SUPERVISOR) for name in directory.names() if name.startswith(SUPERVISOR))
        self._answer_s = answer_s
        self._open: set[asyncio.Task[None]] = set()
        self._asks: dict[str, asyncio.Task[None]] = {}

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that have a supervisor."""
        return self._hosts

    def ask(self, asked: AskSupervisor) -> None:
        """Has a supervisor admit a lease; its answer is told later, never from within this call."""
        lease_id = asked.request.lease_id
        task = self._asks[lease_id] = self._begin(self._ask(asked), f"admit_lease at {asked.host}")
        task.add_done_callback(partial(self._answered, lease_id))

    def _answered(self, lease_id: str, task: asyncio.Task[None]) -> None:
        if self._asks.get(lease_id) is task:  # else it was asked again meanwhile, and that ask can be withdrawn still
            del self._asks[lease_id]

    def withdraw(self, withdrawn: WithdrawAsk) -> None:
        """Leaves a supervisor's line: nobody waits for the lease any more. What became of the ask is not told."""
        task = self._asks.pop(withdrawn.lease_id, None)
        if task is not None:
            task.cancel()

    def give_back(self, returned: ReturnLease) -> None:
        """Has a supervisor release a lease that nobody wants; its answer is told later."""
        self._begin(self._give_back(returned), f"release_lease at {returned.host}")

    async def finish(self, within_s: float) -> None:
        """Waits for the asks under way; what is still open after `within_s` is the next life's to find out."""
        if self._open:
            await asyncio.wait(list(self._open), timeout=within_s)

    async def forward(self, host: str, verb: Verb[Req, Rep], request: Req, call: Call) -> tuple[str, Rep]:
        """What the host's supervisor answers, and the host; an empty host is whichever knows the lease.

        Raises its error; of several, the one of a host that knows the lease, else of one that might.
        """
        timeout_s = call.budget_s(self._shell.clock.monotonic(), FORWARD_S)
        answers = await self._all([host] if host else self.hosts, verb, lambda _: request, timeout_s)
        for each, answer in answers.items():
            if not isinstance(answer, TandemError):
                return each, answer
        raise min((error for error in answers.values() if isinstance(error, TandemError)), key=_distance)

    async def ask_all(
        self, host: str, verb: Verb[Req, Rep], request: Callable[[str], Req]
    ) -> dict[str, Rep | TandemError]:
        """What each supervisor, or one host's, answers now; NotFound for a host that has none."""
        if host and host not in self._hosts:
            raise NotFound(f"no host {host!r}; there are {', '.join(self._hosts)}")
        return await self._all([host] if host else self.hosts, verb, request, LIVE_S)

    async def ask_each(
        self, hosts: Iterable[str], verb: Verb[Req, Rep], request: Callable[[str], Req]
    ) -> dict[str, Rep | TandemError]:
        """What each of these hosts' supervisors answers now."""
        return await self._all(hosts, verb, request, LIVE_S)

    async def _all(
        self, hosts: Iterable[str], verb: Verb[Req, Rep], request: Callable[[str], Req], timeout_s: float
    ) -> dict[str, Rep | TandemError]:
        hosts = tuple(hosts)
        answers = await asyncio.gather(*(self._one(host, verb, request(host), timeout_s) for host in hosts))
        return dict(zip(hosts, answers, strict=True))

    async def _one(self, host: str, verb: Verb[Req, Rep], request: Req, timeout_s: float) -> Rep | TandemError:
        try:
            reply = await self._at(host, verb, request, timeout_s)
        except TandemError as error:
            return error
        return reply

    async def _at(self, host: str, verb: Verb[Req, Rep], request: Req, timeout_s: float) -> Rep:
        return await self._client.call(f"{SUPERVISOR}{host}", verb, request, timeout_s=timeout_s, idempotent=False)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._shell.spawn(work, name)
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    async def _ask(self, asked: AskSupervisor) -> None:
        lease_id = asked.request.lease_id
        try:
            patience_s = self._answer_s + asked.request.wait_s
            granted = await self._once(asked.host, ADMIT_LEASE, asked.request, patience_s)
        except TandemError as error:
            self.turns.tell(Refused(lease_id, asked.attempt, error))
        else:
            self.turns.tell(Admitted(lease_id, granted))

    async def _give_back(self, returned: ReturnLease) -> None:
        lease_id = returned.request.lease_id
        try:
            await self._once(returned.host, RELEASE_LEASE, returned.request, self._answer_s)
        except TandemError as error:
            self.turns.tell(Returned(lease_id, error))
        else:
            self.turns.tell(Returned(lease_id))

    async def _once(self, host: str, verb: Verb[Req, Rep], request: Req, patience_s: float) -> Rep:
        try:
            reply = await self._at(host, verb, request, patience_s)
        except (TandemError, asyncio.CancelledError):
            raise
        except Exception as bug:
            self._shell.log.exception("%s at %s failed inside the service", verb.name, host)
            raise Internal(f"{verb.name} at {host} failed inside the service: {type(bug).__name__}") from bug
        return reply


def _distance(error: TandemError) -> int:
    """How far its host may be from knowing the lease: it does, it could not be asked, it does not."""
    if isinstance(error, NotFound):
        return 2
    return 1 if error.retryable or isinstance(error, MIDWAY) else 0
