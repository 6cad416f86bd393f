"""A server that gives back what it gets: HTTP where it starts so (the body, with the same type), else bytes. `--host --port`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

METHODS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        first = await reader.read(65_536)
        if first[:4] in METHODS:
            await over_http(first, reader, writer)
        while first and first[:4] not in METHODS:
            writer.write(first)
            await writer.drain()
            first = await reader.read(65_536)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def over_http(first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while b"\r\n\r\n" not in first:
        first += await reader.readexactly(1)
    head, _, body = first.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    body += await reader.readexactly(int(fields.get(b"content-length", b"0")) - len(body))
    kind = fields.get(b"content-type", b"text/plain")
    body = body or head.split(b"\r\n")[0]
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (kind, len(body))
    )
    writer.write(b"" if head.startswith(b"HEAD") else body)
    await writer.drain()


async def run(host: str, port: int) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if os.environ.get("STAND_IN_TIED"):
        loop.add_reader(0, lambda: None if os.read(0, 4096) else stop.set())
    server = await asyncio.start_server(serve, host, port)
    print(f"listening on http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    asked, _ = parser.parse_known_args()
    asyncio.run(run(asked.host, asked.port))
