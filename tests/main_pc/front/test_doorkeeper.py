from __future__ import annotations

import pytest

from common.errors import Forbidden, Unauthenticated
from main_pc.front.doorkeeper import Doorkeeper

AT_HOME, LAN = "127.0.0.1", "10.0.0.1"
KEEPER = Doorkeeper(frozenset({"gpu.lan"}), "a-long-enough-key")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7081", "localhost:7081", "localhost", "[::1]:7081", "LOCALHOST.", "gpu.lan:7081"]
)
def test_this_host_may_ask_by_its_own_names(host: str) -> None:
    assert KEEPER.refusal(AT_HOME, host, None, "") is None
    assert KEEPER.refusal("::1", host, None, "") is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7081", "10.0.0.1:7081", "", "127.0.0.1.evil.example"])
def test_a_name_made_to_point_here_is_refused(host: str) -> None:
    refused = KEEPER.refusal(AT_HOME, host, None, "")
    assert isinstance(refused, Forbidden)
    assert repr(host) in refused.message


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://gpu.lan", "http://[::1]:9"])
def test_pages_of_this_host_may_ask(origin: str) -> None:
    assert KEEPER.refusal(AT_HOME, "localhost", origin, "") is None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "file://", "chrome-extension://localhost", "http://10.0.0.1"]
)
def test_pages_of_elsewhere_may_not(origin: str) -> None:
    refused = KEEPER.refusal(AT_HOME, "localhost", origin, "")
    assert isinstance(refused, Forbidden)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "Basic a-long-enough-key", "a-long-enough-key"]
)
def test_from_elsewhere_a_key_is_needed(authorization: str) -> None:
    refused = KEEPER.refusal(LAN, "10.0.0.1:7081", None, authorization)
    assert isinstance(refused, Unauthenticated)
    assert "wrong" not in str(refused)


def test_from_elsewhere_the_key_opens() -> None:
    assert KEEPER.refusal(LAN, "10.0.0.1:7081", None, "Bearer a-long-enough-key") is None
    assert KEEPER.refusal(LAN, "gpu.lan", "http://gpu.lan:7080", "bearer  a-long-enough-key") is None


def test_a_front_without_a_key_lets_nobody_in_from_elsewhere() -> None:
    assert isinstance(Doorkeeper().refusal(LAN, "10.0.0.1", None, "Bearer "), Unauthenticated)
