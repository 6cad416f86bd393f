"""Two hosts watched, and cut apart: what the verdicts say of whom, and what was told, measured, asked and revoked meanwhile.

Every test undoes its fault. What is counted is counted at ObservabilityHub and ErrorBus, on the other side of the link.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fabric import ROOT, until
from tests.lab.netns import TwoHosts, why_not
from tests.lab.two_hosts import PACKAGES, SERVICES, SUPERVISORS, Answer, TwoHostFabric, two_host_fabric

pytestmark = pytest.mark.timeout(900)

PORTS = {name: port for name, (_, port) in SERVICES.items()} | SUPERVISORS
HUB, ERRORS, GATEWAY, TASKS = (
    PORTS[name] for name in ("observability_hub", "error_bus", "security_gateway", "resource_manager")
)
SEEN_FROM = {"ObservabilityHub", "Supervisor/mainpc", "Supervisor/pc2"}
LINKED_S = 120.0
VERDICT_S = 120.0
WELL_S = 180.0
"""A verdict that turned for the worse a few times within a minute is held for up to half a minute."""

STRANGER = """
import os, sys, time, traceback
order = sys.argv[1]
while True:
    try:
        kind = open(order).read()
        os.unlink(order)
    except FileNotFoundError:
        time.sleep(0.02)
        continue
    try:
        raise type(kind, (Exception,), {})("it broke")
    except Exception:
        traceback.print_exc()
"""
"""A program that knows nothing of Tandem: it shows a traceback of the kind that its order names."""


def worker(name: str, host: str) -> dict[str, Any]:
    command = ["{python}", "-m", "tests.lab.worker_agent", name, host]
    restart = {"when": "always", "attempts": 1000, "delay_s": "500ms", "max_delay_s": "1s"}
    return {"name": name, "command": command, "cwd": str(ROOT), "restart": restart}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watching")


@pytest.fixture(scope="module")
def fabric(folder: Path) -> Iterator[TwoHostFabric]:
    if reason := why_not():
        pytest.skip(reason)
    stranger = {
        "name": "stranger",
        "command": [sys.executable, "-c", STRANGER, str(folder / "order")],
        "health": {"how": "none"},
    }
    agents = {
        "mainpc": [worker("near-cores", "mainpc"), worker("victim", "mainpc"), worker("sleeper", "mainpc"), stranger],
        "pc2": [worker("near-hub", "pc2")],
    }
    with TwoHosts() as lab, two_host_fabric(lab, folder, agents=agents) as up:
        until(lambda: relayed(up, "mainpc") == {"near-hub"}, LINKED_S, "near-hub to be offered on mainpc")
        yield up


@contextmanager
def apart(fabric: TwoHostFabric) -> Iterator[None]:
    """The hosts are cut apart, know it, and are joined again at the end."""
    fabric.lab.cut()
    try:
        until(lambda: not any(link_is_up(fabric, name) for name in PACKAGES), 30, "both ends to see the cut")
        yield
    finally:
        fabric.lab.heal()
    until(fabric.is_linked, LINKED_S, "the link to be back")


def asked(fabric: TwoHostFabric, on: str, port: int, action: str, /, **fields: Any) -> Answer:
    """The answer of a port on a host's loopback; it has to come."""
    answer = fabric.ask(on, port, {"action": action, **fields})
    assert answer is not None, f"{action} at {port} on {on}"
    return answer


def link_is_up(fabric: TwoHostFabric, name: str) -> bool:
    """What a host's supervisor says of its link."""
    return bool(asked(fabric, name, SUPERVISORS[name], "list_links")["links"][0]["up"])


def relayed(fabric: TwoHostFabric, name: str) -> set[str]:
    """The agents of the other host that are offered on a host."""
    return {one["agent_name"] for one in asked(fabric, name, SUPERVISORS[name], "list_relays")["relays"]}


def located(fabric: TwoHostFabric, agent: str, name: str) -> int:
    """The port at which an agent answers on a host."""
    return int(asked(fabric, name, PORTS["core_orchestrator"], "get_agent_endpoint", agent_name=agent)["port"])


# verdicts


def health(fabric: TwoHostFabric, name: str = "pc2") -> Answer:
    """What get_health says on a host."""
    return asked(fabric, name, HUB, "get_health")


def processes_of(seen: Answer) -> dict[str, Answer]:
    return {f"{one['host']}/{one['name']}": one for part in ("services", "agents") for one in seen.get(part, ())}


def standing(fabric: TwoHostFabric, key: str, name: str = "pc2") -> Answer:
    return processes_of(health(fabric, name)).get(key, {"verdict": ""})


def unwell(fabric: TwoHostFabric) -> list[str]:
    """What is not healthy, and who does not see the link up or is not heard of it."""
    seen = health(fabric)
    told = [one for part in ("hosts", "services", "agents", "links") for one in seen.get(part, ())]
    found = [f"{one['host']} {one.get('name')}: {one['reason']}" for one in told if one["verdict"] != "healthy"]
    sides = {side["seen_from"]: side["up"] for link in seen.get("links", ()) for side in link["sides"]}
    found += [f"{who} does not say that the link is up" for who in SEEN_FROM if not sides.get(who)]
    return found if len(seen.get("agents", ())) == 5 else [*found, "not all agents are known"]


def until_well(fabric: TwoHostFabric) -> None:
    """Wait until everything is healthy, and the link up for all who see it."""
    try:
        until(lambda: not unwell(fabric), WELL_S, "health everywhere")
    except AssertionError as error:
        raise AssertionError(f"{error}: {unwell(fabric)}") from error


@pytest.fixture
def well(fabric: TwoHostFabric) -> TwoHostFabric:
    """The fabric, with everything healthy."""
    until_well(fabric)
    return fabric


def test_both_hosts_and_the_link_between_them_are_seen_from_either_host(well: TwoHostFabric) -> None:
    for name in PACKAGES:
        seen = health(well, name)
        assert {one["host"] for one in seen["hosts"]} == set(PACKAGES)
        for host in seen["hosts"]:
            assert host["vitals"]["memory_total_bytes"] > host["vitals"]["memory_used_bytes"] > 0
            assert host["vitals_age_s"] < 30
        (link,) = seen["links"]
        assert {side["seen_from"] for side in link["sides"]} == SEEN_FROM
        assert all(0 < side["round_trip_ms"] < 5_000 and side["heard_s"] < 30 for side in link["sides"])


def test_a_killed_agent_of_the_far_host_is_a_verdict_with_its_reason(well: TwoHostFabric) -> None:
    before = well.processes("mainpc")["victim"]
    os.kill(before["pid"], signal.SIGKILL)
    for name in PACKAGES:
        until(lambda name=name: standing(well, "mainpc/victim", name)["verdict"] == "unhealthy", VERDICT_S, "a verdict")  # type: ignore[misc]
    found = standing(well, "mainpc/victim")
    assert (found["reason"], found["because"]) == ("died: killed by signal 9", "")
    until(lambda: standing(well, "mainpc/victim")["verdict"] == "healthy", WELL_S, "the next life")
    assert standing(well, "mainpc/victim")["restarts"] > before["restarts"]


def test_an_agent_of_the_far_host_that_stands_still_is_suspected_and_nobody_else(well: TwoHostFabric) -> None:
    pid = well.processes("mainpc")["sleeper"]["pid"]
    since = health(well)["as_of"]
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: standing(well, "mainpc/sleeper")["verdict"] == "unreachable", VERDICT_S, "a verdict")
        seen = health(well)
        assert processes_of(seen)["mainpc/sleeper"]["because"] == ""
        assert {one["verdict"] for one in seen["hosts"]} == {"healthy"}
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: standing(well, "mainpc/sleeper")["verdict"] == "healthy", WELL_S, "its return")
    turns = [one["event"]["verdict"] for one in events_since(well, since) if one["entity"] == "mainpc/sleeper"]
    assert turns[0] == "degraded"
    assert {"degraded", "unreachable", "healthy"} <= set(turns)


def events_since(fabric: TwoHostFabric, cursor: Answer) -> list[Answer]:
    """The changes of verdicts after a place."""
    told = asked(fabric, "pc2", HUB, "events_since", topic="health.changed", epoch=cursor["epoch"], seq=cursor["seq"])
    return list(told["events"])


def test_a_cut_link_is_one_root_and_no_alarm_for_what_is_behind_it(well: TwoHostFabric) -> None:
    since = health(well)["as_of"]
    behind = {key for key in processes_of(health(well)) if key.startswith("mainpc/")}
    assert len(behind) == 7

    def all_behind() -> bool:
        seen = processes_of(health(well))
        return all(seen[key]["because"] == "mainpc" for key in behind)

    with apart(well):
        until(all_behind, VERDICT_S, "everything of mainpc behind mainpc")
        seen = health(well)
        processes = processes_of(seen)
        assert {processes[key]["reason"] for key in behind} == {"unreachable because mainpc is unreachable"}
        assert {one["verdict"] for key, one in processes.items() if key not in behind} == {"healthy"}
        assert {one["host"]: one["verdict"] for one in seen["hosts"]} == {"mainpc": "unreachable", "pc2": "healthy"}
        (link,) = seen["links"]
        assert link["verdict"] == "unreachable"
        ups = {side["seen_from"]: side["up"] for side in link["sides"]}
        assert ups["ObservabilityHub"] is False
    until_well(well)
    bad = [one["event"] for one in events_since(well, since) if one["event"]["verdict"] in ("unhealthy", "unreachable")]
    alarms = [(one["what"], one["host"]) for one in bad if not one["because"]]
    assert alarms == [("host", "mainpc")], bad


# what is told and measured while nobody hears it


def test_an_error_of_a_program_that_knows_nothing_of_tandem_is_counted_once_over_a_cut(
    fabric: TwoHostFabric, folder: Path
) -> None:
    said(folder, "Warm")
    until(lambda: counted(fabric, "Warm") == 1, 30, "the first error")
    fabric.lab.cut_one_way(fabric.lab.pc2, fabric.lab.mainpc)
    try:
        said(folder, "Unanswered")
        until(lambda: spooled(fabric, b"Unanswered") or counted(fabric, "Unanswered"), 30, "the error in the spool")
    except AssertionError:
        fabric.lab.heal()
        raise
    with apart(fabric):
        said(folder, "Meanwhile")
        until(lambda: spooled(fabric, b"Meanwhile"), 30, "the error in the spool")
        assert counted(fabric, "Meanwhile") == 0
    said(folder, "Afterwards")
    until(lambda: counted(fabric, "Afterwards") == 1, LINKED_S, "the last error, behind which there is no other")
    for kind in ("Warm", "Unanswered", "Meanwhile"):
        assert counted(fabric, kind) == 1, kind
    (group,) = groups(fabric, "Meanwhile")
    assert (group["agents"], group["hosts"], group["state"]) == (["stranger"], ["mainpc"], "new")


def said(folder: Path, kind: str) -> None:
    """The program shows such a traceback."""
    order = folder / "order"
    until(lambda: not order.exists(), 30, "the order before to be taken")
    (folder / "next").write_text(kind)
    (folder / "next").rename(order)


def groups(fabric: TwoHostFabric, kind: str) -> list[Answer]:
    """The groups of errors of one type."""
    return list(asked(fabric, "pc2", ERRORS, "list_error_groups", error_type=kind)["groups"])


def counted(fabric: TwoHostFabric, kind: str) -> int:
    """How often ErrorBus has counted an error of one type."""
    return sum(group["count"] for group in groups(fabric, kind))


def spooled(fabric: TwoHostFabric, word: bytes) -> bool:
    """Whether a word lies in a spool of mainpc."""
    files = (fabric.home("mainpc") / "mainpc" / "spool").rglob("*")
    return any(word in file.read_bytes() for file in files if file.is_file())


def test_metrics_of_an_agent_that_is_cut_off_arrive_once_after_the_heal(fabric: TwoHostFabric) -> None:
    measure(fabric, "lab_before", 1.0)
    until(lambda: points(fabric, "lab_before") == (1, 1.0), LINKED_S, "the first point")
    port = located(fabric, "near-cores", "mainpc")
    with apart(fabric):
        measure(fabric, "lab_meanwhile", 1.0, 2.0, 3.0, 4.0, port=port)
        until(lambda: spooled(fabric, b"lab_meanwhile"), 30, "the points in the spool")
        assert points(fabric, "lab_meanwhile") == (0, 0.0)
    measure(fabric, "lab_afterwards", 5.0)
    until(
        lambda: points(fabric, "lab_afterwards") == (1, 5.0), LINKED_S, "the last point, behind which there is no other"
    )
    assert points(fabric, "lab_meanwhile") == (4, 10.0)
    assert points(fabric, "lab_before") == (1, 1.0)


def measure(fabric: TwoHostFabric, metric: str, *values: float, port: int = 0) -> None:
    """An agent of mainpc hands in points."""
    where = port or located(fabric, "near-cores", "mainpc")
    told = asked(fabric, "mainpc", where, "measure", metric_name=metric, values=list(values))
    assert told.get("handed_in") == len(values), told


def points(fabric: TwoHostFabric, metric: str) -> tuple[int, float]:
    """How many points of a metric the hub has, and their sum."""
    totals = []
    for aggregate in ("count", "sum"):
        told = asked(fabric, "pc2", HUB, "query_metrics", name=metric, agent="near-cores", aggregate=aggregate)
        totals.append(sum(point["value"] for series in told["series"] for point in series["points"]))
    return int(totals[0]), totals[1]


# work across the link


@pytest.mark.parametrize("name", PACKAGES)
def test_tasks_submitted_on_one_host_are_done_by_agents_of_the_other(fabric: TwoHostFabric, name: str) -> None:
    other = fabric.other(name)
    task = asked(fabric, name, TASKS, "submit_task", capability=f"work-{other}", payload={"data": "t"})

    def ended() -> Answer | None:
        status = asked(fabric, name, TASKS, "get_task", task_id=task["task_id"], wait_s=2)
        return status if status["state"] not in ("queued", "running") else None

    status = until(ended, 60, "the task's end")
    assert status is not None
    assert status["state"] == "done", status
    assert (status["result"]["data"], status["result"]["host"]) == ("t", other)
    pids = {one["name"]: one["pid"] for one in fabric.processes(other).values()}
    assert status["result"]["pid"] == pids[status["agent_name"]]


def test_tasks_of_an_agent_that_is_cut_off_wait_and_are_done_after_the_heal(fabric: TwoHostFabric) -> None:
    with apart(fabric):
        asks = {"capability": "work-mainpc", "payload": {"data": "later"}, "max_attempts": 20}
        task = asked(fabric, "pc2", TASKS, "submit_task", **asks)
        assert asked(fabric, "pc2", TASKS, "get_task", task_id=task["task_id"])["state"] in ("queued", "running")
        alone = asked(fabric, "pc2", TASKS, "submit_task", capability="work-pc2", payload={"data": "here"})
        until(lambda: done(fabric, alone) == {"data": "here", "host": "pc2"}, 60, "pc2's own task")
    until(lambda: done(fabric, task) == {"data": "later", "host": "mainpc"}, LINKED_S, "mainpc's task")


def done(fabric: TwoHostFabric, task: Answer) -> Answer | None:
    """What a task that is done brought, without who did it; None where it is not done."""
    status = asked(fabric, "pc2", TASKS, "get_task", task_id=task["task_id"])
    return {key: status["result"][key] for key in ("data", "host")} if status["state"] == "done" else None


# who may what, on either host, with and without the other


def a_token(fabric: TwoHostFabric, name: str) -> str:
    """A token of the operator for the plain callers of a host."""
    secret = fabric.operator_secret()
    told = asked(fabric, name, GATEWAY, "issue_token", name="operator", secret=secret, scopes=["control"])
    assert "token" in told, told
    return str(told["token"])


def control(fabric: TwoHostFabric, name: str, token: str, port: int = 0) -> str:
    """What an order that needs control is answered at a supervisor: `not_found` where the caller may give it."""
    fields = {"agent_name": "nobody"} | ({"_token": token} if token else {})
    return str(asked(fabric, name, port or SUPERVISORS[name], "stop_agent", **fields)["code"])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_token_that_was_revoked_on_the_other_host_is_refused(fabric: TwoHostFabric, name: str) -> None:
    token, kept = a_token(fabric, name), a_token(fabric, name)
    assert control(fabric, name, "") == "forbidden"
    for port in SUPERVISORS.values():
        assert control(fabric, name, token, port) == "not_found"
    assert asked(fabric, fabric.other(name), GATEWAY, "revoke_token", token=token)["status"] == "success"
    until(lambda: all(refused(fabric, name, port, token) for port in PORTS.values()), 30, "its refusal everywhere")
    assert control(fabric, name, kept) == "not_found"
    assert not any(refused(fabric, name, port, kept) for port in PORTS.values())


def refused(fabric: TwoHostFabric, name: str, port: int, token: str) -> bool:
    """Whether a service answers nothing to the token's holder, not even what anyone may ask."""
    answer = asked(fabric, name, port, "info", _token=token)
    assert answer.get("code", "unauthenticated") == "unauthenticated", answer
    return bool(answer["status"] == "error")


def test_tokens_are_checked_on_either_host_while_the_link_is_cut(fabric: TwoHostFabric) -> None:
    tokens = {name: a_token(fabric, name) for name in PACKAGES}
    ended = a_token(fabric, "mainpc")
    with apart(fabric):
        for name in PACKAGES:
            assert control(fabric, name, tokens[name]) == "not_found"
            assert control(fabric, name, tokens[fabric.other(name)]) == "unauthenticated"
            assert control(fabric, name, forged(tokens[name])) == "unauthenticated"
            assert control(fabric, name, "") == "forbidden"
        assert asked(fabric, "pc2", GATEWAY, "revoke_token", token=ended)["status"] == "success"
        assert control(fabric, "mainpc", ended) == "not_found"
    until(lambda: control(fabric, "mainpc", ended) == "unauthenticated", LINKED_S, "the revocation to reach mainpc")
    assert control(fabric, "mainpc", tokens["mainpc"]) == "not_found"


def forged(token: str) -> str:
    """The token with another end of its signature."""
    head, signature = token.rsplit(".", 1)
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
