"""The link verbs on whole supervisors of one machine, asked as any client asks them."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api.links import BUNDLE_FORMAT
from common.config.schema import Peer, Ports, Startup
from common.security import keyfiles
from common.security.keyring import HostKeys, Keyring
from common.supervisor.launching import choose_ports
from common.supervisor.links import links as links_room
from tests.common.supervisor.host import Host, agent, peer, running, startup
from tests.common.supervisor.lives import until

pytestmark = pytest.mark.usefixtures("wrappers")


@pytest.fixture
def ports() -> dict[str, Ports]:
    return {name: choose_ports(Ports()) for name in "ab"}


def neighbours(ports: dict[str, Ports]) -> tuple[Startup, Startup]:
    one = startup("a", agent("worker"), ports=ports["a"], peers={"b": peer(ports["b"])})
    return one, startup("b", ports=ports["b"], peers={"a": peer(ports["a"])})


def ring(host: Host) -> Keyring:
    return keyfiles.read(host.keys / keyfiles.KEYRING_FILE, Keyring)


async def link(host: Host) -> dict[str, Any]:
    (only,) = (await host.ask("list_links"))["links"]
    found: dict[str, Any] = only
    return found


async def test_neighbours_join_by_themselves_and_see_each_other(tmp_path: Path, ports: dict[str, Ports]) -> None:
    async with running(tmp_path, *neighbours(ports)) as (a, b):
        await until(lambda: all(set(ring(host).hosts) == {"a", "b"} for host in (a, b)))
        seen: dict[str, Any] = {}

        async def is_up() -> bool:
            seen.update({host.startup.host: await link(host) for host in (a, b)})
            return all(one["up"] and one["joined"] for one in seen.values())

        while not await is_up():
            pass
        assert seen["a"]["neighbour"]
        assert seen["a"]["round_trip_ms"] > 0
        assert (seen["a"]["why"], seen["b"]["why"]) == ("", "")
        assert a.supervisor.links.unjoined() == {}
        assert ring(b).server_key("a", "worker")


async def test_a_new_list_reaches_the_peer_at_once_and_a_rolled_back_one_never(
    tmp_path: Path, ports: dict[str, Ports]
) -> None:
    async with running(tmp_path, *neighbours(ports)) as (a, b):
        await until(lambda: set(ring(b).hosts) == {"a", "b"} == set(ring(a).hosts))
        before = (await a.ask("exchange_keys", lists=[]))["lists"]
        keeper = a.supervisor.links.keeper
        await keeper.aside(keeper.listen_on, 40_001, 40_002)
        await until(lambda: ring(b).hosts["a"].supervisor_port == 40_001)
        answer = await b.ask("exchange_keys", lists=before)
        assert ring(b).hosts["a"].supervisor_port == 40_001
        newest = [msgspec.msgpack.decode(base64.b64decode(one["body"]), type=HostKeys) for one in answer["lists"]]
        assert {one.host: one.supervisor_port for one in newest}["a"] == 40_001


async def test_while_keys_are_written_to_a_slow_disk_the_supervisor_answers_and_changes_keep_their_order(
    tmp_path: Path, ports: dict[str, Ports], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_write, write = threading.Event(), threading.Event(), keyfiles.write

    def slowly(path: Path, value: msgspec.Struct) -> None:
        begun.set()
        assert may_write.wait(60)
        write(path, value)

    async with running(tmp_path, startup("a", ports=ports["a"])) as (a,):
        keeper = a.supervisor.links.keeper
        monkeypatch.setattr(keyfiles, "write", slowly)
        changes = [
            asyncio.create_task(keeper.aside(keeper.revoke, {"one": 4e9}, {})),
            asyncio.create_task(keeper.aside(keeper.listen_on, 40_001, 40_002)),
            asyncio.create_task(keeper.aside(keeper.revoke, {"two": 4e9}, {})),
        ]
        await until(begun.is_set)
        assert (await a.ask("ping"))["service"] == "Supervisor"
        assert ring(a).revoked_tokens == {}
        assert not any(change.done() for change in changes)
        may_write.set()
        await asyncio.gather(*changes)
        assert ring(a).revoked_tokens == {"one": 4e9, "two": 4e9}
        assert ring(a).hosts["a"].supervisor_port == 40_001


async def test_the_list_of_a_stranger_is_refused_with_the_mend(tmp_path: Path, ports: dict[str, Ports]) -> None:
    async with running(tmp_path, startup("a", ports=ports["a"])) as (a,), running(tmp_path, startup("x")) as (x,):
        lists = (await x.ask("exchange_keys", lists=[]))["lists"]
        answer = await a.ask("exchange_keys", lists=[*lists, {"body": "AAAA", "signature": ""}])
        assert answer["refused"]["x"].startswith("x has not joined: run `tandem invite x` on this host")
        assert set(ring(a).hosts) == {"a"}


async def test_an_invitation_that_cannot_work_is_refused_with_the_mend(tmp_path: Path) -> None:
    file = startup("a", peers={"near": Peer("127.0.0.1", 1, 2), "far": Peer("10.0.0.2", 1, 2)})
    async with running(tmp_path, file) as (a,):
        told = {host: await a.ask("invite_host", host=host) for host in ("a", "near", "far", "stranger")}
        assert {host: one["code"] for host, one in told.items()} == {
            "a": "bad_request",
            "near": "bad_request",
            "far": "bad_request",
            "stranger": "not_found",
        }
        assert all(one["details"]["mend"] for one in told.values())
        assert told["far"]["error"] == "a listens on loopback alone, where no other machine reaches it"
        plain = await a.ask("invite_host", host="far", _token=None)
        assert plain["code"] == "forbidden"


async def test_an_invitation_is_kept_as_a_hash_and_its_key_may_only_ask_to_be_admitted(tmp_path: Path) -> None:
    file = startup("a", peers={"far": Peer("10.0.0.2", 1, 2)})
    async with running(tmp_path, file) as (a,):
        made = await a.ask("invite_host", host="far", address="10.0.0.1", ttl_s=60)
        assert (made["format"], made["inviter"], made["port"]) == (BUNDLE_FORMAT, "a", a.supervisor.shell.port)
        assert ring(a).invited.keys() == {made["key"]}
        kept = (a.keys / "trust.json").read_text()
        assert made["secret"] not in kept
        assert made["secret_key"] not in kept
        listed = await link(a)
        assert (listed["joined"], listed["up"]) == (False, False)
        assert "tandem invite far" in listed["why"]
        assert a.supervisor.links.unjoined() == {"far": listed["why"]}
        await until(lambda: bool(a.shown) and a.shown[-1].unjoined == {"far": listed["why"]})


async def test_a_join_that_cannot_work_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_room, "TRIED_S", 0.3)
    file = startup("a", peers={"far": Peer("10.0.0.2", 1, 2)})
    async with running(tmp_path, file) as (a,):
        made = await a.ask("invite_host", host="far", address="127.0.0.1", ttl_s=60)
        bundle = {key: value for key, value in made.items() if key != "status"}
        wrong = await a.ask("join_host", bundle=bundle)
        assert (wrong["code"], wrong["error"]) == ("forbidden", "this bundle invites far; this host is a")
        ours = {**bundle, "host": "a", "inviter": "far", "port": choose_ports(Ports()).port}
        nobody = await a.ask("join_host", bundle=ours)
        assert nobody["code"] == "unavailable"
        assert nobody["error"].startswith("far cannot be asked: nobody listens at tcp://127.0.0.1:")
        late = {**ours, "expires_at": "2001-01-01T00:00:00Z"}
        told = await a.ask("join_host", bundle=late)
        assert (told["code"], told["error"]) == ("conflict", "the bundle expired at 2001-01-01T00:00:00Z")
        unknown = await a.ask("expel_host", host="far")
        assert (unknown["code"], unknown["error"]) == ("not_found", "no host 'far' has joined")


async def test_whoever_shows_no_secret_is_not_admitted(tmp_path: Path) -> None:
    async with running(tmp_path, startup("a")) as (a,), running(tmp_path, startup("x")) as (x,):
        (keys,) = (await x.ask("exchange_keys", lists=[]))["lists"]
        asked = {"secret": "a guess", "host_key": x.supervisor.links.keeper.host_key, "keys": keys}
        assert (await a.ask("admit_host", **asked))["code"] == "not_found"
        assert (await a.ask("admit_host", **asked, _token=None))["code"] == "forbidden"
        assert json.loads((a.keys / "trust.json").read_text())["trust"]["vouches"] == {}


async def test_a_neighbour_is_not_sent_away(tmp_path: Path, ports: dict[str, Ports]) -> None:
    async with running(tmp_path, *neighbours(ports)) as (a, b):
        await until(lambda: "b" in ring(a).hosts and "a" in ring(b).hosts)
        refused = await a.ask("expel_host", host="b")
        assert (refused["code"], refused["error"]) == (
            "forbidden",
            "b keeps its keys in the same TANDEM_HOME, and is trusted for that",
        )
