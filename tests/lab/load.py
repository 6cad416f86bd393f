"""A load on one host, as a program: callers that repeat each order with the same words until it is acknowledged.

    python -m tests.lab.load HOST FILE KIND...

What was acknowledged is a JSON line in FILE, written before the next order: {kind, number, request, answer, took_s, at}. What was
refused is a line of kind `refused`, and a line of kind `longest` at the end says how long the longest single call took. At
SIGTERM every caller waits for its last answer, at most PATIENCE_S; then the program says `quiet`, and lives on until its standard
input ends, so that its leases do. It exits 1 where somebody asked in vain.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.client.opening import directory_of_environment, open_client
from common.client.settings import ClientSettings
from common.client.sync import Client
from common.errors import TandemError

PATIENCE_S = 90.0
CALL_S = 5.0
PACE_S = 0.05
AGENTS = 50
"""Old agents of each host, which move with every registration."""
Order = tuple[str, str, dict[str, Any]]


def a_registration(host: str, number: int) -> Order:
    name = f"old-{host}-{number % AGENTS}"
    agent = {"agent_name": name, "host": "127.0.0.1", "port": 1 + number % 60_000, "capabilities": ["old"]}
    return "CoreOrchestrator", "register_agent", agent


def a_request(host: str, number: int) -> Order:
    words = {"capability": "echo", "data": f"{host} {number}", "idempotency_key": f"r-{host}-{number}", "wait_s": 2.0}
    return "CoreOrchestrator", "submit_request", words


def a_lease(host: str, number: int) -> Order:
    owner = {"agent_name": "load", "host": host, "pid": os.getpid()}
    key = f"l-{host}-{number}"
    asked = {"model": key, "bytes": 2**20, "idempotency_key": key, "owner": owner, "host": host, "wait_s": 2.0}
    return "ResourceManager", "acquire_lease", asked


def a_task(host: str, number: int) -> Order:
    words = {"data": f"{host} {number}"}
    asked = {"capability": "echo", "payload": words, "max_attempts": 50, "idempotency_key": f"t-{host}-{number}"}
    return "ResourceManager", "submit_task", asked


def an_error(host: str, number: int) -> Order:
    report = {"agent": f"load-{host}", "error_type": "Trouble", "message": f"trouble {number}"}
    return "ErrorBus", "report_error", report | {"report_id": f"e-{host}-{number}", "fingerprint": f"load-{host}"}


def a_look_up(_host: str, _number: int) -> Order:
    return "CoreOrchestrator", "find_agents", {"capability": "echo"}


def a_revocation(_host: str, token: str) -> Order:
    return "SecurityGateway", "revoke_token", {"token": token}


ORDERS: dict[str, Callable[[str, int], Order]] = {
    "registrations": a_registration,
    "requests": a_request,
    "leases": a_lease,
    "tasks": a_task,
    "errors": an_error,
    "look-ups": a_look_up,
}


class Load:
    """All callers of one host."""

    def __init__(self, host: str, file: Path) -> None:
        self._host = host
        self._file = file.open("a")
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.longest_s = 0.0
        self.failures: list[str] = []

    def tell(self, **line: Any) -> None:
        """Write a line down, now."""
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def repeat(self, kind: str) -> None:
        """One caller."""
        try:
            with open_client(ClientSettings(timeout_s=CALL_S), directory_of_environment()) as client:
                number = 0
                while not self.over.is_set():
                    number += 1
                    self._until_acknowledged(client, kind, number)
                    self.over.wait(PACE_S)
        except Exception as error:
            self.failures.append(f"{kind}: {error!r}")

    def _until_acknowledged(self, client: Client, kind: str, number: int) -> None:
        target, verb, request = self._order(client, kind, number)
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            began = time.monotonic()
            try:
                answer = client.call(target, verb, request, idempotent=True)
            except TandemError as error:
                self._took(time.monotonic() - began)
                self._refused(kind, number, error, began)
                if time.monotonic() > give_up_at:
                    raise AssertionError(f"number {number} was not acknowledged in {PATIENCE_S} s: {error}") from error
                time.sleep(PACE_S)
            else:
                self._took(took_s := time.monotonic() - began)
                self.tell(
                    kind=kind,
                    number=number,
                    request=request,
                    answer=answer,
                    took_s=round(took_s, 3),
                    at=time.monotonic(),
                )
                return

    def _order(self, client: Client, kind: str, number: int) -> Order:
        """What is asked next; what is to be revoked has to be issued first, and if nobody hears of that, it was for nothing."""
        if kind != "revocations":
            return ORDERS[kind](self._host, number)
        asked = {"name": "operator", "secret": os.environ["TANDEM_LAB_SECRET"]}
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                return a_revocation(self._host, client.call("SecurityGateway", "issue_token", asked)["token"])
            except TandemError as error:
                self._refused("tokens", number, error, time.monotonic())
                if time.monotonic() > give_up_at:
                    raise AssertionError(f"no token was issued in {PATIENCE_S} s: {error}") from error
                time.sleep(PACE_S)

    def _refused(self, kind: str, number: int, error: TandemError, began: float) -> None:
        now = time.monotonic()
        said = {"error": error.message, "code": error.code, "took_s": round(now - began, 3), "at": now}
        self.tell(kind="refused", of=kind, number=number, **said)

    def _took(self, seconds: float) -> None:
        self.longest_s = max(self.longest_s, seconds)


def main(host: str, file: Path, kinds: list[str]) -> int:
    load = Load(host, file)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: load.over.set())
    callers = [threading.Thread(target=load.repeat, args=(kind,), name=kind) for kind in kinds]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    load.tell(kind="longest", seconds=load.longest_s, failures=load.failures)
    print("\n".join(load.failures), file=sys.stderr)
    print("quiet", flush=True)
    sys.stdin.read()
    return 1 if load.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
