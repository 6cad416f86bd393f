"""`tandem errors`, `tasks` and `health`, and what `status` makes of tasks, errors and links."""

from __future__ import annotations

import msgspec
import pytest

from common.api import error_bus, links
from common.api import observability_hub as hub
from tandem import output
from tandem.exits import Exit
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import AS_OF, AT, Fabric, group, task


def link(**changes: object) -> links.Link:
    plain = links.Link(
        host="pc2",
        address="10.0.0.2",
        joined=True,
        neighbour=False,
        up=True,
        since=AT,
        since_s=61.0,
        round_trip_ms=0.42,
    )
    return msgspec.structs.replace(plain, **changes)


async def test_status_counts_tasks_errors_and_tells_the_link_from_both_ends(fabric: Fabric, tandem: Tandem) -> None:
    fabric.tasks = {"a": task("a"), "b": task("b", state="dead")}
    fabric.groups = {"1:a": group("1:a"), "1:b": group("1:b", state="regressed"), "1:c": group("1:c", state="resolved")}
    fabric.links = {"mainpc": [link()], "pc2": [link(host="mainpc", neighbour=True)]}
    code, out, _ = await tandem("status")
    assert code == Exit.OK
    assert "tasks 1 queued, 0 running, 1 dead" in out
    assert "errors 1 new, 0 ongoing, 1 regressed" in out
    assert "link mainpc to pc2: up for 1m 01s, 0.4 ms there and back" in out
    assert "link pc2" not in out


async def test_a_link_that_is_down_or_not_joined_is_a_problem_with_its_mend(fabric: Fabric, tandem: Tandem) -> None:
    fabric.links = {
        "mainpc": [link(up=False, round_trip_ms=None, why="pc2 does not answer")],
        "pc2": [link(host="mainpc", joined=False, up=False, why="run `tandem invite pc2` on mainpc")],
    }
    code, out, _ = await tandem("status")
    assert code == Exit.BAD_ANSWER
    assert "link mainpc to pc2: down for 1m 01s" in out
    assert "link pc2 to mainpc: not joined" in out
    assert "not ok: link mainpc to pc2 is down: pc2 does not answer" in out
    assert "not ok: link pc2 to mainpc is down: run `tandem invite pc2` on mainpc" in out


async def test_errors_are_listed_and_the_resolved_ones_only_where_asked_for(fabric: Fabric, tandem: Tandem) -> None:
    assert (await tandem("errors", "--host", "pc2"))[1] == "no errors\n"
    code, out, err = await tandem("errors", "--host", "attic")
    assert (code, out) == (Exit.BAD_ANSWER, "")
    assert "no host 'attic' is known here; known: mainpc, pc2" in err
    many = [f"agent{number}" for number in range(5)]
    fabric.groups = {
        "1:a": group("1:a", agents=many, count=1_000_000),
        "1:b": group("1:b", state="resolved", message=""),
    }
    code, out, _ = await tandem("errors", "--state", "any")
    assert code == Exit.OK
    assert "1:a    new       1000000" in out
    assert "agent0 agent1 agent2 and 2 more" in out
    assert "ValueError: no <number>" in out
    code, out, err = await tandem("errors", "--state", "any", "--limit", "1")
    assert "1:b" not in out
    assert err == "tandem: 1 more; --limit shows them\n"
    assert (await tandem("errors", "--state", "regressed"))[1] == "no errors are regressed\n"
    code, out, _ = await tandem("errors", "--state", "resolved", "--json")
    assert [each["group_id"] for each in msgspec.json.decode(out)["groups"]] == ["1:b"]


async def test_one_group_is_shown_with_its_samples_and_resolved(fabric: Fabric, tandem: Tandem) -> None:
    sample = error_bus.ErrorSample(
        agent="whisper",
        host="pc2",
        occurred_at=AT,
        severity="error",
        message="no 7\x1b[31m",
        stack='File "a.py", line 1\n  in f',
        details={"n": 7},
    )
    fabric.groups = {"1:a": group("1:a", samples=[sample], other_agents=3)}
    code, out, _ = await tandem("errors", "show", "1:a")
    assert code == Exit.OK
    for told in (
        "ValueError: no <number>",
        "new, error, once",
        "whisper 1, others 3",
        "n: 7",
        '    File "a.py", line 1',
    ):
        assert told in out
    assert "\x1b" not in out
    code, out, _ = await tandem("errors", "resolve", "1:a", "--note", "mended")
    assert (code, out) == (Exit.OK, "1:a is resolved\n")
    assert f"resolved {AT} by operator: mended" in (await tandem("errors", "show", "1:a"))[1]
    code, out, _ = await tandem("errors", "show", "1:a", "--json")
    assert msgspec.json.decode(out)["by_agent"] == {"whisper": 1}
    code, out, _ = await tandem("errors", "resolve", "1:a", "--json")
    assert msgspec.json.decode(out)["state"] == "resolved"
    code, _, err = await tandem("errors", "show", "1:z")
    assert code == Exit.BAD_ANSWER
    assert "no group 1:z" in err


async def test_tasks_are_listed_with_their_queues_and_the_reason_to_wait(fabric: Fabric, tandem: Tandem) -> None:
    assert (await tandem("tasks"))[1] == "no tasks\n"
    fabric.tasks = {
        "task-1": task("task-1", name="nightly", model="qwen3-14b"),
        "task-2": task("task-2", state="dead", attempts=3, error="it fell over", ended_at=AT, agent_name="whisper"),
    }
    code, out, _ = await tandem("tasks")
    assert code == Exit.OK
    for told in (
        "queued 1   dead 1",
        "no agent offers it; at most 0 at a time",
        "1m 01s",
        "nightly",
        "qwen3-14b",
        "3 of 3",
        "it fell over",
    ):
        assert told in out
    code, out, _ = await tandem("tasks", "--state", "done")
    assert out.startswith("none of these; in all queued 1   dead 1\n")
    code, out, _ = await tandem("tasks", "--state", "dead", "--capability", "other", "--json")
    found = msgspec.json.decode(out)
    assert [each["task_id"] for each in found["tasks"]] == ["task-2"]
    assert found["queues"] == []


async def test_a_task_is_submitted_and_waited_for(fabric: Fabric, tandem: Tandem) -> None:
    fabric.tasks = {"task-1": task("task-1", state="done", result={"text": "hello"})}
    words = (
        "tasks",
        "submit",
        "echo",
        '{"data": 1}',
        "--model",
        "qwen3-14b",
        "--priority",
        "80",
        "--delay",
        "5s",
        "--deadline",
        "1h",
        "--attempts",
        "7",
        "--timeout",
        "2m",
        "--retain",
        "0s",
    )
    code, out, _ = await tandem(*words)
    assert (code, out) == (Exit.OK, "task-1\n")
    asked = fabric.submitted[0]
    assert (asked.capability, asked.payload, asked.priority) == ("echo", {"data": 1}, 80)
    assert asked.model == "qwen3-14b"
    assert (asked.delay_s, asked.deadline_s, asked.max_attempts) == (5.0, 3600.0, 7)
    assert (asked.timeout_s, asked.retain_s) == (120.0, 0.0)
    code, out, err = await tandem("tasks", "submit", "echo", "--wait")
    assert (code, err) == (Exit.OK, "tandem: task-1 is submitted; it goes on when this command is ended\n")
    assert msgspec.json.decode(out)["result"] == {"text": "hello"}
    code, out, _ = await tandem("tasks", "submit", "echo", "--json")
    assert msgspec.json.decode(out) == {"task_id": "task-1", "duplicate": False}
    assert (fabric.submitted[-1].timeout_s, fabric.submitted[-1].retain_s) == (3_600.0, 86_400.0)


async def test_the_tasks_that_run_at_a_time_are_bounded_and_set_free(fabric: Fabric, tandem: Tandem) -> None:
    code, out, _ = await tandem("tasks", "limit", "echo", "3")
    assert (code, out) == (Exit.OK, "of echo at most 3 run at a time from now on\n")
    code, out, _ = await tandem("tasks", "limit", "echo", "--none", "--json")
    assert (code, msgspec.json.decode(out)) == (Exit.OK, {"capability": "echo", "running": None})
    assert [(each.capability, each.running) for each in fabric.limited] == [("echo", 3), ("echo", None)]
    for words in (["echo"], ["echo", "3", "--none"], ["echo", "-1"]):
        assert (await tandem("tasks", "limit", *words))[0] == Exit.USAGE


@pytest.mark.parametrize("word", ["show", "replay"])
async def test_a_task_that_ended_otherwise_than_done_is_a_bad_answer(word: str, fabric: Fabric, tandem: Tandem) -> None:
    fabric.tasks = {"task-1": task("task-1", state="failed", error="no")}
    code, out, _ = await tandem("tasks", word, "task-1", "--json")
    assert code == Exit.BAD_ANSWER
    assert msgspec.json.decode(out)["error"] == "no"


async def test_a_task_is_cancelled(fabric: Fabric, tandem: Tandem) -> None:
    fabric.tasks = {"task-1": task("task-1")}
    code, out, _ = await tandem("tasks", "cancel", "task-1")
    assert code == Exit.OK
    assert msgspec.json.decode(out) == {
        "task_id": "task-1",
        "state": "cancelled",
        "capability": "echo",
        "priority": 50,
        "attempts": 0,
        "max_attempts": 3,
        "parts": 0,
        "replays": 0,
        "queued_at": AT,
    }


async def test_a_task_that_had_ended_before_is_not_cancelled(fabric: Fabric, tandem: Tandem) -> None:
    fabric.tasks = {"task-1": task("task-1", state="done")}
    assert (await tandem("tasks", "cancel", "task-1"))[0] == Exit.BAD_ANSWER


def seen(name: str, verdict: hub.Verdict, **changes: object) -> hub.ProcessHealth:
    plain = hub.ProcessHealth(
        name=name,
        host="pc2",
        what="agent",
        verdict=verdict,
        reason="",
        because="",
        since=AT,
        latency_ms=1.25,
        probed=True,
    )
    return msgspec.structs.replace(plain, **changes)


async def test_health_tells_verdicts_with_reasons_and_what_they_follow_from(fabric: Fabric, tandem: Tandem) -> None:
    side = hub.LinkSide(seen_from="pc2", up=True, round_trip_ms=0.5, heard_s=0.1)
    fabric.health = hub.FabricHealth(
        hosts=[hub.HostHealth(host="mainpc", verdict="unreachable", reason="no answer", since=AT, latency_ms=0.0)],
        links=[hub.LinkHealth(host="mainpc", peer="pc2", verdict="healthy", reason="", since=AT, sides=[side])],
        services=[seen("ErrorBus", "healthy", what="service")],
        agents=[
            seen("echo", "unreachable", because="mainpc is unreachable", probed=False),
            seen("slow", "degraded", reason="it answers late"),
        ],
        as_of=AS_OF,
        doubt="",
    )
    code, out, err = await tandem("health")
    assert (code, err) == (Exit.BAD_ANSWER, "")
    for told in ("no answer", "to pc2", "0.5 ms", "1.2 ms", "mainpc is unreachable", "not asked", "it answers late"):
        assert told in out
    code, out, _ = await tandem("health", "--json")
    assert msgspec.json.decode(out)["agents"][1]["verdict"] == "degraded"


async def test_health_is_well_when_nobody_is_ill_and_says_when_the_hub_doubts(fabric: Fabric, tandem: Tandem) -> None:
    empty = hub.FabricHealth(
        hosts=[], links=[], services=[seen("a", "unknown")], agents=[], as_of=AS_OF, doubt="its loop lags"
    )
    fabric.health = empty
    code, _, err = await tandem("health", "--host", "pc2")
    assert code == Exit.OK
    assert err == "tandem: the hub doubts its own eyes, so no verdict changes: its loop lags\n"


def test_how_long_ago_is_never_negative_and_empty_for_no_time() -> None:
    assert output.ago("") == ""
    assert output.ago("9999-01-01T00:00:00Z") == output.age(0.0)
    assert "y" in output.ago(AT) or "d" in output.ago(AT)
