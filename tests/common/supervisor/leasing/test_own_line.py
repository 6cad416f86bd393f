"""What the supervisor sees of its own host's leases where nothing but the host itself tells; the rest: tests of the models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.leasing.writer import LeaseWriter
from common.vram.resources import HostAccount

GIB = 2**30


class Books:
    """A writer, and the RAM of its host as it is at this moment."""

    def __init__(self, account: HostAccount, available_bytes: int) -> None:
        self.available_bytes = available_bytes
        self.account = account
        self.table = SimpleNamespace(resources=account)

    def see_ram(self) -> None:
        self.account.ram_now(self.available_bytes)


def test_host_ram_that_an_ended_lease_gave_back_is_there_before_the_next_look_so_that_nobody_else_goes_for_it() -> None:
    account = HostAccount()
    for lease_id in ("a", "b"):
        account.put(lease_id, ram=30 * GIB, model=lease_id)
    account.measure(
        ram_total_bytes=100 * GIB,
        ram_available_bytes=30 * GIB,
        disk_total_bytes=GIB,
        disk_available_bytes=GIB,
        held_ram={"a": 30 * GIB, "b": 30 * GIB},
    )
    books = Books(account, 30 * GIB)
    shell: Any = SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: 0.0))
    line = OwnLine(shell, "h", cast("LeaseWriter", books), cast("Any", None), lambda _: None)
    assert line.host_spare("b") == (20 * GIB, int(0.8 * GIB), 0.0)
    account.drop("a")
    books.available_bytes = 60 * GIB
    assert line.host_spare("b") == (50 * GIB, int(0.8 * GIB), 0.0)
