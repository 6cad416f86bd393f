"""Counts words, with pyzmq alone: capability `count_words`. It promises a heartbeat and keeps the promise."""

import json
import os
import re
import time

import zmq

NAME = os.environ.get("TANDEM_AGENT_NAME") or "bare-counter"
PORT = int(os.environ.get("TANDEM_PORT") or 0)
HEALTH_PORT = int(os.environ.get("TANDEM_HEALTH_PORT") or 0)
SAID = re.search(r"CoreOrchestrator=(\d+)", os.environ.get("TANDEM_SERVICES", ""))
REGISTRY = f"tcp://127.0.0.1:{SAID[1] if SAID else 7000}"
TTL_S = 15.0
STARTED = time.time()
BOOT = f"{os.getpid()}-{STARTED:.0f}"

context = zmq.Context()


def ask_registry(message: dict) -> dict:
    """One question, one answer; a fresh socket each time, since a REQ socket is of no use after a time-out."""
    with context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 2_000)
        socket.connect(REGISTRY)
        socket.send(json.dumps(message).encode())
        return json.loads(socket.recv())


def register(port: int) -> str:
    """Say where we are; returns the registry's boot, which changes when it begins a new life."""
    answer = ask_registry(
        {
            "action": "register_agent",
            "agent_name": NAME,
            "host": "127.0.0.1",
            "port": port,
            "health_check_port": HEALTH_PORT,
            "capabilities": ["count_words"],
            "idempotent": ["count_words"],
            "ttl_s": TTL_S,
            "location": os.environ.get("TANDEM_HOST", ""),
            "boot": BOOT,
            "pid": os.getpid(),
        }
    )
    return answer["boot"] if answer["status"] == "success" else ""


def beat(port: int, known: str) -> str:
    """Keep the promise; register anew when the registry forgot us or began a new life. Returns the boot it knows us by."""
    try:
        if known:
            answer = ask_registry({"action": "heartbeat", "agent_name": NAME})
            if answer["status"] == "success" and answer["boot"] == known:
                return known
        return register(port)
    except zmq.Again:
        return known


def answer(frame: bytes) -> dict:
    """The one reply to one message, whatever its bytes."""
    if frame in (b"ping", b"health"):
        return health()
    try:
        call = json.loads(frame)
    except (ValueError, RecursionError):
        call = None
    action = call.get("action") if isinstance(call, dict) else None
    if not isinstance(action, str):
        return error("bad_request", "send one JSON object with `action`")
    if action in ("ping", "health_check"):
        return health()
    if action != "count_words":
        return error("unknown_verb", f"no verb {action!r} here")
    data = call.get("data")
    if not isinstance(data, str):
        return error("bad_request", "`data` is not a text")
    return {"status": "success", "words": len(data.split())}


def health() -> dict:
    """What every process of the fabric answers to `ping` and `health_check`."""
    uptime = time.time() - STARTED
    return {"status": "ok", "ready": True, "service": NAME, "version": "1", "uptime": uptime, "boot": BOOT}


def error(code: str, text: str) -> dict:
    """A refusal."""
    return {"status": "error", "code": code, "error": text, "message": text, "retryable": False}


def main() -> None:
    """Serve one call at a time, and beat every third of the promise."""
    socket = context.socket(zmq.REP)
    socket.bind(f"tcp://127.0.0.1:{PORT or '*'}")
    port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    if HEALTH_PORT:
        socket.bind(f"tcp://127.0.0.1:{HEALTH_PORT}")
    known, next_beat = "", 0.0
    while True:
        if time.monotonic() >= next_beat:
            known = beat(port, known)
            next_beat = time.monotonic() + (TTL_S / 3 if known else 1.0)
        if socket.poll(1_000):
            socket.send(json.dumps(answer(socket.recv())).encode())


if __name__ == "__main__":
    main()
