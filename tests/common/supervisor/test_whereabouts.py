from __future__ import annotations

from common.client.directory import Directory
from common.config.schema import Peer, Ports, Service, Startup
from common.supervisor.whereabouts import neighbours, services_text
from common.transport.sockets import Endpoint


def test_children_are_told_of_their_host_its_services_its_peers_and_theirs() -> None:
    startup = Startup(
        version=1,
        host="a",
        supervisor=Ports(),
        peers={"b": Peer("10.0.0.2", 7091, 7591, {"resource_manager": Ports(9001, 9501)})},
        services=[
            Service("core_orchestrator", ["x"], port=9000, events_port=9500),
            Service("error_bus", ["x"], port=9003),
            Service("chosen_later", ["x"]),
        ],
    )
    text = services_text(startup, Ports(9090, 9590))
    assert text == (
        "Supervisor/a=9090:9590@127.0.0.1,CoreOrchestrator=9000:9500@127.0.0.1,ErrorBus=9003@127.0.0.1,"
        "Supervisor/b=7091:7591@10.0.0.2,ResourceManager=9001:9501@127.0.0.1"
    )
    place = Directory.parse(text).place("Supervisor/b")
    assert place is not None
    assert place.requests == Endpoint.tcp("10.0.0.2", 7091)


def test_neighbours_are_the_peers_at_an_address_of_this_host() -> None:
    peers = {name: Peer(address, 1, 2) for name, address in (("a", "127.0.0.1"), ("b", "10.0.0.1"), ("c", "10.0.0.2"))}
    startup = Startup(version=1, host="h", supervisor=Ports(), listen=["10.0.0.1"], peers=peers)
    assert neighbours(startup) == {"a", "b"}
