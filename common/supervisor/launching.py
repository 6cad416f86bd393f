"""How an entry of a startup file becomes a command line, an environment and ports; starts nothing.

Limits are set by util-linux's wrappers (setpriv, prlimit, taskset) and nice, which replace themselves by the next command: no
code of ours runs between fork and exec. `setpriv --pdeathsig KILL` ends the process itself at the supervisor's death even
where the watchdog is gone too.
"""

from __future__ import annotations

import random
import resource
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.config.schema import Entry, Limits, Ports, Startup, fill
from common.config.settings import MARK, AgentEnvironment
from common.errors import NotFound
from common.security.keyfiles import keys_folder
from common.service.loop import FILES_AT_START
from common.supervisor.whereabouts import outward

QUIET_PORTS: Final = range(20_000, 32_768)
"""Below those from which Linux takes the near end of any connection (ip(7)): a program that starts slowly still finds it free."""
QUIET_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything a launch takes."""

    argv: list[str]
    environ: dict[str, str]
    cwd: str | None
    ports: Ports


def prepare(startup: Startup, entry: Entry, home: Path, mark: str, inherited: Mapping[str, str]) -> Preparation:
    """What launches `entry`; ports that the file leaves to the system are chosen now. NotFound where there is no such program.

    `home` is TANDEM_HOME, `mark` what the process and all its children carry in TANDEM_SUPERVISED.
    """
    ports = choose_ports(Ports(entry.port, entry.events_port, entry.health_check_port))
    own = AgentEnvironment(
        home=home,
        host=startup.host,
        agent_name=entry.name,
        port=ports.port,
        events_port=ports.events_port,
        health_port=ports.health_check_port,
        listen=outward(startup),
        keys=str(keys_folder(home, startup.host) / f"{entry.name}.json"),
    )

    def filled(text: str) -> str:
        return fill(text, python=sys.executable, home=str(home / startup.host), host=startup.host)

    given = {key: filled(value) for key, value in entry.env.items()}
    environ = {"PYTHONUNBUFFERED": "1", **inherited, **given, **own.variables(), MARK: mark}
    cwd = filled(entry.cwd) or None
    command = [filled(word) for word in entry.command]
    find_program(command[0], cwd, environ)
    return Preparation([*wrappers(entry.limits, entry.survive_supervisor), *command], environ, cwd, ports)


def find_program(program: str, cwd: str | None, environ: Mapping[str, str]) -> None:
    """NotFound where a process with this folder and environment would find no such program."""
    path = Path(cwd or ".") / program if "/" in program else program
    if shutil.which(path, path=environ.get("PATH")) is None:
        raise NotFound(f"there is no program {program!r} to run")


def choose_ports(wanted: Ports) -> Ports:
    """`wanted` with each 0 replaced by a loopback port that was free a moment ago; a lost race shows as a failed launch."""
    with ExitStack() as held:
        return Ports(
            *(port or _free_port(held) for port in (wanted.port, wanted.events_port, wanted.health_check_port))
        )


def missing_wrappers(startup: Startup) -> list[str]:
    """The wrapper programs that this file's entries need and this machine lacks."""
    needed = {word[0] for entry in startup.entries for word in _steps(entry.limits, entry.survive_supervisor)}
    needed |= {word[0] for model in startup.models if model.command for word in _steps(model.limits, False)}
    return sorted(program for program in needed if shutil.which(program) is None)


def lacking(programs: Iterable[str]) -> str:
    """What a start says of missing wrappers, with the mend."""
    return f"{', '.join(sorted(programs))} not found (Debian package util-linux)"


def _free_port(held: ExitStack) -> int:
    """A free port, kept from being chosen again until `held` closes; a quiet one, else one of the system's choosing."""
    for port in random.SystemRandom().sample(QUIET_PORTS, QUIET_TRIES):
        with suppress(OSError):
            held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return port
    listener = held.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    return int(listener.getsockname()[1])


def wrappers(limits: Limits, survives: bool = False) -> list[str]:
    """The programs that set a process's limits and become it; without `survives` it ends with its supervisor."""
    return [word for step in _steps(limits, survives) for word in step]


def _steps(limits: Limits, survives: bool) -> list[list[str]]:
    steps = [] if survives else [["setpriv", "--pdeathsig", "KILL"]]
    rlimits = [("data", limits.memory_bytes), ("nofile", limits.open_files or _files_at_start())]
    flags = [f"--{name}={value}" for name, value in rlimits if value is not None]
    if flags:
        steps.append(["prlimit", *flags])
    if limits.nice:
        steps.append(["nice", "-n", str(limits.nice)])
    if limits.cpus:
        steps.append(["taskset", "--cpu-list", ",".join(str(cpu) for cpu in limits.cpus)])
    return steps


def _files_at_start() -> str | None:
    """The soft limit on open files, where the supervisor has raised its own since: what calls select() is safe below it alone."""
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0] != FILES_AT_START
    return f"{FILES_AT_START}:" if raised else None
