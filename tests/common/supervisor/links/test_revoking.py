from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from common.api import security_gateway as api
from common.api.words import Cursor
from common.client import keeping_up
from common.client.aio import AsyncClient
from common.client.following import Event
from common.config.schema import Ports, Startup
from common.errors import StorageUnavailable, TandemError, Unavailable
from common.security import keyfiles
from common.security.keyring import Keyring
from common.supervisor.links import revoking
from common.supervisor.links.keeper import Keeper
from common.supervisor.links.revoking import LACK, Revocations
from common.telemetry.system_clock import SystemClock
from tests.common.supervisor.lives import until

AT = Cursor(epoch=1, seq=1)
FAR = 4e9


class Gateway:
    """SecurityGateway as a client sees it: the answers to its list in turn, and events that the test feeds."""

    def __init__(self, *lists: dict[str, float] | TandemError) -> None:
        self.lists = list(lists)
        self.fed: asyncio.Queue[Event] = asyncio.Queue()

    async def call(self, target: str, *_: Any, **__: Any) -> api.Revocations:
        assert target == "SecurityGateway"
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, TandemError):
            raise answer
        return api.Revocations(tokens=answer, identities={"mallory": FAR}, as_of=AT)

    async def events(
        self, _target: str, _topics: list[str], _since: dict[str, Cursor], heard: Callable[[], None]
    ) -> AsyncIterator[Event]:
        while True:
            event = await self.fed.get()
            heard()
            yield event

    def revoke(self, jti: str, change: Any = "revoked") -> None:
        body = msgspec.json.encode(api.RevocationsChanged(change=change, tokens={jti: FAR}))
        self.fed.put_nowait(Event("revocations.changed", jti, "", AT, body))


class Desk:
    """A keeper that follows a gateway, and the keyring that its host's processes read."""

    def __init__(self, home: Path, gateway: Gateway) -> None:
        self.keeper = Keeper(home, Startup(1, "h", Ports(1, 2)), SystemClock())
        self.lacks: dict[str, str] = {}
        follower = Revocations(self.keeper, cast("AsyncClient", gateway), self.lacks)
        self.task = asyncio.create_task(follower.follow())

    @property
    def revoked(self) -> set[str]:
        return set(keyfiles.read(self.keeper.keyring_file, Keyring).revoked_tokens)


@pytest.fixture
async def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Gateway], Desk]]:
    monkeypatch.setattr(keeping_up, "AGAIN_S", 0.01)
    desks: list[Desk] = []

    def begin(gateway: Gateway) -> Desk:
        desks.append(Desk(tmp_path, gateway))
        return desks[-1]

    yield begin
    for desk in desks:
        desk.task.cancel()
    await asyncio.gather(*(desk.task for desk in desks), return_exceptions=True)


async def test_what_the_gateway_lists_and_tells_of_is_in_the_keyring(follow: Callable[[Gateway], Desk]) -> None:
    gateway = Gateway({"one": FAR})
    desk = follow(gateway)
    await until(lambda: desk.revoked == {"one"})
    gateway.fed.put_nowait(Event("revocations.changed", "", "", AT, b"not JSON"))
    gateway.revoke("two")
    await until(lambda: desk.revoked == {"one", "two"})
    assert keyfiles.read(desk.keeper.keyring_file, Keyring).is_revoked("x", "mallory", FAR - 1)


async def test_what_the_gateway_drops_goes_in_its_own_time(follow: Callable[[Gateway], Desk]) -> None:
    gateway = Gateway({"one": FAR})
    desk = follow(gateway)
    gateway.revoke("one", change="dropped")
    gateway.revoke("two")
    await until(lambda: desk.revoked == {"one", "two"})


async def test_what_was_heard_stays_in_force_while_the_gateway_is_away(follow: Callable[[Gateway], Desk]) -> None:
    gateway = Gateway({"one": FAR})
    desk = follow(gateway)
    await until(lambda: desk.revoked == {"one"})
    desk.task.cancel()
    again = follow(Gateway(Unavailable("nobody listens"), Unavailable("nobody listens"), {}))
    assert again.revoked == {"one"}
    await until(lambda: LACK in again.lacks)
    assert again.lacks[LACK] == "revocations are not heard: nobody listens"
    await until(lambda: LACK not in again.lacks)
    assert again.revoked == {"one"}


async def test_one_that_cannot_be_written_is_asked_for_until_it_can(
    follow: Callable[[Gateway], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway({}, {"two": FAR})
    desk = follow(gateway)
    await until(lambda: not desk.lacks)

    def full(*_: object) -> None:
        raise StorageUnavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(keyfiles, "write", full)
        gateway.revoke("two")
        await until(lambda: LACK in desk.lacks)
    await until(lambda: desk.revoked == {"two"} and not desk.lacks)


async def test_a_storm_of_revocations_is_written_together_and_what_waits_at_the_end_too(
    follow: Callable[[Gateway], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway({})
    desk = follow(gateway)
    await until(lambda: "mallory" in keyfiles.read(desk.keeper.keyring_file, Keyring).revoked_identities)
    commits: list[int] = []
    monkeypatch.setattr(desk.keeper, "_commit", lambda state: commits.append(len(state.revoked_tokens)))
    for number in range(300):
        gateway.revoke(f"t{number}")
    await until(lambda: 300 in commits)
    assert len(commits) < 30
    monkeypatch.undo()
    monkeypatch.setattr(revoking, "GATHER_S", 3_600.0)
    gateway.revoke("last")
    await until(gateway.fed.empty)
    await asyncio.sleep(0)
    desk.task.cancel()
    await asyncio.gather(desk.task, return_exceptions=True)
    assert "last" in desk.revoked
