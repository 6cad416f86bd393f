"""A host's leases, cards and decisions as whoever asks sees them; it changes nothing."""

from __future__ import annotations

from common.api import decisions, gpus, leases
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.leasing.files import HostFiles
from common.supervisor.leasing.footprints import Learning
from common.supervisor.leasing.waiting import Line
from common.supervisor.leasing.writer import LeaseWriter


class LeaseViews:
    """Answers what may be read."""

    def __init__(
        self, shell: Shell, host: str, writer: LeaseWriter, line: Line, learning: Learning, files: HostFiles
    ) -> None:
        self._shell = shell
        self._host = host
        self._writer = writer
        self._line = line
        self._learning = learning
        self._files = files
        self._now = shell.clock.monotonic

    def add_routes(self) -> None:
        """Serves list_leases, get_gpus, plan and explain."""
        self._shell.handle(leases.LIST_LEASES, self._list)
        self._shell.handle(gpus.GET_GPUS, self._gpus)
        self._shell.handle(decisions.PLAN, self._plan)
        self._shell.handle(decisions.EXPLAIN, self._explain)

    def _list(self, asked: leases.ListLeases, _call: Call) -> leases.Leases:
        ours = asked.host in ("", self._host)
        return leases.Leases(
            leases=self._writer.table.leases(self._now()) if ours else [],
            as_of=self._shell.publisher.cursor(leases.LEASE_CHANGED.name),
            missing={} if ours else self._elsewhere(asked.host),
        )

    def _gpus(self, asked: gpus.GetGpus, _call: Call) -> gpus.Gpus:
        if asked.host not in ("", self._host):
            return gpus.Gpus(cards=[], missing=self._elsewhere(asked.host))
        table = self._writer.table
        return gpus.Gpus(cards=table.cards(self._now()), missing=table.missing(), hosts=[table.host_memory()])

    def _elsewhere(self, host: str) -> dict[str, str]:
        return {host: f"this is {self._host}'s supervisor; ask that host's own, or ResourceManager"}

    async def _plan(self, asked: decisions.PlanLease, _call: Call) -> decisions.LeasePlan:
        missing = await self._files.lacking(asked.files)
        now = self._now()
        planned, load_s = self._learning.plan(asked)
        kept = self._line.kept_from(asked.priority, now)
        return self._writer.table.plan(planned, now, kept, missing, load_s)

    def _explain(self, asked: decisions.Explain, _call: Call) -> decisions.Explanation:
        return self._writer.receipts.explain(asked)
