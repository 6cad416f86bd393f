"""Who gets the first task of a line, with which fields, or why all of the line has to wait.

The agent is chosen by the rule that requests use. A task that needs a model goes to an agent of the host where that is on loan;
without the loan, the answer says on which hosts it could begin if only the model were there. It borrows nothing itself, and
knows no deadlines of the line: a task that is too late is never brought here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from msgspec import msgpack

from common.api.models import ModelReady
from common.dispatch.provider import Offer, Offers
from common.dispatch.rule import Candidate, Chosen, Nobody, Reason, Wait, Wish, choose
from pc2.resource_manager.tasks.book import TaskBook
from pc2.resource_manager.tasks.lines import line_of
from pc2.resource_manager.tasks.loans import Loans
from pc2.resource_manager.tasks.task import Decision, Moment, Send, Stalled, Started, Task

NOBODY: Final = "no agent offers it; it waits for one"


def give(book: TaskBook, loans: Loans, task: Task, moment: Moment, offers: Offers) -> Decision | Stalled:
    """The task goes to an agent, or why it has to wait."""
    bound, running = book.bounds.get(task.capability), book.calls.running[task.capability]
    if bound is not None and running >= bound:
        return Stalled(line_of(task.capability, task.model), f"{running} run; {bound} may run at a time")
    offer, load = offers(task.capability), book.calls.load
    candidates = [each.candidate(load.in_flight(each.name), load.last_used(each.name)) for each in offer.providers]
    if task.model:
        return _give_with_model(book, loans, task, moment, offer, candidates)
    match choose(_wish(task), candidates, moment.now):
        case Chosen(name):
            return _send(book, task, name, offer, moment)
        case Wait(_, detail):
            return Stalled(task.capability, detail)
        case _:
            return Stalled(task.capability, NOBODY)


def _give_with_model(
    book: TaskBook, loans: Loans, task: Task, moment: Moment, offer: Offer, candidates: Collection[Candidate]
) -> Decision | Stalled:
    lent = loans.lent(task.model)
    hosts = {candidate.host for candidate in candidates}
    by_host = {
        host: choose(_wish(task), [each for each in candidates if each.host == host], moment.now) for host in hosts
    }
    here = by_host.get(lent.host, Nobody()) if lent is not None else choose(_wish(task), candidates, moment.now)
    if lent is not None and isinstance(here, Chosen):
        return _send(book, task, here.name, offer, moment, lent)
    free = frozenset(host for host, answer in by_host.items() if isinstance(answer, Chosen))
    busy = (host for host, answer in by_host.items() if isinstance(answer, Wait) and answer.reason is Reason.BUSY)
    match here:
        case Wait(_, detail):
            why = detail
        case Chosen():
            why = loans.reason(task.model)
        case _:
            why = f"{task.model} is on {lent.host}, where no agent offers it" if lent and hosts else NOBODY
    return Stalled(line_of(task.capability, task.model), why, free, free.union(busy), task.priority)


def _send(
    book: TaskBook, task: Task, name: str, offer: Offer, moment: Moment, lent: ModelReady | None = None
) -> Decision:
    entry = book.entries[task.task_id]
    verb = next(each.verb for each in offer.providers if each.name == name)
    fields = fields_for(task, entry.payload, lent)
    deadline = min(entry.deadline, moment.now + task.timeout_s)
    return Decision((Started(task.task_id, name),), (Send(task.task_id, task.runs + 1, name, verb, fields, deadline),))


def fields_for(task: Task, payload: bytes, lent: ModelReady | None = None) -> dict[str, Any]:
    """What the agent's verb is called with: an object's fields, or any other payload as `data`, and what tells the task.

    With a model on loan, where that answers too.
    """
    fields = msgpack.decode(payload)
    if not isinstance(fields, dict):
        fields = {} if fields is None else {"data": fields}
    told: dict[str, Any] = {"task_id": task.task_id, "attempt": task.attempts + 1}
    if lent is not None:
        told["model"] = {
            "name": task.model,
            "url": lent.url,
            "upstream": lent.upstream,
            "host": lent.host,
            "engine": lent.engine,
        }
    return {"request_id": task.task_id} | fields | told


def _wish(task: Task) -> Wish:
    return Wish(task.host, frozenset(task.tried))
