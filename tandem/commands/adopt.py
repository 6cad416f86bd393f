"""`tandem adopt`: engines that run, and configurations of other tools, as managed models of a startup file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click

from tandem import output
from tandem.adopting.sources import Source
from tandem.exits import Exit
from tandem.options import with_json

if TYPE_CHECKING:
    from tandem.adopting.adoption import Adoption, Applied

DEFAULT: Final = Path("config/startup_main.yaml")
DEFAULTS: Final = {"pc2": Path("config/startup_pc2.yaml")}
"""The startup file of a host that is named by TANDEM_HOST; DEFAULT for any other."""


@click.command()
@click.argument("sources", metavar="[SOURCE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--into", type=click.Path(path_type=Path), default=None, metavar="CONFIG",
              help=f"The startup file. Default: {DEFAULT}; with TANDEM_HOST=pc2, {DEFAULTS['pc2']}.")  # fmt: skip
@click.option("--as", "kind", type=click.Choice(get_args(Source)), default=None, help="What the sources are.")
@click.option("--running", is_flag=True, help="Beside the sources, what runs on this machine.")
@click.option(
    "--port", "ports", type=click.IntRange(1, 65_535), multiple=True, help="Also ask here what runs. Repeatable."
)
@click.option("--apply", "applied", is_flag=True, help="Write the startup file. Without it nothing is changed.")
@with_json
def command(
    sources: tuple[Path, ...],
    into: Path | None,
    kind: Source | None,
    running: bool,
    ports: tuple[int, ...],
    applied: bool,
    as_json: bool,
) -> Exit:
    """Engines that run, and other tools' configurations, as managed models.

    A SOURCE is a llama-swap configuration, a compose file, or Ollama's folder (~/.ollama); without any, engines that run on this
    machine are looked for. Shows what would change in the startup file, and all that could not be translated, with its place and
    the reason. With --apply the file is written, the old one kept beside it, and the supervisor told. No engine is started,
    stopped or touched, and what the file says already is never changed: a second time there is nothing to do.

    JSON: {"file", "host", "added": [{"name", "engine", "vram", "url", "origin", "enabled"}], "present": [name],
    "notes": [{"kind", "file", "line", "place", "message", "mend", "model"}], "diff", "applied", "backup", "told", "why_not"}.
    """
    from tandem.adopting.adoption import Order, adoption, apply
    from tandem.adopting.looking import USUAL_PORTS

    order = Order(into or default_file(), sources, kind, running or not sources, (*USUAL_PORTS, *ports))
    found = adoption(order)
    done = apply(found) if applied else None
    if as_json:
        output.say_json(document(found, done))
    else:
        show(found, done)
    return Exit.OK


def default_file() -> Path:
    """The startup file of this host."""
    import os

    return DEFAULTS.get(os.environ.get("TANDEM_HOST", ""), DEFAULT)


def document(found: Adoption, done: Applied | None) -> dict[str, object]:
    """All of it, for --json."""
    added = [
        {
            "name": each.model.name,
            "engine": each.model.engine,
            "vram": int(each.model.vram),
            "url": each.model.url,
            "origin": each.origin,
            "enabled": each.model.enabled,
        }
        for each in found.merged.added
    ]
    return {
        "file": str(found.file.path),
        "host": found.file.startup.host,
        "added": added,
        "present": list(dict.fromkeys(found.merged.present)),
        "notes": found.notes,
        "diff": found.difference,
        "applied": bool(done and done.backup),
        "backup": done.backup if done else "",
        "told": bool(done and done.backup and done.told),
        "why_not": done.why_not if done else "",
    }


def show(found: Adoption, done: Applied | None) -> None:
    """The difference, the notes by kind, and what was done."""
    for line in found.difference.splitlines():
        colour: output.Colour | None = "good" if line.startswith("+") else "bad" if line.startswith("-") else None
        output.say(output.paint(output.clean(line), colour) if colour else output.clean(line))
    show_notes(found)
    added, path = len(found.merged.added), found.file.path
    if not added:
        known = f"; {counted(len(set(found.merged.present)))} there already" if found.merged.present else ""
        output.note(f"nothing to add to {path}{known}")
    elif done is None:
        output.note(f"{counted(added)} would be added to {path}; nothing was changed: --apply does it")
    else:
        output.note(f"{counted(added)} added to {path}; the old file is {done.backup}")
        told = (
            "the supervisor has them"
            if done.told
            else f"the supervisor takes them in at its next start ({done.why_not})"
        )
        output.note(told)


def show_notes(found: Adoption) -> None:
    """What is not as it was, the gravest first."""
    from tandem.adopting.proposal import KINDS

    for kind, meaning in KINDS.items():
        notes = [note for note in found.notes if note.kind == kind]
        if notes:
            output.say()
            output.say(output.paint(f"{kind}: {meaning}", "dim"))
        for note in notes:
            output.say(f"  {output.clean(note)}")


def counted(number: int) -> str:
    """`1 model`, `2 models`."""
    return "1 model" if number == 1 else f"{number} models"
