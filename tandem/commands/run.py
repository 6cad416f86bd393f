"""`tandem run`: a command that knows nothing of Tandem, under a lease on a card of this machine."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from common.config.units import Duration
from common.gpu.container_words import container_run
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import Terms, duration, some_time, with_terms


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@with_terms
@click.option("--model", default="", help="The name it is leased under; default: the program's or Python script's.")
@click.option("--wait", "wait_s", type=duration, default="60s", show_default=True, metavar="TIME", help="For room.")
@click.option("--host", default="", metavar="HOST", help="Which host this is; default: TANDEM_HOST, or found out.")
@click.option("--ttl", "ttl_s", type=some_time, default="60s", show_default=True, metavar="TIME", help="Of the lease.")
@click.option("--preemptible", is_flag=True, help="May be evicted whenever somebody needs the room.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a JSON report.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but warnings and errors.")
@click.option("--json", "as_json", is_flag=True, help="Tell the progress as JSON lines on stderr.")
@click.argument("words", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED, required=True)
def command(
    terms: Terms,
    model: str,
    wait_s: Duration,
    host: str,
    ttl_s: Duration,
    preemptible: bool,
    report: Path | None,
    quiet: bool,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Run a command with a lease on a card.

    The command sees the card by CUDA_VISIBLE_DEVICES and its lease by TANDEM_LEASE_ID and TANDEM_FENCING_TOKEN. The lease hangs
    on this process: when it ends, however that comes, the command ends and the bytes come back. What the command leaves
    running in its process group is ended before the lease is given back.

    `docker run`, `podman run` and `nerdctl run` are told the card (--gpus device=UUID, or its CDI name) unless the command says
    itself which cards the container sees; what the container holds is counted as the lease's, and it ends with the command.

    A --preemptible command is ended with TERM, then KILL, when its lease is evicted; run it again when it exits with 75.

    Exits as the command does (128+N if by signal N); 75 when there was no room in time or the lease was lost, 126 and 127
    when the command cannot be executed or found. Stdout is the command's; with --json stderr has one JSON object a line
    ({"event": "waiting"|"granted"|"warning"|"failed"|"ended", "message": ...}).

    The report: {"command", "exit_code", "lease", "leased_bytes", "peak_bytes", "waited_s", "ran_s", "error"}.
    """
    unfit = unfit_command(words[0])
    if unfit is not None:
        output.note(f"{words[0]}: {'not found' if unfit is Exit.NOT_FOUND else 'not executable'}")
        return unfit
    if host and host not in asking.hosts():
        raise click.BadParameter(f"no host {host!r}; known: {', '.join(asking.hosts())}", param_hint="--host")
    if terms.pinned and preemptible:
        raise click.UsageError("--pinned and --preemptible contradict each other")
    refuse_detached(words)
    if report is not None:
        prepare(report)
    from tandem.running import Order, run_whole
    from tandem.telling import Teller

    order = Order(
        command=list(words),
        terms=terms,
        model=model_named(model, words),
        wait_s=float(wait_s),
        ttl_s=float(ttl_s),
        host=host,
        preemptible=preemptible,
    )
    ended = asyncio.run(run_whole(order, Teller(quiet, as_json)))
    if report is not None:
        report.write_text(output.json_document(ended, indented=True) + "\n")
    return ended.exit_code


def refuse_detached(words: tuple[str, ...]) -> None:
    """A usage error where the command starts a container that would outlive its lease."""
    container = container_run(words)
    if container is not None and container.detached:
        raise click.UsageError(
            "a detached container would outlive its lease; leave -d out, the command ends with the container"
        )


def unfit_command(program: str) -> Exit | None:
    """Why a shell could not run `program`; None when it can."""
    if shutil.which(program) is not None:
        return None
    there = Path(program).exists() if "/" in program else shutil.which(program, mode=0) is not None
    return Exit.NOT_EXECUTABLE if there else Exit.NOT_FOUND


def model_named(given: str, command: Sequence[str]) -> str:
    """The model's name: the given one, else the program's or its Python script's, with what a name cannot hold replaced."""
    if given:
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:/@ -]{0,127}", given) is None:
            raise click.BadParameter(
                f"{given!r} is no name: up to 128 letters, digits and _.:/@ - after a letter or digit",
                param_hint="--model",
            )
        return given
    return re.sub(r"[^A-Za-z0-9_.-]", "_", program_of(command)).lstrip(".-")[:128] or "command"


def program_of(command: Sequence[str]) -> str:
    """What runs: the program, or what Python is told to run. Else all scripts were one model, measured as one."""
    program = Path(command[0]).name
    rest = iter(command[1:] if re.fullmatch(r"python[0-9.]*", program) else ())
    for word in rest:
        if word in ("-W", "-X"):
            next(rest, "")
        elif word == "-m":
            return next(rest, program)
        elif not word.startswith("-"):
            return Path(word).name or program
        elif word == "-c":
            break
    return program


def prepare(report: Path) -> None:
    """Make sure that the report can be written, before anything runs."""
    try:
        report.touch()
    except OSError as error:
        raise click.BadParameter(f"{report} cannot be written: {error.strerror}", param_hint="--report") from None
