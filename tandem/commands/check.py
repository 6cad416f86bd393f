"""`tandem check`: startup files judged without starting anything."""

from __future__ import annotations

from pathlib import Path

import click

from tandem import output
from tandem.exits import Exit
from tandem.options import with_json


@click.command()
@click.argument("files", metavar="CONFIG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_json
def command(files: tuple[Path, ...], as_json: bool) -> Exit:
    """Every problem of startup files, with its line.

    Several files are judged together, as hosts that share this machine. Exits 1 when there is a problem.
    JSON: {"files": [path], "problems": [{"file", "line", "place", "message", "mend"}]}.
    """
    from common.config.document import spell
    from common.config.loader import load_together

    distinct = tuple(dict.fromkeys(files))
    startups, problems = load_together(distinct)
    if as_json:
        told = [
            {
                "file": each.file,
                "line": each.line,
                "place": spell(each.place),
                "message": each.message,
                "mend": each.mend,
            }
            for each in problems
        ]
        output.say_json({"files": [str(file) for file in distinct], "problems": told})
        return Exit.BAD_ANSWER if problems else Exit.OK
    for problem in problems:
        output.say(output.clean(problem))
    if problems:
        output.note(f"{counted(len(problems), 'problem')}; nothing would be started")
        return Exit.BAD_ANSWER
    for file, startup in zip(distinct, startups, strict=True):
        services, agents = counted(len(startup.services), "service"), counted(len(startup.agents), "agent")
        models = f", {counted(len(startup.models), 'model')}" if startup.models else ""
        output.say(f"{file}: ok ({startup.host}: {services}, {agents}{models})")
    return Exit.OK


def counted(number: int, thing: str) -> str:
    """`1 service`, `2 services`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
