"""The least that asks many: `python -m benchmarks.pinging PORT...` pings each port once a second with bare blocking sockets.

Every second all are asked and then all are read; nothing is timed, judged or kept. It prints one line as it begins.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import zmq

from benchmarks.answerers import room_for_many

PING: Final = b'{"action":"health_check","_deadline_ms":1000}'


def main(ports: list[str]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * len(ports) + 64)
    sockets = [context.socket(zmq.DEALER) for _ in ports]
    for socket, port in zip(sockets, ports, strict=True):
        socket.connect(f"tcp://127.0.0.1:{port}")
    print("pinging", flush=True)
    due = time.monotonic()
    while True:
        for socket in sockets:
            socket.send_multipart([b"", PING])
        for socket in sockets:
            socket.recv_multipart()
        due = max(due + 1.0, time.monotonic())
        time.sleep(due - time.monotonic())


if __name__ == "__main__":
    room_for_many()
    main(sys.argv[1:])
