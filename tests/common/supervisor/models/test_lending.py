"""Shares given to those who wait for a model, where they leave at the moment of being served; the rest: test_service.py."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.api.leases import LeaseGranted
from common.api.models import ModelProgress, UseModel
from common.api.supervisor import AdmitLease
from common.errors import Cancelled
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.lending import Lending
from common.supervisor.models.managed import Asked, Held, Managed, Serving
from common.supervisor.models.roster import Roster
from common.vram.footprint import Footprints
from tests.common.supervisor.models.lab import model


class Line:
    """The lease of a model's engine, of which shares are given."""

    def __init__(self) -> None:
        self.shares: list[str] = []

    def share(self, parent_id: str, asked: AdmitLease) -> LeaseGranted:
        self.shares.append(asked.lease_id)
        return LeaseGranted(
            lease_id=asked.lease_id, host="h", card=0, card_uuid="GPU-a", fencing_token=1, expires_in_s=60, bytes=0
        )

    def release(self, lease_id: str) -> None:
        self.shares.remove(lease_id)


class Lent:
    """One who asked for model `a`, which is ready, and waits; `served` gives it a share."""

    def __init__(self) -> None:
        self.line, self.told = Line(), 0
        footprints = Footprints("h")
        self.roster = Roster("h", [model("a")], footprints, 0.0)
        held = Held(lease_id="lease-a", card_uuids=("GPU-a",), bytes=1)
        self.roster.found("a", held, Serving(url="http://x", upstream="a", pid=1, start_time=1), 0.0)
        shell = SimpleNamespace(
            loop=asyncio.get_running_loop(),
            clock=SimpleNamespace(monotonic=lambda: 0.0),
            rng=random.Random(1),
            log=SimpleNamespace(),
        )
        self.lending = Lending(
            cast("Shell", shell),
            "h",
            (),
            self.roster,
            footprints,
            cast("OwnLine", self.line),
            lambda: None,
            lambda: None,
        )
        self.gone = False
        call = SimpleNamespace(identity="ann", patience_s=lambda _now, wait_s: wait_s, part=self.part)
        asked = UseModel(model="a", wait_s=60)
        self.task = asyncio.create_task(self.lending.use(asked, cast("Call", call), self.look_for))

    async def look_for(self, _: Managed) -> None:
        return

    def part(self, _: ModelProgress) -> None:
        self.told += 1
        if self.gone:
            raise Cancelled("its caller has gone")

    async def waiting(self) -> Asked:
        while not self.roster.waiting:
            await asyncio.sleep(0)
        (asked,) = self.roster.find("a").waiting.values()
        return asked


async def test_who_is_served_has_a_share() -> None:
    it = Lent()
    it.lending.serve(await it.waiting())
    assert (await it.task).lease.lease_id == it.line.shares[0]


@pytest.mark.parametrize("served_first", [True, False])
async def test_nothing_is_left_of_one_who_leaves_as_it_is_served(served_first: bool) -> None:
    it = Lent()
    asked = await it.waiting()
    acts: list[Any] = [lambda: it.lending.serve(asked), it.task.cancel]
    for act in acts if served_first else reversed(acts):
        act()
    with pytest.raises(asyncio.CancelledError):
        await it.task
    assert it.line.shares == []


async def test_one_who_turned_out_to_be_gone_as_it_was_told_is_not_served_after_that() -> None:
    it = Lent()
    asked = await it.waiting()
    it.gone = True
    it.lending.tell(0.0)
    assert it.told == 1
    it.lending.serve(asked)
    with pytest.raises(Cancelled):
        await it.task
    assert it.line.shares == []
