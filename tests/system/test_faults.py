"""A seeded schedule of faults on two hosts under load: what was acknowledged is there, no card is over-granted, every wait ends.

Each fault is one of FAULTS on one of its targets (a disk's and a clock's is every process of a host), for a while, then undone;
before the next one the fabric has to be well again within RECOVERY_S. `make test` runs a dozen, `TANDEM_FAULTS=200
TANDEM_SEED=7` that many from that seed (`make soak`). The story of a run is printed, so that a failing seed can be replayed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.clock import SteppedClock
from tests.lab.fabric import until
from tests.lab.netns import TwoHosts
from tests.lab.small_disk import fill
from tests.lab.two_hosts import PACKAGES, SERVICES, SUPERVISORS, TwoHostFabric, two_host_fabric
from tests.system.conftest import ECHO

FAULTS_RUN = int(os.environ.get("TANDEM_FAULTS", "12"))
SEED = int(os.environ.get("TANDEM_SEED", "1"))
RECOVERY_S = 120.0
LONGEST_S = 60.0
"""No call of the load may last longer: its own budget is 5 s, and a stopped process answers nobody."""
PROCESSES = (*SERVICES, *SUPERVISORS)
LINK = "the link"
KINDS = ("registrations", "requests", "leases", "tasks", "errors", "revocations", "look-ups")
HOLD = [sys.executable, str(Path(__file__).resolve().parents[2] / "examples" / "hold_vram.py")]


def kill(fabric: TwoHostFabric, target: str, _rng: random.Random) -> None:
    """The process is killed."""
    pid = fabric.pid(target)
    assert pid > 1, f"{target} has no process"
    os.kill(pid, signal.SIGKILL)
    if target in SUPERVISORS:
        fabric.running[target].wait(timeout=60)
        fabric.start(target)


def stop(fabric: TwoHostFabric, target: str, rng: random.Random) -> None:
    """The process hangs for a while."""
    pid = fabric.pid(target)
    assert pid > 1, f"{target} has no process"
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(rng.uniform(0.5, 4))
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def cut(fabric: TwoHostFabric, target: str, rng: random.Random) -> None:
    """Nothing passes for a while between the hosts, or between one process and the other host."""
    if target == LINK:
        fabric.lab.cut()
    else:
        fabric.lab.cut_ports(fabric.host(host_of(target)), ports_of(target))
    _while_it_lasts(fabric, rng)


def cut_one_way(fabric: TwoHostFabric, target: str, rng: random.Random) -> None:
    """Nothing from the host passes for a while, or nothing to the process; the other way stays open."""
    if target == LINK:
        sender = rng.choice(list(PACKAGES))
        fabric.lab.cut_one_way(fabric.host(sender), fabric.host(fabric.other(sender)))
    else:
        fabric.lab.cut_ports(fabric.host(host_of(target)), ports_of(target), both_ways=False)
    _while_it_lasts(fabric, rng)


def host_of(process: str) -> str:
    """The host a service or supervisor runs on."""
    return SERVICES[process][0] if process in SERVICES else process


def ports_of(process: str) -> tuple[int, int]:
    """The request and the events port of a service or supervisor."""
    port = SERVICES[process][1] if process in SERVICES else SUPERVISORS[process]
    return port, port + 500


def pull_cable(fabric: TwoHostFabric, target: str, rng: random.Random) -> None:
    """The host's port at the switch is down for a while."""
    fabric.lab.pull_cable(fabric.host(target))
    _while_it_lasts(fabric, rng)


def _while_it_lasts(fabric: TwoHostFabric, rng: random.Random) -> None:
    try:
        time.sleep(rng.uniform(0.5, 5))
    finally:
        fabric.lab.heal()


def fill_disk(fabric: TwoHostFabric, target: str, rng: random.Random) -> None:
    """The disk of the host's TANDEM_HOME is full for a while."""
    filler = fill(fabric.home(target))
    time.sleep(rng.uniform(0.5, 3))
    filler.unlink()


FAULTS: dict[str, tuple[Callable[[TwoHostFabric, str, random.Random], None], tuple[str, ...]]] = {
    "kill -9": (kill, PROCESSES),
    "SIGSTOP": (stop, PROCESSES),
    "cut": (cut, (LINK, *PROCESSES)),
    "one-way cut": (cut_one_way, (LINK, *PROCESSES)),
    "switch port down": (pull_cable, tuple(PACKAGES)),
    "disk full": (fill_disk, tuple(PACKAGES)),
}
CLOCK_STEP = "clock step"
FULL = "No space left on device"
"""What the held program says that could not write its use of the card down; it ends with 1, and so does its `tandem run`."""


class Counter(threading.Thread):
    """Reads every card of both hosts again and again, and remembers where one was over its size."""

    def __init__(self, fabric: TwoHostFabric) -> None:
        super().__init__(daemon=True)
        self._fabric = fabric
        self._over = threading.Event()
        self.most: dict[str, int] = {}
        self.exceeded: list[str] = []

    def run(self) -> None:
        while not self._over.wait(0.02):
            for card, (used, total) in self._fabric.used_bytes().items():
                self.most[card] = max(self.most.get(card, 0), used)
                if used > total:
                    self.exceeded.append(f"{card}: {used} of {total}")

    def stop(self) -> None:
        self._over.set()
        self.join()


class Loads:
    """The programs that ask, one a host, and those that compete for the cards."""

    def __init__(self, fabric: TwoHostFabric, folder: Path) -> None:
        self._fabric = fabric
        self._files = {name: folder / f"acknowledged-{name}" for name in PACKAGES}
        self._asking = {name: self._start(name, file) for name, file in self._files.items()}
        self._over = threading.Event()
        self._competing = [threading.Thread(target=self._compete, args=(name,), daemon=True) for name in PACKAGES]
        self.runs: list[tuple[int, str]] = []
        for one in self._competing:
            one.start()

    def _start(self, name: str, file: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.lab.load", name, str(file), *KINDS]
        return self._fabric.host(name).start(
            *command,
            env=self._fabric.environ_of(name) | {"TANDEM_LAB_SECRET": self._fabric.operator_secret()},
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _compete(self, name: str) -> None:
        """One after the other, programs that want most of a card."""
        size = "16GiB" if name == "mainpc" else "8GiB"
        while not self._over.is_set():
            run = self._fabric.tandem(
                name, "run", "--vram", size, "--wait", "2s", "--", *HOLD, size, "0.3", timeout_s=LONGEST_S * 2
            )
            self.runs.append((run.returncode, run.stderr))

    def quiet(self) -> None:
        """Nobody asks for more, and everybody has an answer; what they hold they hold."""
        self._over.set()
        for asking in self._asking.values():
            asking.send_signal(signal.SIGTERM)
        for name, asking in self._asking.items():
            assert asking.stdout is not None
            ended = threading.Thread(target=asking.stdout.readline, daemon=True)
            ended.start()
            ended.join(timeout=120)
            assert not ended.is_alive(), f"the load of {name} waits for ever"
        for one in self._competing:
            one.join(timeout=LONGEST_S * 3)
            assert not one.is_alive(), "`tandem run` waits for ever"

    def stop(self) -> None:
        """Everybody ends."""
        for name, asking in self._asking.items():
            _, errors = asking.communicate(timeout=60)
            assert asking.returncode == 0, f"the load of {name}: {errors}\n{self._asked_in_vain(name)}"

    def _asked_in_vain(self, name: str) -> str:
        """For each kind, who was refused last and how often with which words, and when; what the kinds had meanwhile."""
        lines = list(map(json.loads, self._files[name].read_text().splitlines()))
        told: list[str] = []
        for kind in (*KINDS, "tokens"):
            refused = [line for line in lines if line["kind"] == "refused" and line["of"] == kind]
            last = [line for line in refused if line["number"] == refused[-1]["number"]]
            told += [
                f"{kind} {line['number']} at {line['at']:.1f} after {line['took_s']:.1f} s: {line['code']} {line['error']}"
                for line in _without_repeats(last)
            ]
            had = [line["at"] for line in lines if line["kind"] == kind]
            told.append(f"{kind}: {len(had)} acknowledged, the last at {max(had, default=0.0):.1f}")
        return "\n".join(told)

    def acknowledged(self, kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """What was acknowledged on either host: request and answer."""
        return [(line["request"], line["answer"]) for line in self._lines() if line["kind"] == kind]

    def longest_s(self) -> float:
        """How long the longest call took."""
        return max(line["seconds"] for line in self._lines() if line["kind"] == "longest")

    def _lines(self) -> Iterator[dict[str, Any]]:
        for file in self._files.values():
            yield from map(json.loads, file.read_text().splitlines())


def _without_repeats(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without those that a breaker refused right after another."""
    return [line for line in lines if "breaker" not in line["error"]]


@contextmanager
def disks(folder: Path) -> Iterator[None]:
    """Each host's TANDEM_HOME on a small disk of its own."""
    mounts = [folder / name / "home" for name in PACKAGES]
    for mount in mounts:
        mount.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield
    finally:
        for mount in mounts:
            subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.timeout(600 + 120 * FAULTS_RUN)
def test_nothing_acknowledged_is_lost_whatever_breaks(
    two_hosts: TwoHosts, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    rng = random.Random(SEED)
    clocks = {name: SteppedClock(tmp_path / f"clock-{name}", needs("gcc")) for name in PACKAGES}
    agents = {name: [ECHO | {"name": f"echo-{name}", "depends_on": []}] for name in PACKAGES}
    environ = {name: clock.environ for name, clock in clocks.items()}
    with disks(tmp_path), two_host_fabric(two_hosts, tmp_path, agents=agents, environ=environ) as fabric:
        counter = Counter(fabric)
        counter.start()
        loads = Loads(fabric, tmp_path)
        for number, (fault, target) in enumerate(schedule(rng)):
            story = f"seed {SEED}, fault {number}: {fault} on {target}"
            print(story, flush=True)
            if fault == CLOCK_STEP:
                clocks[target].step(rng.choice([-86_400.0, -60.0, 60.0, 86_400.0]))
            else:
                FAULTS[fault][0](fabric, target, rng)
            until(lambda: is_well(fabric), RECOVERY_S, f"a fabric that is well after {story}")
        loads.quiet()
        until(lambda: is_well(fabric), RECOVERY_S, "a fabric that is well in the end")
        counter.stop()
        leases_are_held_once(fabric, loads.acknowledged("leases"))
        loads.stop()
        assert not counter.exceeded
        odd = [run for run in loads.runs if run[0] not in (0, 69, 75, 124) and FULL not in run[1]]
        assert not odd, odd
        assert any(code == 0 for code, _ in loads.runs)
        assert loads.longest_s() < LONGEST_S
        for kind in KINDS:
            assert len(loads.acknowledged(kind)) > FAULTS_RUN, kind
        registrations_are_there(fabric, loads.acknowledged("registrations"))
        requests_have_ended(fabric, loads.acknowledged("requests"))
        tasks_are_done(fabric, loads.acknowledged("tasks"))
        errors_are_counted_once(fabric, loads.acknowledged("errors"))
        revoked_tokens_are_refused(fabric, loads.acknowledged("revocations"))


def schedule(rng: random.Random) -> list[tuple[str, str]]:
    """The faults of this run: every pair before any comes twice, in an order of the seed's."""
    pairs = [(fault, target) for fault, (_, targets) in FAULTS.items() for target in targets]
    pairs += [(CLOCK_STEP, target) for target in PACKAGES]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < FAULTS_RUN:
        chosen += rng.sample(pairs, len(pairs))
    return chosen[:FAULTS_RUN]


def is_well(fabric: TwoHostFabric) -> bool:
    """Whether everything is ready on both hosts and the link is up."""
    return all(fabric.is_ready(name) for name in PACKAGES) and fabric.is_linked()


Acknowledged = list[tuple[dict[str, Any], dict[str, Any]]]


def asked(fabric: TwoHostFabric, service: str, request: dict[str, Any]) -> dict[str, Any]:
    """A service's answer to a caller on its own host."""
    host, port = SERVICES[service]
    answer = fabric.ask(host, port, request)
    assert answer is not None, f"{service} did not answer {request['action']}"
    return answer


def registrations_are_there(fabric: TwoHostFabric, acknowledged: Acknowledged) -> None:
    listed = asked(fabric, "core_orchestrator", {"action": "list_agents"})
    names = {agent["agent_name"] for agent in listed["agents"]}
    assert {request["agent_name"] for request, _ in acknowledged} <= names


def requests_have_ended(fabric: TwoHostFabric, acknowledged: Acknowledged) -> None:
    for request, answer in acknowledged:
        question = {"action": "get_request", "request_id": answer["request_id"]}

        def ended(question: dict[str, Any] = question) -> dict[str, Any] | None:
            status = asked(fabric, "core_orchestrator", question)
            return status if status.get("state") not in ("queued", "running") else None

        status = until(ended, 60, f"the end of {request['data']}")
        assert status is not None
        assert status["state"] == "done", status
        assert status["result"]["data"] == request["data"]


def leases_are_held_once(fabric: TwoHostFabric, acknowledged: Acknowledged) -> None:
    held: dict[str, int] = {}
    for name, port in SUPERVISORS.items():
        listed = fabric.ask(name, port, {"action": "list_leases"})
        assert listed is not None
        for lease in listed["leases"]:
            assert lease["lease_id"] not in held, f"{lease['lease_id']} is held twice"
            held[lease["lease_id"]] = lease["fencing_token"]
    for request, answer in acknowledged:
        assert held.get(answer["lease_id"]) == answer["fencing_token"], f"lease {request['model']} is lost"
    tokens = [answer["lease_id"] for _, answer in acknowledged]
    assert len(set(tokens)) == len(tokens), "a lease was granted to two"


def revoked_tokens_are_refused(fabric: TwoHostFabric, acknowledged: Acknowledged) -> None:
    for request, _ in acknowledged:
        told = asked(fabric, "security_gateway", {"action": "verify_token", "token": request["token"]})
        assert told["valid"] is False, told
    request, _ = acknowledged[-1]
    refused = asked(
        fabric, "resource_manager", {"action": "limit_tasks", "capability": "echo", "_token": request["token"]}
    )
    assert refused["code"] == "unauthenticated", refused


def tasks_are_done(fabric: TwoHostFabric, acknowledged: Acknowledged) -> None:
    for request, answer in acknowledged:
        question = {"action": "get_task", "task_id": answer["task_id"]}

        def done(question: dict[str, Any] = question) -> dict[str, Any] | None:
            status = asked(fabric, "resource_manager", question)
            return status if status.get("state") not in ("queued", "running") else None

        status = until(done, 60, f"the end of {answer['task_id']}")
        assert status is not None
        assert status["state"] == "done", status
        assert status["result"]["data"] == request["payload"]["data"]


def errors_are_counted_once(fabric: TwoHostFabric, acknowledged: Acknowledged) -> None:
    listed = asked(fabric, "error_bus", {"action": "list_error_groups", "limit": 1000})
    for name in PACKAGES:
        told = sum(request["agent"] == f"load-{name}" for request, _ in acknowledged)
        counted = [group["count"] for group in listed["groups"] if group["agents"] == [f"load-{name}"]]
        assert counted == [told], f"{name}: {told} errors were acknowledged, {counted} are counted"
