from __future__ import annotations

from common.client.directory import Directory
from common.config.schema import Peer, Ports, Service, Startup
from common.supervisor.whereabouts import gateway_host, neighbours, outward, services_of, services_text
from common.transport.sockets import Endpoint


def service(name: str, port: int = 0, events_port: int = 0) -> Service:
    return Service(name, ["x"], port=port, events_port=events_port)


def startup(*services: Service, **peers: Peer) -> Startup:
    return Startup(version=1, host="a", supervisor=Ports(), listen=["10.0.0.1"], peers=peers, services=list(services))


def test_children_are_told_of_their_host_its_services_its_neighbours_and_theirs() -> None:
    told = startup(
        service("core_orchestrator", 9000, 9500),
        service("error_bus", 9003),
        service("chosen_later"),
        b=Peer("127.0.0.1", 7091, 7591, {"resource_manager": Ports(9001, 9501)}),
        c=Peer("10.0.0.1", 7092, 7592),
    )
    text = services_text(told, Ports(9090, 9590))
    assert text == (
        "Supervisor/a=9090:9590@127.0.0.1,CoreOrchestrator=9000:9500@127.0.0.1,ErrorBus=9003@127.0.0.1,"
        "Supervisor/b=7091:7591@127.0.0.1,ResourceManager=9001:9501@127.0.0.1,Supervisor/c=7092:7592@10.0.0.1"
    )
    place = Directory.parse(text).place("Supervisor/b")
    assert place is not None
    assert place.requests == Endpoint.tcp("127.0.0.1", 7091)


def test_a_lone_peer_elsewhere_has_every_service_that_this_host_has_not_and_must_show_its_key() -> None:
    peer = Peer("10.0.0.2", 7091, 7591, {"resource_manager": Ports(9001, 9501), "own_thing": Ports(9100)})
    told = startup(service("core_orchestrator", 7000, 7500), service("error_bus", 7003), b=peer)
    assert services_text(told, Ports()).split(",") == [
        "CoreOrchestrator=7000:7500@127.0.0.1",
        "ErrorBus=7003@127.0.0.1",
        "Supervisor/b=7091:7591@10.0.0.2#b/supervisor",
        "ResourceManager=9001:9501@10.0.0.2#b/resource_manager",
        "OwnThing=9100@10.0.0.2#b/own_thing",
        "ObservabilityHub=7002:7502@10.0.0.2#b/observability_hub",
        "SecurityGateway=7005:7505@10.0.0.2#b/security_gateway",
    ]


def test_of_several_peers_each_has_what_is_named_or_at_home_there() -> None:
    named = {"error_bus": Ports(health_check_port=9203)}
    told = startup(service("core_orchestrator"), pc2=Peer("10.0.0.2", 1, 2), c=Peer("10.0.0.3", 3, 4, named))
    assert set(services_of(told, "pc2")) == {"resource_manager", "observability_hub", "security_gateway"}
    assert services_of(told, "c") == {"error_bus": Ports(7003, 7503, 9203)}


def test_the_gateway_is_on_the_host_that_the_file_has_it_on() -> None:
    pc2, c = Peer("10.0.0.2", 1, 2), Peer("10.0.0.3", 3, 4)
    assert gateway_host(startup(service("core_orchestrator"), pc2=pc2)) == "pc2"
    assert gateway_host(startup(service("security_gateway"), pc2=pc2)) == "a"
    assert gateway_host(startup(c=c, pc2=pc2)) == "pc2"
    named = Peer("10.0.0.3", 3, 4, {"security_gateway": Ports()})
    assert gateway_host(startup(c=named, pc2=pc2)) == "c"
    assert gateway_host(startup(b=c, c=c)) == "a"


def test_what_other_machines_reach_are_the_addresses_beside_loopback() -> None:
    told = Startup(version=1, host="h", supervisor=Ports(), listen=["127.0.0.1", "10.0.0.1", "127.0.0.2", "10.1.0.1"])
    assert outward(told) == ("10.0.0.1", "10.1.0.1")


def test_neighbours_are_the_peers_at_an_address_of_this_host() -> None:
    peers = {name: Peer(address, 1, 2) for name, address in (("a", "127.0.0.1"), ("b", "10.0.0.1"), ("c", "10.0.0.2"))}
    startup = Startup(version=1, host="h", supervisor=Ports(), listen=["10.0.0.1"], peers=peers)
    assert neighbours(startup) == {"a", "b"}
