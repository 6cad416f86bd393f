"""Which far services a host's relay offers."""

from __future__ import annotations

import msgspec

from common.config.schema import Agent, Peer, Ports, Service, Startup
from common.supervisor.relay.offers import Far, far_hosts, local_ports, offers, spoken_for
from tests.common.registry.test_copy import agent

PC2 = Peer("10.0.0.2", 7091, 7591)
CORE = Service("core_orchestrator", ["x"])


def startup(**peers: Peer) -> Startup:
    return Startup(1, "mainpc", Ports(7090, 7590, 8090), ["127.0.0.1", "10.0.0.1"], peers, services=[CORE])


def test_the_far_supervisor_and_every_service_that_runs_there_is_offered_at_its_own_numbers() -> None:
    found = offers(startup(pc2=PC2))
    assert found[0] == Far("pc2", "supervisor", "Supervisor/pc2", "10.0.0.2", Ports(7091, 7591, 8091))
    assert Far("pc2", "resource_manager", "ResourceManager", "10.0.0.2", Ports(7001, 7501, 8001)) in found
    assert "core_orchestrator" not in {offer.process for offer in found}


def test_other_ports_and_other_services_are_said_by_the_startup_file() -> None:
    services = {"resource_manager": Ports(7101), "own_thing": Ports(9001, 9501), "chosen": Ports(0)}
    found = offers(startup(pc2=Peer("10.0.0.2", 7091, 7591, services)))
    assert Far("pc2", "resource_manager", "ResourceManager", "10.0.0.2", Ports(7101, 7501, 8001)) in found
    assert Far("pc2", "own_thing", "OwnThing", "10.0.0.2", Ports(9001, 9501)) in found
    assert "chosen" not in {offer.process for offer in found}


def test_what_runs_here_is_never_offered_from_elsewhere() -> None:
    services = {"core_orchestrator": Ports(7000, 7500, 8000)}
    found = offers(startup(pc2=Peer("10.0.0.2", 7091, 7591, services)))
    assert "core_orchestrator" not in {offer.process for offer in found}


def test_between_neighbours_nothing_is_offered() -> None:
    both = startup(pc2=Peer("127.0.0.1", 7091, 7591), pc3=Peer("10.0.0.1", 7092, 7592))
    assert offers(both) == []
    assert far_hosts(both) == {}


def test_a_host_of_another_name_has_no_health_port_that_anyone_knows() -> None:
    assert offers(startup(far=Peer("10.0.0.3", 7093, 7593)))[0].ports == Ports(7093, 7593, 0)


def test_no_number_of_a_service_or_of_what_runs_on_this_loopback_is_an_agent_s_from_elsewhere() -> None:
    services = {"own_thing": Ports(9001, 9501)}
    here = startup(
        pc2=Peer("10.0.0.2", 7091, 7591, services), near=Peer("127.0.0.1", 7099, 7599, {"thing": Ports(9100)})
    )
    here = msgspec.structs.replace(here, agents=[Agent("speech", ["x"], port=5555, health_check_port=5556)])
    kept = spoken_for(here)
    assert {7000, 7500, 8000, 7003, 7503, 8003, 7090, 7091, 8091, 5555, 5556, 9001, 9501, 7099, 7599, 9100} <= kept
    assert 5557 not in kept


def test_numbers_of_this_host_s_own_agents_are_those_of_its_loopback() -> None:
    far = msgspec.structs.replace(agent("far", port=5001), location="pc2")
    lan = msgspec.structs.replace(agent("lan", port=5002), host="10.1.1.1")
    assert local_ports([agent("here", port=5003), far, lan], "mainpc") - {0} == {5003}
