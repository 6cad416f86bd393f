"""The processes of engines: launched from a model's filled template, seen to end, stopped in order; decides nothing about models.

An engine is a process of its host's supervisor as an agent is: a session of its own, limits, a log, the watchdog's care. It ends
with its supervisor, and nobody but a load starts it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from common.config.models import Model
from common.config.schema import Entry, Ports, Restart
from common.config.settings import MARK
from common.config.template import Filling, filled
from common.errors import TandemError, Unavailable
from common.gpu.container import Container
from common.supervisor.instructions import Exited, Launched
from common.supervisor.launching import Preparation, choose_ports, find_program, wrappers
from common.supervisor.lifecycle import spell_code
from common.supervisor.models.containers import ContainerGuard, EngineContainers
from common.supervisor.processes import Processes

KILL_S: Final = 15.0
"""How long a killed session is waited for: as long as it takes until one that is stuck is told to have ended."""
LAST_LINES: Final = 5
LINE_CHARS: Final = 200


class EngineProcess:
    """One engine, launched as `entry` says; `ended` is done when its whole session has, and the container that it may run."""

    def __init__(self, model: Model, entry: Entry, launched: Launched, container: Container | None = None) -> None:
        self.model = model
        self.entry = entry
        self.container = container
        self.guard: ContainerGuard | None = None
        self.launched = launched
        self.ended: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()

    @property
    def url(self) -> str:
        """Where it listens, or will."""
        return f"http://127.0.0.1:{self.launched.port}"


class EngineProcesses:
    """`home` is TANDEM_HOME, `environ` what engines inherit."""

    def __init__(self, processes: Processes, host: str, home: Path, environ: Mapping[str, str]) -> None:
        self._processes = processes
        self._host = host
        self._home = home
        self._environ = environ
        self._running: dict[str, EngineProcess] = {}
        self._containers = EngineContainers(home / host / "containers")
        self._ending: set[asyncio.Task[None]] = set()
        self._lives = 0

    @property
    def folder(self) -> str:
        """The host's folder, `{home}` of every template."""
        return str(self._home / self._host)

    def launch(self, model: Model, lease_id: str, card_uuids: Sequence[str]) -> EngineProcess:
        """Starts the model's engine on these cards; Unavailable with the reason where it could not be."""
        port = choose_ports(Ports(model.port)).port
        filling = Filling(port, card_uuids, self.folder, self._host, sys.executable)
        self._lives += 1
        try:
            entry = entry_of(model, filling)
            entry, container = self._containers.prepared(entry, lease_id, card_uuids)
        except TandemError as error:
            raise Unavailable(error.message) from error
        given = surroundings(self._environ, entry.env, lease_id, card_uuids)
        outcome = self._processes.run(entry, self._lives, lambda mark: _prepared(entry, {**given, MARK: mark}))
        if isinstance(outcome, Exited):
            if container is not None:
                container.close()
            raise Unavailable(f"{model.name}: {outcome.reason}")
        engine = self._running[entry.name] = EngineProcess(model, entry, outcome, container)
        if container is not None:
            engine.guard = self._containers.guarded(container, given)
        return engine

    def exited(self, event: Exited) -> bool:
        """Whether the process that ended was an engine's; whoever waits for it goes on."""
        engine = self._running.pop(event.name, None)
        if engine is None:
            return False
        if engine.container is None:
            engine.ended.set_result(event)
        else:
            task = asyncio.get_running_loop().create_task(self._end(engine.container, engine, event))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return True

    def end_left(self) -> Coroutine[Any, Any, None] | None:
        """What ends the containers that an earlier life of this supervisor left running; None where it left none."""
        left = self._containers.left()
        return self._containers.end(left) if left else None

    async def stop(self, engine: EngineProcess) -> Exited:
        """Has it go as its entry says, by KILL in the end; how it ended. Unavailable where even that did not end it."""
        name, ended = engine.model.label, asyncio.shield(engine.ended)
        if not engine.ended.done():
            self._processes.terminate(name)
            await asyncio.wait([ended], timeout=engine.model.stop.term_s)
        if not engine.ended.done():
            self._processes.kill(name)
            await asyncio.wait([ended], timeout=KILL_S)
        if not engine.ended.done():
            raise Unavailable(f"{engine.model.name}'s process {engine.launched.pid} does not end")
        return engine.ended.result()

    async def stop_all(self) -> None:
        """Has all of them go, side by side."""
        await asyncio.gather(*map(self.stop, self._running.values()), return_exceptions=True)
        if self._ending:
            await asyncio.wait(self._ending, timeout=KILL_S)

    async def _end(self, container: Container, engine: EngineProcess, event: Exited) -> None:
        """The engine's command ended, and what it ran ends with it."""
        try:
            await container.end()
        finally:
            if engine.guard is not None:
                await engine.guard.dismiss()
            container.close()
            engine.ended.set_result(event)


def entry_of(model: Model, filling: Filling) -> Entry:
    """The model's engine as a process: started by nobody but a load, and never again by itself. BadRequest as `filled`."""
    command, env = filled(model, filling)
    cwd = model.cwd.replace("{home}", filling.home)
    return Entry(
        name=model.label,
        command=command,
        cwd=cwd,
        env=env,
        port=filling.port,
        restart=Restart(when="never"),
        stop=model.stop,
        limits=model.limits,
        logs=model.logs,
        enabled=False,
    )


def surroundings(
    inherited: Mapping[str, str], own: Mapping[str, str], lease_id: str, card_uuids: Sequence[str]
) -> dict[str, str]:
    """An engine's environment: its own variables go before inherited ones, its cards and its lease before both."""
    bound = {
        "CUDA_VISIBLE_DEVICES": ",".join(card_uuids),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TANDEM_LEASE_ID": lease_id,
    }
    return {"PYTHONUNBUFFERED": "1", **inherited, **own, **bound}


def last_words(ended: Exited) -> str:
    """How an engine ended, with the last lines of its standard error."""
    lines = [line.strip()[:LINE_CHARS] for line in ended.stderr_tail if line.strip()][-LAST_LINES:]
    return f"{ended.reason or spell_code(ended.code)}" + (f": {' | '.join(lines)}" if lines else "")


def _prepared(entry: Entry, environ: dict[str, str]) -> Preparation:
    cwd = entry.cwd or None
    find_program(entry.command[0], cwd, environ)
    return Preparation([*wrappers(entry.limits), *entry.command], environ, cwd, Ports(port=entry.port))
