from __future__ import annotations

import pytest

from common.api.core_orchestrator import RegisterAgent
from common.errors import Unavailable
from common.registry.location import Asker, Relayed, Routes, endpoint_for, is_foreign_loopback, is_own_host
from main_pc.core_orchestrator.registry import Entry

LAN = Routes(addresses={"mainpc": "10.0.0.1", "pc2": "10.0.0.2"})


KEY = "k" * 40


def on_pc2(host: str = "127.0.0.1", server_key: str = KEY) -> Entry:
    asked = RegisterAgent(
        agent_name="whisper",
        host=host,
        port=9000,
        health_check_port=9001,
        events_port=9002,
        capabilities=[],
        location="pc2",
        server_key=server_key,
    )
    return Entry(asked, "now", "alive", 0.0)


def found(entry: Entry, asker: Asker, routes: Routes = LAN) -> tuple[str, int]:
    endpoint = endpoint_for(entry, asker, routes)
    return endpoint.host, endpoint.port


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("127.0.1.1", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("10.0.0.2", False),
        ("pc2.lan", False),
    ],
)
def test_loopback_and_wildcards_mean_the_registrants_own_host(host: str, own: bool) -> None:
    assert is_own_host(host) is own


def test_on_its_own_host_the_address_is_good_as_it_is() -> None:
    assert found(on_pc2("127.0.1.1"), Asker("pc2")) == ("127.0.1.1", 9000)
    assert found(on_pc2("*"), Asker("pc2")) == ("127.0.0.1", 9000)


def test_an_address_that_is_not_loopback_is_good_everywhere() -> None:
    assert found(on_pc2("10.9.9.9"), Asker("mainpc")) == ("10.9.9.9", 9000)


def test_hosts_that_share_an_address_share_loopback() -> None:
    shared = Routes(addresses={"mainpc": "127.0.0.1", "pc2": "127.0.0.1"})
    assert found(on_pc2(), Asker("mainpc"), shared) == ("127.0.0.1", 9000)


def test_hosts_of_this_machine_share_loopback_though_only_one_has_an_address() -> None:
    near = Routes({"mainpc": "10.0.0.1"}, near=frozenset({"mainpc", "pc2"}))
    assert found(on_pc2(), Asker("mainpc", curve=True), near) == ("127.0.0.1", 9000)
    with pytest.raises(Unavailable):
        found(on_pc2(), Asker("third"), near)


def test_a_loopback_answer_names_no_key_for_loopback_is_plain() -> None:
    assert endpoint_for(on_pc2(), Asker("pc2", curve=True), LAN).server_key == ""
    assert endpoint_for(on_pc2("10.9.9.9"), Asker("mainpc"), LAN).server_key == KEY


def test_who_speaks_curve_gets_the_address_and_the_key_of_an_agent_that_has_one() -> None:
    at = endpoint_for(on_pc2(), Asker("mainpc", curve=True), LAN)
    assert (at.host, at.port, at.events_port, at.health_check_port) == ("10.0.0.2", 9000, 9002, 0)
    assert at.server_key == KEY


@pytest.mark.parametrize(("asker", "key"), [(Asker("mainpc"), KEY), (Asker("mainpc", curve=True), "")])
def test_everyone_else_gets_the_relays_port_on_the_own_loopback(asker: Asker, key: str) -> None:
    relay = Routes(LAN.addresses, {("mainpc", "whisper"): Relayed(40_001, 40_002)})
    at = endpoint_for(on_pc2(server_key=key), asker, relay)
    assert (at.host, at.port, at.health_check_port, at.events_port) == ("127.0.0.1", 40_001, 40_002, 0)
    assert at.server_key == ""


@pytest.mark.parametrize("routes", [LAN, Routes()])
def test_without_a_way_it_is_unavailable_and_says_which_is_missing(routes: Routes) -> None:
    with pytest.raises(Unavailable, match="whisper is on pc2 and no relay on mainpc leads there"):
        endpoint_for(on_pc2(), Asker("mainpc"), routes)


def test_who_speaks_curve_without_a_known_address_needs_the_relay_too() -> None:
    with pytest.raises(Unavailable):
        endpoint_for(on_pc2(), Asker("mainpc", curve=True), Routes())


@pytest.mark.parametrize(
    ("caller", "routes", "foreign"),
    [
        ("mainpc", LAN, True),
        ("pc2", LAN, False),
        ("mainpc", Routes(addresses={"mainpc": "10.0.0.1", "pc2": "10.0.0.1"}), False),
        ("mainpc", Routes(addresses=LAN.addresses, near=frozenset({"mainpc", "pc2"})), False),
        ("mainpc", Routes(), False),
    ],
)
def test_the_loopback_of_another_machine_is_foreign(caller: str, routes: Routes, foreign: bool) -> None:
    assert is_foreign_loopback(on_pc2().asked, caller, routes) is foreign
    assert not is_foreign_loopback(on_pc2("10.0.0.2").asked, caller, routes)
