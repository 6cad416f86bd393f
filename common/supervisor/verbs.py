"""The supervisor's own verbs: start, stop and restart a process, list them, vitals, logs; the lease verbs are elsewhere.

They ask the desk and show what it says; none of them touches a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from common.api import supervisor as api
from common.api.basic import Phase
from common.errors import NotFound
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.instructions import Doing
from common.supervisor.logs import read_log

MAX_LOG_BYTES: Final = 1024 * 1024


class Verbs:
    """Serves them on `shell`; `ask` begins an operation on a process and returns its id and the phase it led to."""

    def __init__(
        self,
        shell: Shell,
        ask: Callable[[str, Doing], tuple[str, Phase]],
        processes: Callable[[], Iterable[api.Process]],
        vitals: Callable[[], api.Vitals],
        log_file: Callable[[str], Path | None],
    ) -> None:
        self._shell = shell
        self._ask = ask
        self._processes = processes
        self._vitals = vitals
        self._log_file = log_file

    def add_routes(self) -> None:
        """Serve them."""
        self._shell.handle(api.START_AGENT, partial(self._operate, "start"))
        self._shell.handle(api.STOP_AGENT, partial(self._operate, "stop"))
        self._shell.handle(api.RESTART_AGENT, partial(self._operate, "restart"))
        self._shell.handle(api.LIST_PROCESSES, self._list)
        self._shell.handle(api.GET_VITALS, lambda _request, _call: self._vitals())
        self._shell.handle(api.READ_LOG, self._read_log)

    def _operate(self, doing: Doing, request: api.AgentName, _call: Call) -> api.Operation:
        operation_id, phase = self._ask(request.agent_name, doing)
        return api.Operation(operation_id=operation_id, phase=phase)

    def _list(self, _request: api.ListProcesses, _call: Call) -> api.Processes:
        as_of = self._shell.publisher.cursor(api.PROCESS_CHANGED.name)
        return api.Processes(host=self._shell.settings.host, processes=list(self._processes()), as_of=as_of)

    async def _read_log(self, request: api.ReadLog, _call: Call) -> api.LogText:
        path = self._log_file(request.agent_name)
        if path is None:
            raise NotFound(f"no process {request.agent_name!r} in this host's startup file")
        limit = min(request.limit, MAX_LOG_BYTES)
        piece = await self._shell.loop.run_in_executor(None, read_log, path, request.offset, limit)
        return api.LogText(text=piece.text, next_offset=piece.next_offset, rotated=piece.gap)
