from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.directory import DEFAULTS, Directory, Place
from common.errors import BadRequest
from common.transport.sockets import Endpoint

ports = st.integers(1, 65_535)
names = st.from_regex(r"[A-Z][A-Za-z]{0,8}(/[a-z0-9]{1,6})?", fullmatch=True)
endpoints = ports.map(lambda port: Endpoint.tcp("127.0.0.1", port))
words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
places = st.builds(Place, endpoints, st.none() | endpoints) | st.builds(
    Place, endpoints, st.none() | endpoints, words, words
)


def test_the_defaults_are_the_well_known_ports() -> None:
    directory = Directory()
    assert directory.place("CoreOrchestrator") == Place(
        Endpoint("tcp://127.0.0.1:7000"), Endpoint("tcp://127.0.0.1:7500")
    )
    assert directory.names() == sorted(DEFAULTS)
    assert {"ResourceManager", "Supervisor/mainpc", "Supervisor/pc2"} <= set(directory.names())


def test_an_agent_is_asked_of_the_registry_and_an_address_is_its_own_place() -> None:
    directory = Directory()
    assert directory.place("vision") is None
    assert directory.place("tcp://10.0.0.1:9") == Place(Endpoint("tcp://10.0.0.1:9"))
    assert directory.place("ipc:///tmp/x") == Place(Endpoint("ipc:///tmp/x"))


def test_the_environment_overrides_one_by_one() -> None:
    directory = Directory.parse(" CoreOrchestrator=17000:17500@10.0.0.1 , Third=5@h,")
    assert directory.place("CoreOrchestrator") == Place(
        Endpoint("tcp://10.0.0.1:17000"), Endpoint("tcp://10.0.0.1:17500")
    )
    far = Directory.parse("ResourceManager=7001:7501@10.0.0.2#pc2/resource_manager").place("ResourceManager")
    assert far == Place(
        Endpoint("tcp://10.0.0.2:7001"), Endpoint("tcp://10.0.0.2:7501"), host="pc2", process="resource_manager"
    )
    assert directory.place("Third") == Place(Endpoint("tcp://h:5"))
    assert directory.place("ResourceManager") == DEFAULTS["ResourceManager"]


@given(st.dictionaries(names, places, max_size=4))
def test_what_is_rendered_for_a_child_is_what_the_child_reads(some: dict[str, Place]) -> None:
    directory = Directory(some)
    assert Directory.parse(directory.render()).render() == directory.render()
    for name, place in some.items():
        assert Directory.parse(directory.render()).place(name) == place


@pytest.mark.parametrize(
    "piece",
    [
        "x",
        "x=1",
        "=1@h",
        "x=@h",
        "x=a@h",
        "x=1:b@h",
        "x=1@",
        "x=70000@h",
        "x=²@h",
        "x=1:99999@h",
        "x=1@h#",
        "x=1@h#pc2",
        "x=1@h#/p",
        "x=1@#a/b",
    ],
)
def test_a_piece_that_is_wrong_is_named(piece: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Directory.parse(f"Fine=1@h,{piece}")
    assert repr(piece) in caught.value.message
