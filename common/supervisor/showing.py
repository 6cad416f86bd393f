"""What others see of a host's processes: the list of them, each change, what host and processes use, and the door's progress.

It puts together what the desk and the kernel say. It decides nothing and touches no process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from common.api import supervisor as api
from common.api.basic import Phase
from common.reporting.handler import REPORTED
from common.service.shell import Shell
from common.supervisor.board import Progress, State
from common.supervisor.desk import Desk, Standing
from common.supervisor.listing import process_of
from common.supervisor.vitals import ProcessUses, busy_pct, host_vitals

TELL_S: Final = 0.1


class Showing:
    """One host's. `show` is the door's: it hears of every change, and must not wait.

    `home` is where the host's disk is looked at; `state` and `elapsed_s` are those of the start, `unjoined` those of the links.
    """

    def __init__(
        self,
        shell: Shell,
        desk: Desk,
        home: Path,
        show: Callable[[Progress], None],
        state: Callable[[], State],
        elapsed_s: Callable[[], float],
        unjoined: Callable[[], dict[str, str]],
    ) -> None:
        self._shell = shell
        self._desk = desk
        self._home = home
        self._show = show
        self._state = state
        self._elapsed_s = elapsed_s
        self._unjoined = unjoined
        self._host = shell.settings.host
        self._now = shell.clock.monotonic
        self._telling: asyncio.TimerHandle | None = None
        self._uses = ProcessUses()
        self._cpu_pct = busy_pct()

    def processes(self) -> Iterator[api.Process]:
        """Every process of the host as it is now."""
        return self._shown(self._desk.standings(self._now()))

    def vitals(self) -> api.Vitals:
        """The host as it is now; its CPU as it was sampled last."""
        return host_vitals(self._host, self._home, self._cpu_pct)

    def sample(self) -> None:
        """Looks at what the processes and the host use, and publishes the vitals."""
        at = self._now()
        running = {one.entry.name: one.launched.pid for one in self._desk.standings(at) if one.launched}
        self._uses.sample(running, at)
        self._cpu_pct = busy_pct()
        self._shell.publisher.publish(api.VITALS_SAMPLED, self._host, self.vitals())

    def changed(self, standing: Standing, was: Phase, now: Phase) -> None:
        """A process has gone from one phase to another: logged and published; crash-looping is a problem of this host."""
        name, problems, log = standing.entry.name, self._shell.problems, self._shell.log
        problems.pop(f"process {name}", None)
        if now == "crash-looping":
            problem = problems[f"process {name}"] = f"{name} is crash-looping: {standing.last_exit}"
            extra = {"stderr_tail": list(standing.stderr_tail), REPORTED: True}  # each of its ends was
            log.error("%s", problem, extra=extra)
        else:
            log.info("%s went from %s to %s %s", name, was, now, standing.waiting_for or standing.last_exit)
        process = next(self._shown([standing]))
        self._shell.publisher.publish(api.PROCESS_CHANGED, name, api.ProcessChanged(process=process, was=was))

    def tell_soon(self) -> None:
        """The door is told before long; many changes at once are told as one."""
        if self._telling is None:
            self._telling = self._shell.loop.call_later(TELL_S, self.tell)

    def tell(self) -> None:
        """The door is told how all stands."""
        self.close()
        self._telling = None
        told = Progress(
            host=self._host,
            state=self._state(),
            elapsed_s=self._elapsed_s(),
            processes=list(self.processes()),
            unjoined=self._unjoined(),
        )
        self._show(told)

    def close(self) -> None:
        """What is to be told soon is not told."""
        if self._telling is not None:
            self._telling.cancel()

    def _shown(self, standings: Iterable[Standing]) -> Iterator[api.Process]:
        at, wall = self._now(), self._shell.clock.wall()
        return (process_of(one, self._uses.of(one.entry.name), at, wall) for one in standings)
