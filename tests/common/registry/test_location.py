from __future__ import annotations

import pytest

from common.api.core_orchestrator import RegisterAgent
from common.errors import Unavailable
from common.registry.location import Asker, Relayed, Routes, endpoint_for, is_own_host
from main_pc.core_orchestrator.registry import Entry

LAN = Routes(addresses={"mainpc": "10.0.0.1", "pc2": "10.0.0.2"})


def on_pc2(host: str = "127.0.0.1", dress: str = "native") -> Entry:
    asked = RegisterAgent(agent_name="whisper", host=host, port=9000, capabilities=[], location="pc2", dress=dress)  # type: ignore[arg-type]
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


def test_a_native_caller_gets_the_lan_address_of_a_native_agent() -> None:
    assert found(on_pc2(), Asker("mainpc", native=True)) == ("10.0.0.2", 9000)


@pytest.mark.parametrize(("asker", "dress"), [(Asker("mainpc"), "native"), (Asker("mainpc", native=True), "plain")])
def test_everyone_else_gets_the_relays_port_on_the_own_loopback(asker: Asker, dress: str) -> None:
    relay = Routes(LAN.addresses, {("mainpc", "whisper"): Relayed(40_001, 40_002)})
    endpoint = endpoint_for(on_pc2(dress=dress), asker, relay)
    assert (endpoint.host, endpoint.port, endpoint.health_check_port, endpoint.events_port) == (
        "127.0.0.1",
        40_001,
        40_002,
        0,
    )


@pytest.mark.parametrize("routes", [LAN, Routes()])
def test_without_a_way_it_is_unavailable_and_says_which_is_missing(routes: Routes) -> None:
    with pytest.raises(Unavailable, match="whisper is on pc2 and no relay on mainpc leads there"):
        endpoint_for(on_pc2(), Asker("mainpc"), routes)


def test_a_native_caller_without_a_known_address_needs_the_relay_too() -> None:
    with pytest.raises(Unavailable):
        endpoint_for(on_pc2(), Asker("mainpc", native=True), Routes())
