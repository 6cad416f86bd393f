"""Owners of VRAM on one host, as a program: processes that lease, hold, share and give back, honest or not as they are told.

    python -m tests.lab.vram_actors HOST FOLDER

An order is a line of JSON on standard input (`Order`), and the answer a line with the pid of the process that carries it out: a
fork of this one, which has everything imported and nothing opened. What it holds on a simulated card it writes there; what it was
acknowledged and has not given back is in a file of its own in FOLDER/grants, and every answer it waited for is a line in
FOLDER/waits. An owner ends by itself after its time, or lives until it is ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from common.client.opening import directory_of_environment, open_client
from common.client.settings import at_own_pace
from common.client.sync import Client
from common.config.settings import Settings
from common.errors import TandemError
from common.gpu import process_identity
from common.gpu.simulated import GIB, cards_folder, use_bytes
from common.ids import new_id
from common.telemetry.system_clock import system_rng

ANSWER_S: Final = 3.0
"""An answer may come so long after the wait that was asked for; then the owner asks elsewhere."""
ASLEEP_BYTES: Final = 256 * 2**20
RETRY_ELSEWHERE: Final = frozenset({"unavailable", "deadline_exceeded", "interrupted", "cancelled"})


class Order(msgspec.Struct, kw_only=True):
    """What an owner is to do.

    `kind`: `batch` uses its lease all the time, `honest` gives it back when asked, `sleeper` sleeps when asked and wakes again,
    `liar` says done and keeps its memory, `user` joins whoever has the model, `far` leases on any host by TTL alone and holds
    nothing. `stays`: it lives until it is ended. `stubborn`: TERM does not end it.
    """

    name: str
    kind: str
    model: str
    gib: float
    wait_s: float
    hold_s: float
    stays: bool = False
    stubborn: bool = False
    ttl_s: float = 60.0
    priority: int = 50


class Owner:
    """One owner's life."""

    def __init__(self, order: Order, host: str, folder: Path) -> None:
        self._order = order
        self._host = host
        self._own = process_identity.this_process()
        self._waits = os.open(folder / "waits", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._grants = folder / "grants" / f"{self._own.pid}-{self._own.start_time}"
        self._lock = threading.Lock()
        self._held: dict[str, dict[str, Any]] = {}
        self._taken_back: set[str] = set()
        self._asked = threading.Event()
        self._port = 0

    def live(self) -> None:
        """Leases, holds and gives back, or stays."""
        order = self._order
        if order.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if order.kind in ("honest", "sleeper", "liar"):
            self._serve()
        with open_client(at_own_pace(ANSWER_S), directory_of_environment()) as client:
            granted = self._acquire(client)
            if granted is not None:
                self._hold(granted)
                self._asked.wait(order.hold_s)
                if order.kind == "sleeper" and self._asked.is_set():
                    granted = self._wake(client)
                if not order.stays and granted is not None:
                    self._release(client, granted)
        while order.stays:
            time.sleep(60)

    def _wake(self, client: Client) -> dict[str, Any] | None:
        """The same lease under another token, and its bytes."""
        with self._lock:
            self._taken_back.clear()
        granted = self._acquire(client)
        if granted is not None:
            self._hold(granted)
        return granted

    def _acquire(self, client: Client) -> dict[str, Any] | None:
        """The lease from ResourceManager, or from this host's supervisor where that says nothing in time; None: refused."""
        for target in ("ResourceManager", f"Supervisor/{self._host}"):
            asked, timeout_s = self._request(), self._order.wait_s + ANSWER_S
            began, code, answer = time.monotonic(), "success", None
            try:
                answer = client.call(target, "acquire_lease", asked, timeout_s=timeout_s)
            except TandemError as error:
                code = error.code.value
            took_s = time.monotonic() - began
            self._tell(target=target, code=code, wait_s=asked["wait_s"], timeout_s=timeout_s, took_s=round(took_s, 3))
            if code not in RETRY_ELSEWHERE:
                return self._acknowledged(answer, began) if answer is not None else None
        return None

    def _request(self) -> dict[str, Any]:
        order = self._order
        asked: dict[str, Any] = {
            "model": order.model,
            "bytes": int(order.gib * GIB),
            "wait_s": order.wait_s,
            "priority": order.priority,
            "ttl_s": order.ttl_s,
            "in_use": order.kind in ("batch", "user", "far"),
            "share": order.kind == "user",
            "idempotency_key": new_id("key", system_rng()),
        }
        if order.kind != "far":
            owner = {"agent_name": order.name, "host": self._host, "pid": self._own.pid}
            asked |= {"host": self._host, "owner": owner | {"start_time": self._own.start_time}}
        if self._port:
            verb = "sleep" if order.kind == "sleeper" else "unload"
            asked["unload"] = {"port": self._port, verb: "give_back", "timeout_s": 2.0}
        return asked

    def _acknowledged(self, granted: dict[str, Any], began: float) -> dict[str, Any]:
        until = began + float(granted["expires_in_s"]) if self._order.kind == "far" else 0.0
        what = {"card_uuid": granted["card_uuid"], "bytes": granted["bytes"], "until": until}
        with self._lock:
            if granted["lease_id"] not in self._taken_back:
                self._write({granted["lease_id"]: what})
        return granted

    def _hold(self, granted: dict[str, Any]) -> None:
        with self._lock:
            if granted["lease_id"] in self._held and self._order.kind != "far" and granted["bytes"]:
                use_bytes(self._card(granted["card_uuid"]), granted["bytes"])

    def _release(self, client: Client, granted: dict[str, Any]) -> None:
        """Lets go of the memory, then of the lease; where nobody hears of that the lease ends with this process."""
        with self._lock:
            use_bytes(self._card(granted["card_uuid"]), 0)
            self._write({})
        released = {"lease_id": granted["lease_id"], "fencing_token": granted["fencing_token"]}
        try:
            client.call(f"Supervisor/{granted['host']}", "release_lease", released, timeout_s=ANSWER_S)
        except TandemError as error:
            self._tell(target="release", code=error.code.value, wait_s=0, timeout_s=ANSWER_S, took_s=0)

    def _serve(self) -> None:
        socket = zmq.Context().socket(zmq.REP)
        self._port = socket.bind_to_random_port("tcp://127.0.0.1")
        threading.Thread(target=self._answer, args=(socket,), daemon=True).start()

    def _answer(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            asked = json.loads(socket.recv())
            self._tell(target="asked to give back", code=self._order.kind, wait_s=0, timeout_s=0, took_s=0)
            self._give_back(str(asked["lease_id"]))
            socket.send(b'{"status": "success"}')

    def _give_back(self, lease_id: str) -> None:
        if self._order.kind == "liar":
            return
        with self._lock:
            self._taken_back.add(lease_id)
            held = self._held.get(lease_id)
            if held is not None:
                left = min(ASLEEP_BYTES, held["bytes"]) if self._order.kind == "sleeper" else 0
                use_bytes(self._card(held["card_uuid"]), left)
                self._write({lease_id: held | {"bytes": left}} if left else {})
        self._asked.set()

    def _write(self, held: dict[str, dict[str, Any]]) -> None:
        """Says what is held by acknowledged leases, as a whole."""
        self._held = held
        unfinished = self._grants.with_name(f".{self._grants.name}")
        unfinished.write_text(json.dumps(list(held.values())))
        unfinished.replace(self._grants)

    def _card(self, uuid: str) -> Path:
        cards = cards_folder(Settings.read().home, self._host)
        return next(file.parent for file in cards.glob("*/card.json") if uuid in file.read_text())

    def _tell(self, **line: Any) -> None:
        os.write(self._waits, json.dumps({"name": self._order.name} | line).encode() + b"\n")


def _reap(_number: int, _frame: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(host: str, folder: Path) -> None:
    """Starts an owner for each order, until standard input ends."""
    (folder / "grants").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            try:
                Owner(order, host, folder).live()
            finally:
                os._exit(0)
        print(json.dumps({"name": order.name, "pid": pid}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
