"""The `tandem` command: which subcommands there are, each loaded when it is called, and how any error ends one.

Nothing here talks to the fabric, so that `tandem --help` is quick.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

import click

from tandem.exits import Exit, described, exit_for

COMMANDS: Final = {
    "status": "The whole fabric on one screen.",
    "agents": "Who is registered, where, and alive or not.",
    "health": "The hub's verdict on everything, with its reason.",
    "gpus": "The cards, by what NVML measures and what is leased.",
    "leases": "Who holds VRAM, and how much of it.",
    "models": "Managed models: where they are; load one, stop one.",
    "why": "Why a lease or a model was granted, refused or ended.",
    "plan": "What would happen to a request for VRAM now.",
    "run": "Run a command with a lease on a card.",
    "tasks": "Durable work: queues, states, results; submit, cancel, replay.",
    "errors": "What went wrong, grouped and counted; show, resolve.",
    "logs": "A process's log; -f follows it.",
    "call": "Call any verb, JSON in and out.",
    "heal": "What each host did alone, and whether anything is in conflict.",
    "adopt": "Engines that run, and other tools' configurations, as managed models.",
    "check": "Every problem of startup files, with its line.",
    "agent": "Start, stop or restart a process.",
    "start": "Run both hosts on this machine.",
    "invite": "Let another host join this one.",
    "join": "Join the host that invited this one.",
    "expel": "Send a host away.",
}
"""Each command's line in the help; its module in tandem.commands has its name."""


class Commands(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, from its module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tandem.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names; a usage error suggests the nearest."""
        close = [] if args[0] in COMMANDS else difflib.get_close_matches(args[0], COMMANDS, n=1)
        if close:
            ctx.fail(f"No such command {args[0]!r}; did you mean {close[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The exit codes, a line each."""
        formatter.write("\n" + described() + "\n")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="tandem-fabric", prog_name="tandem")
def cli() -> None:
    """Two GPU hosts as one fabric: agents, requests and VRAM leases.

    Every command takes --json: then stdout holds one JSON document, also when it fails ({"error": {...}}).
    TANDEM_SERVICES says where services are, TANDEM_HOST which host this is, TANDEM_HOME where the fabric keeps its things.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `tandem` with these arguments (default: the process's) and exit; no error shows a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_what_is_closed()
    _keep_logs_quiet()
    code = ended(words)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _nobody_reads()
    except OSError as error:
        code = _failed(error, [])
    sys.exit(code)


def _open_what_is_closed() -> None:
    """A stream that the caller closed (`>&-`) takes everything and shows nothing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  open to the end


def _keep_logs_quiet() -> None:
    """What the library logs is told by our own errors; without a handler Python would print it to stderr."""
    import logging

    logging.getLogger("tandem").addHandler(logging.NullHandler())


def ended(words: list[str]) -> int:
    """Run the command line to its end and return the exit code."""
    try:
        code: Any = cli.main(words, prog_name="tandem", standalone_mode=False)
        return int(code or 0)
    except click.ClickException as error:
        return _misused(error, words)
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except (BrokenPipeError, SystemExit):  # click leaves so when a pipe is broken, and only then
        return _nobody_reads()
    except Exception as error:
        return _failed(error, words)


def _misused(error: click.ClickException, words: list[str]) -> int:
    if _asks_json(words):
        _say_error({"code": "usage", "message": error.format_message(), "retryable": False})
    error.show()
    return Exit.USAGE


def _failed(error: Exception, words: list[str]) -> int:
    from common.errors import Internal, TandemError
    from tandem import output

    told = error if isinstance(error, TandemError) else _unexpected(error)
    if isinstance(told, Internal) and told is not error:
        output.note(told.message)
    else:
        output.note(output.error_line(told))
    if _asks_json(words):
        _say_error(output.error_document(told)["error"])
    if isinstance(error, OSError):
        _flush_or_discard()
    return exit_for(told)


def _unexpected(error: Exception) -> Any:
    from common.errors import Internal, Unavailable

    if isinstance(error, OSError):
        return Unavailable(
            f"{error.filename or 'the system'}: {error.strerror or error}", mend="check it and try again"
        )
    return Internal(f"{type(error).__name__}: {error}; this is a bug in tandem")


def _asks_json(words: list[str]) -> bool:
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own and own[:1] != ["run"]


def _say_error(told: dict[str, Any]) -> None:
    from tandem.output import say_json

    with suppress(OSError):  # stderr has told it
        say_json({"error": told})


def _flush_or_discard() -> None:
    """What stdout would not take is not tried, and told of, again."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()


def _nobody_reads() -> int:
    """Stdout's reader went away: end as SIGPIPE would have it, without a word."""
    _discard_stdout()
    return 128 + 13


def _discard_stdout() -> None:
    """What is left for stdout goes nowhere, so that the interpreter's own flush at the end does not complain."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open to the end
    os.dup2(sys.stdout.fileno(), 1)
