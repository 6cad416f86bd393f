"""`tandem heal`: what was done alone is told, and every kind of conflict is found."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from common.api import core_orchestrator
from common.api.separations import Separation
from tandem.commands import heal
from tandem.exits import Exit
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import GIB, Fabric, agent
from tests.tandem.test_cli_watching import link


def apart(peer: str, began_at: str, **changes: object) -> Separation:
    plain = Separation(
        peer=peer,
        began_at=began_at,
        ended_at="2026-01-02T03:05:05.000Z",
        lasted_s=12.0,
        reason="no answer",
        deeds={"leases granted": 3, "look-ups answered": 9},
    )
    return msgspec.structs.replace(plain, **changes)


async def test_heal_of_hosts_that_were_never_apart(fabric: Fabric, tandem: Tandem) -> None:
    assert await tandem("heal") == (Exit.OK, "no host was ever without another\nnothing is in conflict\n", "")


async def test_heal_tells_what_each_host_did_alone_newest_first(fabric: Fabric, tandem: Tandem) -> None:
    fabric.separations = {
        "mainpc": [apart("pc2", "2026-01-02T03:04:05.000Z")],
        "pc2": [apart("mainpc", "2026-01-02T03:04:06.000Z", ended_at="", deeds={}, reason="")],
    }
    code, out, _ = await tandem("heal")
    assert code == Exit.OK
    first, second, last = out.splitlines()
    assert first.startswith(
        "pc2 was without mainpc for 12 s, since 2026-01-02T03:04:06.000Z and still is (no reason known)"
    )
    assert first.endswith("it did: nothing that is counted")
    assert second.endswith("(no answer); it did: 3 leases granted, 9 look-ups answered")
    assert last == "nothing is in conflict"
    code, out, _ = await tandem("heal", "--json", "--limit", "1")
    found = msgspec.json.decode(out)
    assert [one["host"] for one in found["separations"]] == ["pc2"]
    assert (found["ok"], found["conflicts"], found["missing"]) == (True, [], {})


async def test_heal_finds_what_two_hosts_do_not_agree_on(fabric: Fabric, tandem: Tandem) -> None:
    request = f'{{"model": "m", "bytes": {20 * GIB}, "host": "mainpc"}}'
    assert (await tandem("call", "acquire_lease", request))[0] == Exit.OK
    (held,) = fabric.leases.values()
    fabric.leases["lease-too-much"] = msgspec.structs.replace(held, lease_id="lease-too-much")
    fabric.leases["the same on pc2"] = msgspec.structs.replace(held, host="pc2", card_uuid="another")
    fabric.copies = {"pc2": [agent("whisper", location="pc2"), agent("ghost")]}
    fabric.links = {"pc2": [link(host="mainpc", up=False, why="no answer")]}
    code, out, _ = await tandem("heal", "--json")
    assert code == Exit.BAD_ANSWER
    assert msgspec.json.decode(out)["conflicts"] == [
        f"lease {held.lease_id} is on mainpc:0 and on pc2:0",
        "card mainpc:0 has leases of 40.0 GiB, and 24.0 GiB in all",
        "agent ghost: not there by the registry, at mainpc, port 5001 by pc2's copy",
        "agent whisper: at mainpc, port 5001 by the registry, at pc2, port 5001 by pc2's copy",
        "pc2 does not reach mainpc yet: no answer",
    ]
    assert "in conflict: card mainpc:0" in (await tandem("heal"))[1]


async def test_a_change_that_is_on_its_way_is_no_conflict(
    fabric: Fabric, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrives(_seconds: float) -> None:
        fabric.links = {}

    fabric.links = {"pc2": [link(host="mainpc", up=False, why="no answer")]}
    monkeypatch.setattr(heal, "time", SimpleNamespace(sleep=arrives))
    assert (await tandem("heal"))[0] == Exit.OK


async def test_heal_says_what_it_could_not_look_at(fabric: Fabric, tandem: Tandem) -> None:
    await fabric.stop(core_orchestrator.SERVICE)
    await fabric.stop("Supervisor/pc2")
    code, out, err = await tandem("heal")
    assert code == Exit.BAD_ANSWER
    assert "nothing is in conflict" not in out
    assert "pc2 could not be looked at" in err
    assert "CoreOrchestrator could not be looked at" in err
    await fabric.stop("Supervisor/mainpc")
    code, _, err = await tandem("heal")
    assert code == Exit.UNAVAILABLE
    assert "no host answers" in err
