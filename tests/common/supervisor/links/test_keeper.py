"""A host's keys on a real disk; two keepers stand for two hosts, and hand each other what the wire would carry."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from common.api.links import AdmitHost, Bundle, InviteHost, SignedList
from common.config.schema import Agent, Peer, Ports, Service, Startup
from common.errors import Conflict, Forbidden, NotFound, StorageUnavailable, Unauthenticated
from common.security import host_signing, keyfiles
from common.security.keyring import GATEWAY, HostKeys, Keyring
from common.supervisor.links.keeper import Keeper
from common.supervisor.links.state import REVOKED_FOR_S


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.at = 1_000_000.0
        self.stepped = 0.0

    def wall(self) -> float:
        return self.at + self.stepped

    def monotonic(self) -> float:
        return self.at


CLOCK = Clock()
PEERS = {name: Peer(f"10.0.0.{number}", 7090, 7590) for number, name in enumerate(("mainpc", "pc2", "pc3"), 1)}


def startup(host: str, *services: str, agents: tuple[str, ...] = ()) -> Startup:
    others = {name: peer for name, peer in PEERS.items() if name != host}
    return Startup(
        1,
        host,
        Ports(7090, 7590),
        listen=[PEERS[host].address],
        peers=others,
        services=[Service(name, ["x"]) for name in services],
        agents=[Agent(name, ["x"]) for name in agents],
    )


def keeper(tmp_path: Path, host: str, *services: str, clock: Clock = CLOCK, agents: tuple[str, ...] = ()) -> Keeper:
    return Keeper(tmp_path / f"home of {host}", startup(host, *services, agents=agents), clock)


def ring(one: Keeper) -> Keyring:
    return keyfiles.read(one.keyring_file, Keyring)


def invitation(inviter: Keeper, host: str, ttl_s: float = 900.0) -> Bundle:
    return inviter.invite(InviteHost(host=host, ttl_s=ttl_s), PEERS[inviter.host].address, 7090)


def admission(bundle: Bundle, joiner: Keeper) -> AdmitHost:
    return AdmitHost(secret=bundle.secret, host_key=joiner.host_key, keys=joiner.lists[0])


def join(inviter: Keeper, joiner: Keeper) -> Bundle:
    bundle = invitation(inviter, joiner.host)
    joiner.check_bundle(bundle)
    inviter.admit(admission(bundle, joiner))
    joiner.joined(bundle, inviter.lists)
    return bundle


def exchange(one: Keeper, other: Keeper) -> None:
    other.take(one.lists)
    one.take(other.lists)


def test_a_first_start_makes_every_key_and_tells_nobody_else_of_them(tmp_path: Path) -> None:
    made = keeper(tmp_path, "pc2", "security_gateway", agents=("reader",))
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in made.folder.iterdir()}
    names = ["host", "operator", "supervisor", "relay", "security_gateway", "reader", "trust", "keyring"]
    assert files == {f"{name}.json": 0o600 for name in names}
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    own = ring(made).hosts["pc2"]
    kinds = {"supervisor": "supervisor", "relay": "relay", "security_gateway": "service", "reader": "agent"}
    assert {key.name: key.kind for key in own.keys} == kinds
    assert (own.address, own.supervisor_port, own.events_port) == ("10.0.0.2", 7090, 7590)
    assert [issuer.name for issuer in own.issuers] == ["operator@pc2", GATEWAY]
    assert keyfiles.read(made.process_file("security_gateway"), keyfiles.ProcessKeys).signing
    assert not keyfiles.read(made.process_file("reader"), keyfiles.ProcessKeys).signing


def test_keys_and_the_list_stay_over_restarts_and_a_new_process_makes_a_new_list(tmp_path: Path) -> None:
    first = keeper(tmp_path, "pc2", agents=("a",))
    again = keeper(tmp_path, "pc2", agents=("a",))
    assert again.lists == first.lists
    more = keeper(tmp_path, "pc2", "security_gateway", agents=("a", "b"))
    assert more.serial("pc2") > first.serial("pc2")
    assert more.supervisor == first.supervisor
    assert [issuer.name for issuer in keeper(tmp_path, "mainpc", agents=("x",))._issuers()] == ["operator@mainpc"]


def test_two_commands_join_two_hosts(tmp_path: Path) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc", "core_orchestrator"), keeper(tmp_path, "pc2", "resource_manager")
    told: list[tuple[str, int]] = []
    mainpc.on_change = lambda host, serial: told.append((host, serial))
    bundle = join(mainpc, pc2)
    assert {host for host, _ in told} == {"mainpc", "pc2"}
    for one in (mainpc, pc2):
        assert set(ring(one).hosts) == {"mainpc", "pc2"}
        assert ring(one).server_key("pc2", "resource_manager")
        assert ring(one).server_key("mainpc", "core_orchestrator")
    assert ring(mainpc).invited.keys() == {bundle.key}
    exchange(mainpc, pc2)
    assert mainpc.lists[0] in pc2.lists
    assert pc2.lists[0] in mainpc.lists
    kept = keeper(tmp_path, "mainpc", "core_orchestrator")
    assert kept.knows("pc2")
    assert kept.hosts == {"pc2": pc2.host_key}


def test_a_bundle_admits_once(tmp_path: Path) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc"), keeper(tmp_path, "pc2")
    bundle = join(mainpc, pc2)
    with pytest.raises(Conflict, match=r"the bundle was used at .* by pc2"):
        pc2.check_bundle(bundle)
    other = Keeper(tmp_path / "another pc2", startup("pc2"), CLOCK)
    with pytest.raises(Conflict, match=r"the bundle was used at .* by pc2"):
        mainpc.admit(admission(bundle, other))
    assert mainpc.admit(admission(bundle, pc2)) == ("pc2", False), "an answer that was lost is told again"
    assert mainpc.hosts == {"pc2": pc2.host_key}


def test_what_is_not_as_the_bundle_says_admits_nobody(tmp_path: Path) -> None:
    mainpc, pc2, pc3 = (keeper(tmp_path, host) for host in ("mainpc", "pc2", "pc3"))
    bundle = invitation(mainpc, "pc2")
    with pytest.raises(Forbidden, match="this bundle invites pc2, not pc3"):
        mainpc.admit(admission(bundle, pc3))
    with pytest.raises(Unauthenticated):
        mainpc.admit(replace(admission(bundle, pc2), host_key=pc3.host_key))
    with pytest.raises(NotFound, match="no invitation given out here has this secret"):
        mainpc.admit(replace(admission(bundle, pc2), secret="a guess"))
    with pytest.raises(Unauthenticated, match="did not answer with the list of its keys: it sent none"):
        pc2.joined(bundle, pc3.lists)
    assert mainpc.hosts == pc2.hosts == {}
    assert set(ring(mainpc).hosts) == {"mainpc"}
    text = (mainpc.folder / "trust.json").read_text()
    assert bundle.secret not in text
    assert bundle.secret_key not in text


def test_a_late_one_is_told_so_by_the_clock_of_who_invited(tmp_path: Path) -> None:
    clock = Clock()
    mainpc, pc2 = keeper(tmp_path, "mainpc", clock=clock), keeper(tmp_path, "pc2", clock=clock)
    bundle = invitation(mainpc, "pc2", ttl_s=60.0)
    clock.at += 61.0
    pc2.check_bundle(bundle)
    with pytest.raises(Conflict, match="the bundle expired at 1970-01-12T13:47:40Z"):
        mainpc.admit(admission(bundle, pc2))


def test_a_host_set_up_anew_needs_a_new_invitation_and_replaces_its_old_key(tmp_path: Path) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc"), keeper(tmp_path, "pc2")
    join(mainpc, pc2)
    anew = Keeper(tmp_path / "anew", startup("pc2"), CLOCK)
    (verdict,) = mainpc.take(anew.lists)
    assert (verdict.outcome, mainpc.hosts["pc2"]) == ("refused", pc2.host_key)
    bundle = invitation(mainpc, "pc2")
    assert mainpc.admit(admission(bundle, anew)) == ("pc2", True)
    assert not anew.joined(bundle, mainpc.lists)
    assert ring(mainpc).server_key("pc2", "supervisor") == anew.supervisor.public.encode()
    assert ring(mainpc).who(pc2.supervisor.public, CLOCK.at) is None
    assert mainpc.take(pc2.lists[:1])[0].outcome == "refused"


def test_a_third_host_needs_one_invitation(tmp_path: Path) -> None:
    mainpc, pc2, pc3 = (keeper(tmp_path, host) for host in ("mainpc", "pc2", "pc3"))
    join(mainpc, pc2)
    join(pc2, pc3)
    exchange(pc2, mainpc)
    exchange(mainpc, pc3)
    assert set(ring(mainpc).hosts) == set(ring(pc3).hosts) == {"mainpc", "pc2", "pc3"}
    mainpc.expel("pc3")
    assert set(ring(mainpc).hosts) == {"mainpc", "pc2"}
    exchange(mainpc, pc2)
    assert set(ring(pc2).hosts) == {"mainpc", "pc2"}
    assert mainpc.take(pc3.lists[:1])[0].outcome == "unknown"


def test_neighbours_in_one_home_know_each_other_by_their_files(tmp_path: Path) -> None:
    one = Keeper(tmp_path, startup("mainpc"), CLOCK)
    assert not one.meet("pc2")
    other = Keeper(tmp_path, startup("pc2"), CLOCK)
    assert one.meet("pc2")
    assert other.meet("mainpc")
    exchange(one, other)
    assert one.knows("pc2")
    assert other.knows("mainpc")
    serial = one.serial("mainpc")
    assert one.meet("pc2")
    assert one.serial("mainpc") == serial
    with pytest.raises(Forbidden, match="pc2 keeps its keys in the same TANDEM_HOME"):
        one.expel("pc2")
    with pytest.raises(Forbidden, match="mainpc is this host itself"):
        one.expel("mainpc")


def test_a_host_that_lost_its_list_goes_on_above_what_others_know(tmp_path: Path) -> None:
    clock = Clock()
    mainpc, pc2 = keeper(tmp_path, "mainpc", clock=clock), keeper(tmp_path, "pc2", clock=clock)
    join(mainpc, pc2)
    (pc2.folder / "trust.json").unlink()
    clock.at -= 500.0
    back = keeper(tmp_path, "pc2", clock=clock)
    assert back.serial("pc2") < mainpc.serial("pc2")
    assert mainpc.take(back.lists)[0].outcome == "older"
    back.take(mainpc.lists)
    assert mainpc.take(back.lists)[0].outcome == "taken"


def test_a_lost_host_key_makes_a_new_list_that_the_old_trust_does_not_take(tmp_path: Path) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc"), keeper(tmp_path, "pc2")
    join(mainpc, pc2)
    (pc2.folder / "host.json").unlink()
    back = keeper(tmp_path, "pc2")
    assert back.host_key != pc2.host_key
    assert back.serial("pc2") > pc2.serial("pc2")
    assert back.knows("mainpc")
    assert mainpc.take(back.lists[:1])[0].outcome == "refused"


def test_revocations_are_in_the_keyring_until_they_lose_their_meaning(tmp_path: Path) -> None:
    clock = Clock()
    one = keeper(tmp_path, "mainpc", clock=clock)
    one.revoke({"jti": clock.at + 100}, {"mallory": clock.at})
    one.revoke({}, {"mallory": clock.at - 5})
    assert ring(one).is_revoked("jti", "x", 0.0)
    assert ring(keeper(tmp_path, "mainpc", clock=clock)).revoked_identities == {"mallory": clock.at}
    one.revoke({}, {"trudy": clock.at + 1_000})
    clock.at += REVOKED_FOR_S - 1
    one.forget_old()
    assert (set(ring(one).revoked_tokens), set(ring(one).revoked_identities)) == ({"jti"}, {"mallory", "trudy"})
    clock.at += 1
    one.forget_old()
    assert (set(ring(one).revoked_tokens), set(ring(one).revoked_identities)) == (set(), {"trudy"})


def test_a_clock_that_steps_ahead_and_back_makes_no_revoked_token_good_again(tmp_path: Path) -> None:
    clock = Clock()
    one = keeper(tmp_path, "mainpc", clock=clock)
    one.revoke({"jti": clock.at + 100}, {"mallory": clock.at})
    clock.stepped = 86_400.0
    one.forget_old()
    assert ring(one).is_revoked("jti", "x", 0.0)
    back = ring(keeper(tmp_path, "mainpc", clock=clock))
    assert back.is_revoked("jti", "x", 0.0)
    assert back.is_revoked("other", "mallory", clock.at - 1)


def test_what_cannot_be_written_has_not_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc"), keeper(tmp_path, "pc2")
    bundle = invitation(mainpc, "pc2")

    def full(*_: object) -> None:
        raise StorageUnavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(keyfiles, "write", full)
        with pytest.raises(StorageUnavailable):
            mainpc.admit(admission(bundle, pc2))
    assert mainpc.hosts == {}
    assert mainpc.admit(admission(bundle, pc2)) == ("pc2", False)


def test_ports_that_the_system_chose_are_told(tmp_path: Path) -> None:
    one = keeper(tmp_path, "mainpc")
    serial = one.serial("mainpc")
    one.listen_on(7090, 7590)
    assert one.serial("mainpc") == serial
    one.listen_on(40_001, 40_002)
    assert (ring(one).hosts["mainpc"].supervisor_port, one.serial("mainpc") > serial) == (40_001, True)


def test_a_forged_list_with_the_right_host_is_never_taken(tmp_path: Path) -> None:
    mainpc, pc2, pc3 = (keeper(tmp_path, host) for host in ("mainpc", "pc2", "pc3"))
    join(mainpc, pc2)
    genuine = msgspec.msgpack.decode(pc2.lists[0].body, type=HostKeys)
    thief = keyfiles.read(pc3.folder / "host.json", keyfiles.SigningKeys)
    forged_keys = replace(genuine, serial=genuine.serial + 9)
    forged = host_signing.sign(forged_keys, thief.seed)
    assert mainpc.take([SignedList(body=forged.body, signature=forged.signature)])[0].outcome == "refused"
    assert mainpc.serial("pc2") < forged_keys.serial


def test_a_process_that_becomes_the_gateway_keeps_its_key_and_gets_one_to_sign_with(tmp_path: Path) -> None:
    before = keeper(tmp_path, "pc2", agents=("security_gateway",))
    plain = keyfiles.read(before.process_file("security_gateway"), keyfiles.ProcessKeys)
    after = keeper(tmp_path, "pc2", "security_gateway")
    signing = keyfiles.read(after.process_file("security_gateway"), keyfiles.ProcessKeys)
    assert (plain.signing, plain.public) == ("", signing.public)
    assert ring(after).issuer(GATEWAY) is not None


def test_a_host_that_joined_does_not_become_the_gateway_by_saying_so(tmp_path: Path) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc"), keeper(tmp_path, "pc2", "security_gateway")
    join(mainpc, pc2)
    exchange(mainpc, pc2)
    pc3 = keeper(tmp_path, "pc3", "security_gateway")
    join(mainpc, pc3)
    exchange(mainpc, pc3)
    exchange(pc2, mainpc)
    genuine = ring(pc2).hosts["pc2"].issuers[-1]
    assert ring(mainpc).hosts["pc3"].issuers[-1].name == GATEWAY
    assert ring(mainpc).issuer(GATEWAY) == ring(pc2).issuer(GATEWAY) == genuine


def test_a_host_that_shows_an_older_list_than_its_key_has_signed_is_not_admitted(tmp_path: Path) -> None:
    mainpc, pc2 = keeper(tmp_path, "mainpc"), keeper(tmp_path, "pc2")
    early = pc2.lists[0]
    join(mainpc, pc2)
    exchange(mainpc, pc2)
    bundle = invitation(mainpc, "pc2")
    with pytest.raises(Conflict, match="is older than its list"):
        mainpc.admit(replace(admission(bundle, pc2), keys=early))
    assert mainpc.admit(admission(bundle, pc2)) == ("pc2", False)
