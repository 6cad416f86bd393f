"""What a host did while a peer was away, on a real shell."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from common.api import leases
from common.api.links import Link
from common.api.separations import ListSeparations
from common.errors import Unavailable
from common.service.shell import Shell, ShellSettings
from common.supervisor.apart import Apart


def link(*, up: bool, heard_s: float = 0.0) -> Link:
    return Link(
        host="pc2",
        address="10.0.0.2",
        joined=True,
        neighbour=False,
        up=up,
        since="1970-01-01T00:00:00.000Z",
        since_s=1.0,
        heard_s=heard_s,
        why="" if up else "the cable is out",
    )


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    made = Shell(ShellSettings("Supervisor", "mainpc", 0))

    def never(_asked: leases.AcquireLease, _call: object) -> leases.LeaseGranted:
        raise Unavailable("not asked here")

    made.handle(leases.ACQUIRE_LEASE, never)
    yield made
    await made.close(0)


def grant(shell: Shell) -> None:
    meter = shell.meters.of(leases.ACQUIRE_LEASE.name)
    meter.begin()
    meter.end(0.0, None)


async def test_what_was_done_before_a_cut_was_noticed_is_done_alone_too(shell: Shell) -> None:
    links, now = [link(up=True)], [100.0]
    apart = Apart(shell, lambda: links)
    apart._now = lambda: now[0]

    def look(up: bool, heard_s: float) -> None:
        now[0] += 1.0
        links[:] = [link(up=up, heard_s=heard_s)]
        apart._look()

    grant(shell)
    look(True, 0.2)
    grant(shell)  # the cable is out already
    look(True, 0.9)
    look(False, 1.9)
    grant(shell)
    look(False, 2.9)
    look(True, 0.1)
    (told,) = apart._list(ListSeparations(), None).separations  # type: ignore[arg-type]
    assert (told.peer, told.reason, told.deeds) == ("pc2", "the cable is out", {"leases granted": 2})
    assert told.lasted_s == pytest.approx(3.9)
