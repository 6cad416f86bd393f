"""`tandem start`: both hosts on this machine, as one door process."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

DEFAULTS = (Path("config/startup_main.yaml"), Path("config/startup_pc2.yaml"))


@click.command()
@click.argument("files", metavar="[CONFIG]...", nargs=-1, type=click.Path(path_type=Path))
def command(files: tuple[Path, ...]) -> int:
    """Run both hosts on this machine in the foreground; cards are simulated where there are none.

    CONFIG defaults to config/startup_main.yaml and config/startup_pc2.yaml.
    """
    starting = importlib.import_module("tandem.starting")
    code: int = starting.start(files or DEFAULTS)
    return code
