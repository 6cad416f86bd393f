"""`tandem logs [-f] NAME`: a process's log, read from the supervisor that keeps it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

import click

from common.api.supervisor import READ_LOG, LogText, ReadLog
from common.client.sync import Client
from common.errors import NotFound, TandemError, Unavailable
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import with_host, with_json

POLL_S: Final = 0.5
BYTES_PER_LINE: Final = 512
"""So many bytes are read from the log's end for each line asked for; lines longer than that make them fewer."""


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, 100_000), default=40, show_default=True, help="The last so many.")
@with_host
@with_json
def command(name: str, follow: bool, lines: int, host: str, as_json: bool) -> Exit:
    """The log of a process, or of a model's engine; -f follows it.

    JSON: {"agent_name", "host", "text", "next_offset", "rotated"}; with -f one such document a line for each piece.
    """
    with asking.fabric() as client:
        where = _host_of(client, name, host)
        piece = client.call(f"{asking.SUPERVISOR}{where}", READ_LOG, tail(name, lines))
        if not (piece.text or follow or as_json):
            output.note(f"{name} has logged nothing yet")
        show(name, where, last_lines(piece, lines), as_json)
        while follow:
            piece = _next(client, name, where, piece)
            if piece.text:
                show(name, where, piece, as_json)
    return Exit.OK


def _host_of(client: Client, name: str, host: str) -> str:
    """The host that has the process, or else the one that has a model of this name, the one where it runs first."""
    try:
        return asking.host_of(client, name, host)
    except NotFound:
        named = []
        with suppress(TandemError):
            found = asking.managed_models(client, host).models
            named = [model for model in found if name in (model.name, *model.aliases)]
        if not named:
            raise
        return min(named, key=lambda model: model.pid == 0).host


def tail(name: str, lines: int) -> ReadLog:
    """The question for the log's last lines."""
    wanted = max(1, lines * BYTES_PER_LINE)
    return ReadLog(agent_name=name, offset=-wanted, limit=wanted)


def last_lines(piece: LogText, lines: int) -> LogText:
    """The piece with only its last lines."""
    kept = piece.text.splitlines(keepends=True)[-lines:] if lines else []
    return LogText(text="".join(kept), next_offset=piece.next_offset, rotated=piece.rotated)


def show(name: str, host: str, piece: LogText, as_json: bool) -> None:
    """A piece of the log as it is, or as a document."""
    if as_json:
        told = {"text": piece.text, "next_offset": piece.next_offset, "rotated": piece.rotated}
        output.say_json({"agent_name": name, "host": host, **told})
        return
    if piece.rotated:
        output.note(f"the log of {name} was rotated")
    output.write(piece.text)


def _next(client: Client, name: str, host: str, seen: LogText) -> LogText:
    asked = ReadLog(agent_name=name, offset=seen.next_offset)
    time.sleep(POLL_S)
    try:
        return client.call(f"{asking.SUPERVISOR}{host}", READ_LOG, asked)
    except Unavailable as away:
        output.note(f"the supervisor of {host} is away ({away.message}); waiting for it")
        return _return_of(client, host, asked)


def _return_of(client: Client, host: str, asked: ReadLog) -> LogText:
    while True:
        time.sleep(POLL_S)
        try:
            return client.call(f"{asking.SUPERVISOR}{host}", READ_LOG, asked)
        except Unavailable:
            continue
