"""The task queue on its loop: lets the rules decide, makes the facts durable, and performs what was decided.

One turn is: decide, apply the facts and write their rows; after the commit, publish, tell those who stay, and call agents. An
agent's outcome is kept until its fact is durable, so a full disk loses no answer that was heard.

It decides nothing itself: `queue` does, on the book.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from common.api.tasks import TASKS_CHANGED, TaskChanged
from common.client.agent_calls import AgentCalls, Work
from common.client.aio import AsyncClient
from common.client.verbs import verb_named
from common.dispatch.load import Call
from common.dispatch.provider import Offer
from common.errors import StorageUnavailable, TandemError, Unavailable
from common.service.journal import Journal
from common.service.shell import Shell
from common.store.protocol import RecordStore
from pc2.resource_manager.tasks import records, view
from pc2.resource_manager.tasks.book import TaskBook
from pc2.resource_manager.tasks.following import Following
from pc2.resource_manager.tasks.lending import Lending
from pc2.resource_manager.tasks.queue import Tasks
from pc2.resource_manager.tasks.staying import Staying
from pc2.resource_manager.tasks.task import ACTIVE, Decision, Moment, Send, Task

TICK_S: Final = 0.1
WAKE_S: Final = 0.5
"""How often those that wait look again without news of an agent: a breaker may let a call through."""
MOST_AT_ONCE: Final = 64
"""Tasks given away in a turn; more follow in the next, so that nobody else waits for long."""
MOST_IN_A_TICK: Final = 512
"""Tasks that expire, and as many that are forgotten, in a tick: more in a second than can be done in one."""


class Dispatching:
    """The shell around `queue`; what the book holds is made durable by `journal`, in `store`."""

    def __init__(
        self,
        shell: Shell,
        following: Following,
        client: AsyncClient,
        lending: Lending,
        book: TaskBook,
        tasks: Tasks,
        journal: Journal,
        store: RecordStore,
    ) -> None:
        self._shell = shell
        self._book = book
        self._tasks = tasks
        self._journal = journal
        self._store = store
        self._journal.prepare = self._loaded_aside
        self._calls = AgentCalls(client, shell.clock, shell.spawn)
        self._following = following
        self._lending = lending
        self.staying = Staying()
        self._unreported: dict[Call, object] = {}
        self._must_resume = False
        self._scheduled = False
        self._stopping = False

    # its life

    def load(self) -> None:
        """Begin from what the store holds; what nobody here hears of any more is run anew. StorageUnavailable."""
        records.load(self._store, self._book, self.moment())
        self._must_resume = True

    def _loaded_aside(self) -> Callable[[], None]:
        """The same after a failed commit, while the loop goes on: leases wait for no tasks. Called in a thread."""
        fresh = TaskBook(self._book.limits)
        records.load(self._store, fresh, self.moment())

        def adopt() -> None:
            self._book.become(fresh)
            self._must_resume = True

        return adopt

    def begin(self) -> None:
        """Follow the agents and dispatch until the shell ends."""
        self._following.begin(self)
        self._lending.begin(self._model_changed)
        self._shell.every(TICK_S, self._tick)
        self._shell.every(WAKE_S, self._look_again)

    async def finish(self, within_s: float) -> None:
        """Send nothing more, and let calls under way end; the next life runs anew what is still running then."""
        self._stopping = True
        await self._calls.finish(within_s)
        await self._lending.finish(within_s)
        self.staying.dismiss()
        await asyncio.sleep(0)

    @property
    def agents(self) -> dict[str, int]:
        """How many agents offer each capability."""
        return self._following.roster.counts()

    def moment(self) -> Moment:
        """Now."""
        clock = self._shell.clock
        return Moment(clock.monotonic(), clock.wall())

    def take(self, decision: Decision, then: Callable[[], object] = lambda: None) -> None:
        """Make a decision true: its facts now, and after their commit its instructions and `then`."""
        if not decision.facts:
            return
        moment = self.moment()
        changed: list[Task] = []
        for fact in decision.facts:
            task = self._book.apply(fact, moment)
            self._journal.write(records.rows(fact, task))
            if task is not None:
                changed.append(task)
        for task in changed:
            self._publish(task, "state")
        ended = [task.task_id for task in changed if task.state not in ACTIVE]

        def act(failure: StorageUnavailable | None) -> None:
            if failure is None:
                then()
                self._act(decision, ended)

        self._journal.hold(act)

    def dispatch(self) -> None:
        """Give waiting tasks to agents that are free; what is more than a turn's share follows in the next."""
        if not self._journal.able or self._must_resume or self._stopping:
            return
        moment = self.moment()
        for _ in range(MOST_AT_ONCE):
            if not self._book.lines.awake:
                break
            self.take(self._tasks.dispatch(moment, self._offers))
        if self._book.wants.news:
            self._lend()
        if self._book.lines.awake and not self._scheduled:
            self._scheduled = True
            self._shell.loop.call_soon(self._dispatch_on)

    def _dispatch_on(self) -> None:
        self._scheduled = False
        self.dispatch()

    # what agents bring about

    def woken(self, capabilities: Iterable[str]) -> None:
        """There may be an agent free for these."""
        self._book.lines.wake(capabilities)
        self.dispatch()

    def _look_again(self) -> None:
        """Lines for which there are agents; where nobody offers what they want only news of an agent can help."""
        self.woken(self._book.lines.stalled() & self.agents.keys())

    def agent_lost(self, agent_name: str) -> None:
        """The agent is gone with what it worked on; while nothing can be committed, its calls are heard out instead."""
        calls = self._book.calls.to(agent_name)
        if calls and self._journal.able:
            self.take(self._tasks.agent_lost(agent_name), lambda: self._calls.lose(calls))

    def _part(self, task_id: str, run: int, part: Any) -> None:
        if not self._book.runs(task_id, run):
            return
        self._book.hear(task_id, part)
        entry, now = self._book.entries[task_id], self._shell.clock.monotonic()
        if now - entry.told_at >= self._book.limits.progress_s:
            entry.told_at = now
            self._publish(entry.task, "progress")

    def _ended(self, send: Send, outcome: object) -> None:
        call = (send.task_id, send.run)
        self._unreported[call] = outcome
        if isinstance(outcome, Unavailable):
            self._following.doubt(send.agent_name)
        if self._journal.able:
            self._report(call, outcome)
            self._book.lines.wake(self._following.roster.offered_by(send.agent_name))
            self.dispatch()

    def _report(self, call: Call, outcome: object) -> None:
        if isinstance(outcome, TandemError):
            decision = self._tasks.failed(*call, outcome, self.moment())
        else:
            decision = self._tasks.answered(*call, outcome)
        self.take(decision, lambda: self._unreported.pop(call, None))

    # what models bring about

    def _lend(self) -> None:
        self._book.wants.news = False
        self._lending.look(self._book.wants.needs(self._book.lines))

    def _model_changed(self, model: str) -> None:
        """The model is there for tasks, or why it is not is told anew."""
        self._book.lines.wake_model(model)
        self._book.wants.news = True
        self.dispatch()

    # what time brings about

    def _tick(self) -> None:
        if not self._journal.able:
            return
        if self._must_resume:
            self._resume()
        for call, outcome in list(self._unreported.items()):
            if call in self._book.calls:
                self._report(call, outcome)
            elif not self._journal.dirty:
                del self._unreported[call]
        now = self._shell.clock.monotonic()
        self._repeat(lambda: self._tasks.expire(now))
        self._repeat(lambda: self._tasks.trim(now))
        self._book.lines.release(now)
        if self._book.wants or len(self._lending):
            self._book.wants.news = True
        self.dispatch()

    def _resume(self) -> None:
        self._must_resume = False
        self.take(self._tasks.resume({*self._calls.open, *self._unreported}))

    def _repeat(self, ask: Callable[[], Decision]) -> None:
        for _ in range(MOST_IN_A_TICK):
            decision = ask()
            if not decision.facts:
                return
            self.take(decision)

    # inside

    def _offers(self, capability: str) -> Offer:
        return Offer(self._following.roster.providers(capability, self._following.reach))

    def _act(self, decision: Decision, ended: list[str]) -> None:
        for task_id in ended:
            self.staying.told(task_id)
        for instruction in decision.instructions:
            if isinstance(instruction, Send):
                self._send(instruction)
            else:
                self._calls.withdraw((instruction.task_id, instruction.run))

    def _send(self, send: Send) -> None:
        if self._stopping:
            return
        self._calls.start(
            Work(
                call=(send.task_id, send.run),
                agent_name=send.agent_name,
                find=lambda: self._following.place(send.agent_name),
                verb=verb_named(send.verb, send.agent_name),
                request=send.fields,
                deadline=send.deadline,
                part=lambda part: self._part(send.task_id, send.run, part),
                ended=lambda outcome: self._ended(send, outcome),
            )
        )

    def _publish(self, task: Task, change: Literal["state", "progress"]) -> None:
        shown = view.status(self._book, self._book.entries[task.task_id], with_result=False)
        event = TaskChanged(change=change, task=shown)
        self._shell.publisher.publish(TASKS_CHANGED, task.task_id, event, journal=self._journal)
