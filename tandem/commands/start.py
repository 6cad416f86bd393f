"""`tandem start`: both hosts on this machine, as one door process."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULTS = (Path("config/startup_main.yaml"), Path("config/startup_pc2.yaml"))


@click.command()
@click.argument("files", metavar="[CONFIG]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--keep-going", is_flag=True, help="Go on where a process does not get ready, rather than end.")
def command(files: tuple[Path, ...], keep_going: bool) -> int:
    """Run both hosts on this machine in the foreground; cards are simulated where there are none.

    CONFIG defaults to config/startup_main.yaml and config/startup_pc2.yaml.
    """
    from tandem.starting import start

    return start(files or DEFAULTS, keep_going=keep_going)
