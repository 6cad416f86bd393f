"""The verbs and metrics of the task queue: each verb lets the rules decide and hands what they decided to `dispatching`."""

from __future__ import annotations

from collections import Counter
from typing import Final

from common.api import tasks as api
from common.api.words import Empty, Verb
from common.client.aio import AsyncClient
from common.ids import new_id
from common.service.call import Call
from common.service.routes import Rep, Req, TypedHandler
from common.service.shell import Shell
from common.store.protocol import Durability, RecordStore
from pc2.resource_manager.tasks import view
from pc2.resource_manager.tasks.book import TaskBook
from pc2.resource_manager.tasks.dispatching import Dispatching
from pc2.resource_manager.tasks.following import Following
from pc2.resource_manager.tasks.lending import Lender, Lending
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.lines import parts_of
from pc2.resource_manager.tasks.loans import Loans
from pc2.resource_manager.tasks.queue import Tasks
from pc2.resource_manager.tasks.task import ACTIVE, Decision

MEASURE_S: Final = 1.0
LABELS: Final = 50
"""Capabilities that the metrics name, the longest lines first; the rest is counted together."""
OTHERS: Final = "(others)"


class TaskService:
    """The task verbs of one shell; `store` is theirs alone and is closed with the shell.

    CoreOrchestrator and supervisors are asked by `client`, agents are called by `agents`; models are had of `lender`.
    """

    def __init__(
        self,
        shell: Shell,
        client: AsyncClient,
        agents: AsyncClient,
        store: RecordStore,
        lender: Lender,
        limits: Limits | None = None,
    ) -> None:
        self._shell = shell
        self._book = TaskBook(limits)
        self._loans = loans = Loans()
        self._tasks = Tasks(self._book, shell.rng, loans)
        self._journal = shell.open_journal(store, Durability.FULL)
        self._dispatching = Dispatching(
            shell,
            Following(shell, client, agents),
            agents,
            Lending(shell, client, lender, loans),
            self._book,
            self._tasks,
            self._journal,
            store,
        )
        self._queued: dict[tuple[str, ...], float] = {}
        self._running: dict[tuple[str, ...], float] = {}
        self._lent: dict[tuple[str, ...], float] = {}
        self._oldest_s = 0.0
        self._add_routes()
        self._show_metrics()

    def load(self) -> None:
        """Begin from what the store holds; StorageUnavailable when it cannot be read."""
        self._dispatching.load()

    def begin(self) -> None:
        """Follow the agents and dispatch until the shell ends."""
        self._dispatching.begin()
        self._shell.every(MEASURE_S, self._measure)

    async def finish(self, within_s: float) -> None:
        """Send nothing more, and let calls under way end; the next life runs anew what is still running then."""
        await self._dispatching.finish(within_s)

    def _add_routes(self) -> None:
        self._handle(api.SUBMIT_TASK, self._submit)
        self._handle(api.GET_TASK, self._get)
        self._handle(api.CANCEL_TASK, self._cancel)
        self._handle(api.LIST_TASKS, self._list)
        self._handle(api.REPLAY_TASK, self._replay)
        self._handle(api.LIST_TASK_QUEUES, self._queues)
        self._handle(api.LIMIT_TASKS, self._limit)

    def _handle(self, verb: Verb[Req, Rep], handler: TypedHandler[Req, Rep]) -> None:
        self._shell.handle(verb, handler, journal=self._journal)

    def _show_metrics(self) -> None:
        gauge, book = self._shell.metrics.read_gauge, self._book
        gauge("tandem_tasks_queued", "Tasks waiting, by capability.", lambda: self._queued, ("capability",))
        gauge("tandem_tasks_running", "Calls for tasks, by capability.", lambda: self._running, ("capability",))
        gauge(
            "tandem_tasks_dead",
            "Tasks whose attempts all came to nothing.",
            lambda: float(book.standing.counts["dead"]),
        )
        gauge("tandem_tasks_kept", "Ended tasks that are kept.", lambda: float(len(book.kept)))
        gauge("tandem_tasks_bytes", "Bytes of payload and metadata that wait or run.", lambda: float(book.active.bytes))
        gauge("tandem_tasks_models", "Models on loan for tasks, by the loan's state.", lambda: self._lent, ("state",))
        gauge("tandem_tasks_oldest_seconds", "Age of the oldest task not ended.", lambda: self._oldest_s)

    def _measure(self) -> None:
        """Look at what a scrape, in a thread of its own, may not walk through itself."""
        book = self._book
        capabilities = {parts_of(line)[0] for line in book.active.arrivals}
        lines = {capability: book.waiting(capability) for capability in capabilities}
        named = sorted(lines, key=lambda capability: (-lines[capability], capability))[:LABELS]
        queued, running = Counter[str](), Counter[str]()
        for capability, waiting in lines.items():
            label = capability if len(lines) <= LABELS or capability in named else OTHERS
            queued[label] += waiting
            running[label] += book.calls.running[capability]
        self._queued = {(label,): float(count) for label, count in queued.items()}
        self._running = {(label,): float(count) for label, count in running.items()}
        self._lent = {(state,): float(count) for state, count in self._loans.states().items()}
        self._oldest_s = book.active.oldest_s(self._shell.clock.wall())

    # the verbs

    def _submit(self, asked: api.SubmitTask, call: Call) -> api.TaskSubmitted:
        self._journal.begin()
        submitted = self._tasks.submit(
            asked,
            call.identity,
            self._shell.settings.host,
            task_id=new_id("task", self._shell.rng),
            moment=self._dispatching.moment(),
        )
        self._do(submitted.decision)
        return api.TaskSubmitted(task_id=submitted.task_id, duplicate=submitted.duplicate)

    async def _get(self, asked: api.GetTask, call: Call) -> api.TaskStatus:
        self._journal.look()
        if asked.wait_s and self._book.entry(asked.task_id).task.state in ACTIVE:
            patience_s = call.patience_s(self._shell.clock.monotonic(), asked.wait_s)
            await self._dispatching.staying.until_ended(asked.task_id, patience_s)
        return self._status(asked.task_id)

    def _cancel(self, asked: api.TaskId, _call: Call) -> api.TaskStatus:
        self._journal.begin()
        self._do(self._tasks.cancel(asked.task_id))
        return self._status(asked.task_id)

    def _replay(self, asked: api.TaskId, _call: Call) -> api.TaskStatus:
        self._journal.begin()
        self._do(self._tasks.replay(asked.task_id))
        return self._status(asked.task_id)

    def _list(self, asked: api.ListTasks, _call: Call) -> api.Tasks:
        self._journal.look()
        found = self._book.latest(asked.state, asked.capability, asked.limit)
        return api.Tasks(
            tasks=[view.status(self._book, entry, with_result=False) for entry in found],
            counts={state: count for state, count in self._book.standing.counts.items() if count},
            as_of=self._shell.publisher.cursor(api.TASKS_CHANGED.name),
        )

    def _queues(self, _asked: Empty, _call: Call) -> api.TaskQueues:
        self._journal.look()
        return api.TaskQueues(queues=view.queues(self._book, self._dispatching.agents, self._shell.clock.wall()))

    def _limit(self, asked: api.LimitTasks, _call: Call) -> Empty:
        self._journal.begin()
        self._do(self._tasks.limit(asked))
        return Empty()

    def _do(self, decision: Decision) -> None:
        self._dispatching.take(decision)
        self._dispatching.dispatch()

    def _status(self, task_id: str) -> api.TaskStatus:
        self._journal.look()
        return view.status(self._book, self._book.entry(task_id))
