"""Tasks that need a model: when it is asked for, who gets them, in which order, and what they are told meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import IdempotencyMismatch, Internal, NoCapacity, Overloaded
from pc2.resource_manager.tasks import view
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.lines import Lines, line_of
from pc2.resource_manager.tasks.wants import NOTHING, Need
from tests.pc2.resource_manager.tasks.bench import Bench, provider

A, B = "qwen", "flux:dev"


def given(bench: Bench) -> list[str]:
    return [send.task_id for send in bench.dispatch()]


def in_turn(bench: Bench, *models: str) -> list[str]:
    """Tasks for these models, a second after each other."""
    ids = []
    for model in models:
        ids.append(bench.submit(model=model))
        bench.advance(1.0)
    return ids


def test_the_loan_comes_first_and_then_the_task_with_the_models_address() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(payload={"text": "hi"}, model=A, priority=70)
    assert given(bench) == []
    assert bench.lend() == ["ask qwen"]
    assert (bench.asked[A].host, bench.asked[A].priority) == ("pc2", 70)
    assert bench.dispatch() == []
    bench.grant(A)
    (send,) = bench.dispatch()
    assert send.fields["model"] == {
        "name": A,
        "url": "http://127.0.0.1:1/qwen",
        "upstream": "qwen.gguf",
        "host": "pc2",
        "engine": "llama-server",
    }
    assert (send.fields["text"], send.task_id, bench.lend()) == ("hi", task_id, [])
    bench.answer(send)
    assert bench.lend() == ["back qwen"]
    bench.check()


@pytest.mark.parametrize("agents", [[], [provider(liveness="expired")]])
def test_no_model_is_asked_for_where_no_agent_could_begin(agents: list[Any]) -> None:
    bench = Bench(say=agents)
    bench.submit(model=A)
    bench.dispatch()
    assert bench.lend() == []


def test_no_model_is_asked_for_while_every_agent_is_busy() -> None:
    bench = Bench(say=[provider()])
    bench.submit()
    waiting = bench.submit(model=A)
    (first,) = bench.dispatch()
    assert bench.lend() == []
    assert bench.status(waiting).reason == "every agent is at its limit (1 at 1 in flight)"
    bench.answer(first)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]


def test_tasks_of_one_model_run_together() -> None:
    bench = Bench(say=[provider()])
    ids = in_turn(bench, A, B, A, B)
    bench.dispatch()
    assert sorted(bench.lend()) == ["ask flux:dev", "ask qwen"]
    order: list[str] = []
    bench.grant(A)
    while len(order) < 4:
        (send,) = bench.dispatch()
        order.append(send.task_id)
        bench.answer(send)
        if "back qwen" in bench.lend():
            bench.grant(B)
    assert order == [ids[0], ids[2], ids[1], ids[3]]
    assert bench.lend() == []
    bench.check()


def test_models_that_are_there_together_take_tasks_by_rank() -> None:
    bench = Bench(say=[provider()])
    ids = in_turn(bench, A, B, A, B)
    bench.dispatch()
    bench.lend()
    bench.grant(A)
    bench.grant(B)
    order = []
    for _ in range(4):
        (send,) = bench.dispatch()
        order.append(send.task_id)
        bench.answer(send)
    assert order == ids


def test_only_agents_of_the_models_host_get_its_tasks() -> None:
    far, near = provider("far", host="mainpc"), provider("near")
    bench = Bench(say=[far, near])
    first, second = bench.submit(model=A), bench.submit(model=A)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]
    assert bench.asked[A].host == ""
    bench.grant(A, "mainpc")
    (send,) = bench.dispatch()
    assert (send.task_id, send.agent_name) == (first, "far")
    assert bench.lend() == []
    assert bench.status(second).reason == "every agent is at its limit (1 at 1 in flight)"
    bench.agents = {"say": [near]}
    bench.answer(send)
    assert bench.dispatch() == []
    assert bench.status(second).reason == "qwen is on mainpc, where no agent offers it"
    assert bench.lend() == ["back qwen", "ask qwen"]
    assert bench.asked[A].host == "pc2"


def test_why_a_task_waits_for_its_model_is_told_of_the_task_and_of_the_line() -> None:
    bench = Bench(say=[provider(concurrency=2)])
    task_id = bench.submit(model=A)
    bench.submit()
    bench.dispatch()
    bench.lend()
    bench.refuse(A, NoCapacity("24 GiB are needed"))
    bench.dispatch()
    assert bench.status(task_id).reason == "it waits for qwen: 24 GiB are needed"
    assert bench.status(task_id).model == A
    plain, lent = view.queues(bench.book, {"say": 1}, bench.wall)
    assert (plain.model, plain.queued, plain.running, plain.reason) == ("", 0, 1, "")
    assert (lent.model, lent.queued, lent.running) == (A, 1, 0)
    assert lent.reason == "it waits for qwen: 24 GiB are needed"
    bench.advance(1.0)
    bench.lend()
    bench.grant(A)
    bench.dispatch()
    plain, lent = view.queues(bench.book, {"say": 1}, bench.wall)
    assert [(each.queued, each.running, each.agents) for each in (plain, lent)] == [(0, 1, 1), (0, 1, 1)]


def test_a_task_that_has_to_wait_to_be_tried_again_keeps_no_model_busy() -> None:
    bench = Bench(Limits(backoff_s=50.0, backoff_max_s=50.0), say=[provider()])
    bench.submit(model=A)
    bench.dispatch()
    bench.lend()
    bench.grant(A)
    (send,) = bench.dispatch()
    bench.fail(send, Internal("no luck"))
    assert bench.lend() == ["back qwen"]
    assert view.queues(bench.book, {}, bench.wall)[0].delayed == 1
    bench.advance(60.0)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]
    bench.check()


def test_a_model_is_kept_for_an_agent_that_is_busy_and_not_for_one_that_is_silent() -> None:
    bench = Bench(say=[provider("a")], sing=[provider("a")])
    bench.submit(model=A)
    bench.dispatch()
    bench.lend()
    bench.submit("sing", priority=90)
    (song,) = bench.dispatch()
    bench.grant(A)
    assert bench.dispatch() == []
    assert bench.lend() == []
    bench.agents = {"say": [provider("a", liveness="expired")]}
    bench.answer(song)
    bench.wake()
    assert bench.dispatch() == []
    assert bench.lend() == ["back qwen"]


def test_since_when_a_line_waits_for_its_model_counts_from_the_first_time_until_a_task_begins() -> None:
    bench = Bench(say=[provider()])
    first = bench.now
    for _ in range(2):
        bench.submit(model=A)
    bench.dispatch()
    bench.now += 5.0
    bench.wake()
    bench.dispatch()
    assert bench.book.wants.needs(bench.book.lines)[A].since == first
    bench.lend()
    bench.grant(A)
    bench.dispatch()
    need = bench.book.wants.needs(bench.book.lines)[A]
    assert (need.running, need.since, need.free) == (1, float("inf"), frozenset())


def test_a_line_in_which_others_wait_on_loses_no_time_when_one_leaves_it() -> None:
    bench = Bench(say=[provider()])
    first = bench.now
    bench.submit(model=A)
    second = bench.submit(model=A)
    bench.dispatch()
    bench.advance(5.0)
    bench.cancel(second)
    need = bench.book.wants.needs(bench.book.lines)[A]
    assert (need.waits, need.since) == (True, first)


def test_a_line_held_back_by_a_bound_keeps_no_model_busy() -> None:
    bench = Bench(say=[provider()])
    bench.submit(model=A)
    bench.dispatch()
    bench.lend()
    bench.limit("say", 0)
    bench.grant(A)
    assert bench.dispatch() == []
    assert bench.lend() == ["back qwen"]


def test_a_deadline_ends_a_task_that_waits_for_its_model() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(model=A, deadline_s=5.0)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]
    bench.advance(5.0)
    assert bench.state(task_id) == "expired"
    assert bench.lend() == ["desist qwen"]


def test_a_cancelled_tasks_model_is_kept_until_its_agent_is_done() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(model=A)
    bench.dispatch()
    bench.lend()
    bench.grant(A)
    (send,) = bench.dispatch()
    bench.cancel(task_id)
    assert bench.lend() == []
    bench.answer(send)
    assert bench.lend() == ["back qwen"]


def test_after_a_restart_models_are_asked_for_anew() -> None:
    bench = Bench(Limits(backoff_s=0.001), say=[provider()])
    task_id = bench.submit(model=A)
    bench.dispatch()
    bench.lend()
    bench.grant(A)
    bench.dispatch()
    bench.restart()
    assert bench.status(task_id).model == A
    bench.advance(1.0)
    assert bench.dispatch() == []
    assert bench.lend() == ["ask qwen"]
    bench.grant(A)
    assert given(bench) == [task_id]


def test_the_model_is_part_of_what_a_key_stands_for() -> None:
    bench = Bench()
    bench.submit(model=A, idempotency_key="k")
    with pytest.raises(IdempotencyMismatch):
        bench.submit(model=B, idempotency_key="k")


def test_each_model_takes_a_place_among_the_lines() -> None:
    bench = Bench(Limits(capabilities=2))
    bench.submit(model=A)
    bench.submit(model=B)
    bench.submit(model=B)
    with pytest.raises(Overloaded, match="2 are allowed"):
        bench.submit()


def test_a_replayed_task_still_needs_its_model() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(model=A)
    bench.cancel(task_id)
    bench.replay(task_id)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]


def test_two_lines_of_one_model_share_its_loan() -> None:
    bench = Bench(say=[provider("a")], sing=[provider("b", verb="sing")])
    bench.submit("say", model=A)
    bench.submit("sing", model=A, priority=90)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]
    bench.grant(A)
    first, second = bench.dispatch()
    bench.answer(first)
    assert bench.lend() == []
    bench.answer(second)
    assert bench.lend() == ["back qwen"]


def test_what_is_wanted_of_a_model_adds_up_over_its_lines() -> None:
    bench = Bench(say=[provider("a")], sing=[provider("b", host="mainpc")])
    bench.submit("sing", model=A, priority=20)
    bench.dispatch()
    bench.now += 5.0
    bench.submit("say", model=A)
    needs = bench.book.wants.needs(bench.book.lines)
    assert needs[A].unsure
    bench.dispatch()
    pc2, mainpc = frozenset({"pc2"}), frozenset({"mainpc"})
    assert bench.book.wants.needs(bench.book.lines) == {
        A: Need(True, 0, bench.now - 5.0, mainpc, pc2 | mainpc, False, 20)
    }
    assert bench.book.wants.needs(Lines()) != {}
    assert NOTHING.since > bench.now


def test_a_line_of_which_no_agent_is_left_wants_nothing() -> None:
    bench = Bench(say=[provider()])
    bench.submit(model=A)
    bench.dispatch()
    assert bench.lend() == ["ask qwen"]
    bench.agents = {}
    bench.wake()
    bench.dispatch()
    need = bench.book.wants.needs(bench.book.lines)[A]
    assert (need.waits, need.free, need.able, need.since) == (True, frozenset(), frozenset(), float("inf"))


def test_a_line_without_a_model_wants_none() -> None:
    bench = Bench()
    bench.submit()
    bench.submit("sing", model=A)
    assert list(bench.book.wants.needs(bench.book.lines)) == [A]
    assert not bench.book.wants
    assert bench.book.wants.running(line_of("sing", A)) == 0
    bench.dispatch()
    assert bench.book.wants
