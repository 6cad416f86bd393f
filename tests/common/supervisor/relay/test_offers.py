"""Which far services a host's relay offers."""

from __future__ import annotations

from common.config.schema import Peer, Ports, Service, Startup
from common.security.keyring import HostKeys, KeyEntry, Keyring
from common.supervisor.relay.offers import WELL_KNOWN, Offer, offers

PC2 = Peer("10.0.0.2", 7091, 7591)
NOBODY = Keyring(own_host="mainpc")
CORE = Service("core_orchestrator", ["x"])


def startup(**peers: Peer) -> Startup:
    return Startup(1, "mainpc", Ports(7090, 7590, 8090), ["127.0.0.1", "10.0.0.1"], peers, services=[CORE])


def joined(*names: str) -> Keyring:
    keys = [KeyEntry(name, "service", "k" * 40) for name in names] + [KeyEntry("supervisor", "supervisor", "s" * 40)]
    return Keyring(own_host="mainpc", hosts={"pc2": HostKeys(host="pc2", serial=1, issued_at=0.0, keys=keys)})


def test_the_well_known_services_are_named_as_in_startup_files() -> None:
    assert {"core_orchestrator", "resource_manager", "observability_hub", "error_bus", "security_gateway"} == set(WELL_KNOWN)


def test_before_the_only_far_host_has_joined_every_service_that_does_not_run_here_is_taken_to_run_there() -> None:
    found = offers(startup(pc2=PC2), NOBODY)
    assert found[0] == Offer("pc2", "supervisor", "Supervisor/pc2", "10.0.0.2", Ports(7091, 7591, 8091))
    assert {offer.process for offer in found} == {"supervisor", *WELL_KNOWN} - {"core_orchestrator"}
    assert Offer("pc2", "resource_manager", "ResourceManager", "10.0.0.2", Ports(7001, 7501, 8001)) in found


def test_a_host_that_has_joined_says_itself_what_it_runs() -> None:
    found = offers(startup(pc2=PC2), joined("resource_manager", "core_orchestrator", "own_thing"))
    assert [offer.process for offer in found] == ["supervisor", "resource_manager"]


def test_other_ports_and_other_services_are_said_by_the_startup_file() -> None:
    services = {"resource_manager": Ports(7101), "own_thing": Ports(9001, 9501)}
    found = offers(startup(pc2=Peer("10.0.0.2", 7091, 7591, services)), joined("resource_manager"))
    assert found[1:] == [
        Offer("pc2", "own_thing", "own_thing", "10.0.0.2", Ports(9001, 9501)),
        Offer("pc2", "resource_manager", "ResourceManager", "10.0.0.2", Ports(7101, 7501, 8001)),
    ]


def test_between_neighbours_nothing_is_offered() -> None:
    assert offers(startup(pc2=Peer("127.0.0.1", 7091, 7591), pc3=Peer("10.0.0.1", 7092, 7592)), NOBODY) == []


def test_of_several_far_hosts_none_is_taken_to_run_what_it_has_not_told_of() -> None:
    found = offers(startup(pc2=PC2, far=Peer("10.0.0.3", 7093, 7593)), joined("resource_manager"))
    assert [(offer.host, offer.process) for offer in found] == [
        ("pc2", "supervisor"),
        ("pc2", "resource_manager"),
        ("far", "supervisor"),
    ]
