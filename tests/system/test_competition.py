"""Programs that know nothing of Tandem compete for two cards under `tandem run`; an outside counter reads the cards' folders."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.fabric import ROOT, Fabric, until

GIB = 2**30
HOLD = [sys.executable, str(ROOT / "examples" / "hold_vram.py")]


class Counter(threading.Thread):
    """Reads every card again and again, and remembers the worst."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(daemon=True)
        self._fabric = fabric
        self._over = threading.Event()
        self.worst: dict[str, int] = {}
        self.exceeded: list[str] = []

    def run(self) -> None:
        while not self._over.wait(0.01):
            for card, (used, total) in self._fabric.used_bytes().items():
                self.worst[card] = max(self.worst.get(card, 0), used)
                if used > total:
                    self.exceeded.append(f"{card}: {used} of {total}")

    def stop(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def counting(fabric: Fabric) -> Iterator[Counter]:
    counter = Counter(fabric)
    counter.start()
    try:
        yield counter
    finally:
        counter.stop()


def leases_of(fabric: Fabric) -> list[dict[str, object]]:
    answer = fabric.ask("rm", {"action": "list_leases"})
    assert answer is not None
    found: list[dict[str, object]] = answer["leases"]
    return found


def test_fifty_parallel_runs_never_exceed_a_card(fabric: Fabric, tmp_path: Path) -> None:
    rng = random.Random(50)
    runs: list[tuple[subprocess.Popen[str], Path]] = []
    with counting(fabric) as counter:
        for number in range(50):
            gib = rng.choice([2, 3, 5, 8, 11, 16, 20])
            log = tmp_path / f"run-{number}.err"
            with log.open("w") as stderr:
                command = [
                    "run",
                    "--vram",
                    f"{gib}GiB",
                    "--model",
                    f"m{number}",
                    "--wait",
                    "2s" if number % 2 else "60s",
                    "--",
                    *HOLD,
                    f"{gib}GiB",
                    "1",
                ]
                run = fabric.popen(*command, stdin=subprocess.DEVNULL, stderr=stderr)
                os.setpriority(os.PRIO_PROCESS, run.pid, 10)  # they compete for the cards, not for the processor
                runs.append((run, log))
        codes = [run.wait(timeout=300) for run, _ in runs]
    told = "\n".join(f"{code}: {log.read_text()}" for (_, log), code in zip(runs, codes, strict=True))
    assert not counter.exceeded
    assert set(codes) == {0, 75}, told
    assert max(counter.worst.values()) > 0, told
    for (_, log), code in zip(runs, codes, strict=True):
        if code == 75:
            reason = log.read_text()
            assert "GiB" in reason
            assert "free" in reason
    until(lambda: not leases_of(fabric), 5, "the last lease to come back")


def test_kill_9_of_a_holder_returns_its_bytes(fabric: Fabric) -> None:
    holder = fabric.popen(
        "run", "--vram", "20GiB", "--model", "held", "--", *HOLD, "20GiB", "60", stdin=subprocess.DEVNULL
    )
    try:
        held = until(lambda: leases_of(fabric), 20, "the lease")
        assert len(held) == 1
        until(lambda: any(used for used, _ in fabric.used_bytes().values()), 10, "the bytes in use")
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=60)
        until(lambda: not leases_of(fabric), 5, "the lease to end with its holder")
        until(
            lambda: not any(used for used, _ in fabric.used_bytes().values()), 5, "the command to end with its holder"
        )
        stale = {"lease_id": held[0]["lease_id"], "fencing_token": held[0]["fencing_token"]}
        refused = fabric.ask("rm", {"action": "renew_lease", **stale})
        assert refused is not None
        assert refused["code"] in {"stale_fence", "not_found"}
    finally:
        if holder.poll() is None:
            os.kill(holder.pid, signal.SIGKILL)
    after = fabric.tandem("run", "--vram", "20GiB", "--wait", "10s", "--", "true")
    assert after.returncode == 0, after.stderr


def test_who_gives_up_says_what_it_needed_and_what_was_free(fabric: Fabric) -> None:
    refused = fabric.tandem("run", "--vram", "100GiB", "--", "true")
    assert refused.returncode in {75, 76}
    assert "100.0 GiB" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 3


def test_the_command_keeps_its_own_exit_code(fabric: Fabric) -> None:
    assert fabric.tandem("run", "--vram", "1GiB", "--", "sh", "-c", "exit 7").returncode == 7
    assert fabric.tandem("run", "--vram", "1GiB", "--", "no-such-command").returncode == 127
    shown = fabric.tandem("run", "--vram", "1GiB", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert shown.stdout.startswith("GPU-")
