"""Many agents that do nothing but answer: `python -m benchmarks.answerers COUNT` serves so many ports from one process.

It prints the ports as one line of JSON. Each line it is sent is answered with one: how many pings each port has had.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Final

import uvloop
import zmq

ANSWER: Final = b'{"status":"ok","ready":true,"service":"reader","version":"1.0","uptime":1.0}'


class Answerer:
    """One port, as an agent of any language has it: a ROUTER that answers each message with its health."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], loop: asyncio.AbstractEventLoop) -> None:
        self.asked = 0
        self._socket = context.socket(zmq.ROUTER)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        loop.add_reader(int(self._socket.getsockopt(zmq.FD)), self._drain)
        self._drain()

    def _drain(self) -> None:
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            *envelope, _ = self._socket.recv_multipart()
            self._socket.send_multipart([*envelope, ANSWER])
            self.asked += 1


def room_for_many() -> None:
    """As many descriptors as this process may have: each port takes three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def main(count: int) -> None:
    loop = asyncio.get_running_loop()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * count + 64)
    answerers = [Answerer(context, loop) for _ in range(count)]
    print(json.dumps([answerer.port for answerer in answerers]), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps([answerer.asked for answerer in answerers]), flush=True)


if __name__ == "__main__":
    room_for_many()
    uvloop.install()
    asyncio.run(main(int(sys.argv[1])))
