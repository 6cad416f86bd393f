"""One side of a contest in a process of its own: `python -m benchmarks.side CORE PEER ROLE ...`.

ROLE is serve, sequential, pipelined, drained or flood. It prints one line: the server its port, the client its figures as
JSON. CORE -1 pins to none. It ends when its standard input does, which is when the run does.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading

from benchmarks.peer import Peer, peer_named

MEASURE_S = 1.0
WARM_CALLS = 500
CLIENT_LIMIT_S = 120


def calls_for(seconds: float, calls: int) -> int:
    """How many calls fill MEASURE_S when `calls` took `seconds`."""
    return max(200, int(calls * MEASURE_S / seconds))


def sequential(peer: Peer, port: int) -> dict[str, float]:
    """p50 and p99 in microseconds of about MEASURE_S of calls, the first ones left out."""
    warm = peer.sequential(port, WARM_CALLS)
    times = peer.sequential(port, WARM_CALLS + calls_for(sum(warm), WARM_CALLS))[WARM_CALLS:]
    cuts = statistics.quantiles(times, n=100)
    return {"p50_us": statistics.median(times) * 1e6, "p99_us": cuts[98] * 1e6}


def pipelined(peer: Peer, port: int, in_flight: int) -> dict[str, float]:
    """Calls a second over about MEASURE_S with `in_flight` under way."""
    warm = max(1_000, 2 * in_flight)
    calls = max(warm, calls_for(peer.pipelined(port, warm, in_flight), warm))
    return {"per_s": calls / peer.pipelined(port, calls, in_flight)}


def drained(peer: Peer, port: int, in_flight: int, size: int) -> dict[str, float]:
    """The same for messages of `size` bytes, which are taken and not given back."""
    calls = 4 * in_flight
    calls = max(calls, calls_for(peer.drained(port, calls, in_flight, size), calls))  # type: ignore[attr-defined]
    return {"per_s": calls / peer.drained(port, calls, in_flight, size)}  # type: ignore[attr-defined]


def _end_with_the_run() -> None:
    os.read(0, 1)
    os._exit(1)


def main(core: str, name: str, role: str, *numbers: str) -> None:
    if int(core) >= 0:
        os.sched_setaffinity(0, {int(core)})
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    peer = peer_named(name)
    given = [int(number) for number in numbers]
    if role == "serve":
        peer.serve(lambda port: print(port, flush=True))
        return
    if role == "flood":
        print(0, flush=True)
        peer.flood(*given)  # type: ignore[attr-defined]
        return
    signal.alarm(CLIENT_LIMIT_S)
    if role == "sequential":
        print(json.dumps(sequential(peer, *given)))
    elif role == "pipelined":
        print(json.dumps(pipelined(peer, *given)))
    elif role == "drained":
        print(json.dumps(drained(peer, *given)))


if __name__ == "__main__":
    main(*sys.argv[1:])
