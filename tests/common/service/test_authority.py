"""A process's judge against real key files and signed tokens: every kind of caller, every access, every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.words import Access, Empty, Verb
from common.errors import Forbidden, TandemError, Unauthenticated
from common.security.keyring import Kind
from common.security.rights import STRANGER
from common.service.authority import Authority
from common.service.settings import ShellSettings
from common.telemetry.system_clock import SystemClock
from common.transport import zap
from common.transport.router_port import RouterPort
from tests.lab.keys import KeyHome

KINDS: tuple[Kind, ...] = ("supervisor", "service", "agent", "relay")
BARE = {"supervisor": 2, "service": 2, "agent": 1, "relay": 1, "plain": 1, "stranger": -1}
RANK = {Access.READ: 0, Access.USE: 1, Access.CONTROL: 2}
SCOPES = {
    (): -1,
    ("read",): 0,
    ("use",): 1,
    ("control",): 2,
    ("control:Lab",): 2,
    ("control:Other",): -1,
    ("read", "control:Lab"): 2,
    ("use:Lab", "control:Other"): 1,
    ("everything",): -1,
}


class Port:
    """As much of a port as a judge looks at."""

    def __init__(self, key: str | None) -> None:
        self.encrypted = key is not None
        self.key = key or ""


class Lab:
    """One judge on mainpc, and a caller of every kind on pc2."""

    def __init__(self, folder: Path) -> None:
        self.home = KeyHome(folder)
        self.home.add("mainpc", "lab", "service")
        for kind in KINDS:
            self.home.add("pc2", kind, kind)
        for host in ("mainpc", "pc2"):
            self.home.operator(host)
        self.home.write()
        place = ShellSettings("Lab", "mainpc", 0, keys=self.home.file("mainpc", "lab"), lone=False)
        self.judge = Authority(place, SystemClock(), lambda verb: False)
        self.tokens: dict[tuple[str, tuple[str, ...], str], str] = {}

    def key(self, caller: str) -> str | None:
        if caller in KINDS:
            return self.home.pairs["pc2", caller].public
        return None if caller == "plain" else "x" * 40

    def binding(self, caller: str) -> str:
        local = {"plain": "local@mainpc", "relay": "local@pc2"}
        return local.get(caller) or cast("str", self.key(caller))

    def token(self, host: str, scopes: tuple[str, ...], binding: str) -> str:
        known = self.tokens.get((host, scopes, binding))
        if known is None:
            known = self.tokens[host, scopes, binding] = self.home.token(host, *(scopes or ("",)), binding=binding)
        return known

    def judged(self, caller: str, token: str | None, access: Access) -> tuple[str, tuple[str, ...]] | TandemError:
        standing = self.judge.identify(cast("RouterPort", Port(self.key(caller))))
        try:
            return self.judge.authorize(standing, token, Verb("do", Empty, Empty, access))
        except TandemError as error:
            return error


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("keys"))


callers = st.sampled_from(sorted(BARE))
accesses = st.sampled_from(list(Access))
issuers = st.sampled_from(["mainpc", "pc2"])


@settings(deadline=None)
@given(caller=callers, access=accesses)
def test_without_a_token_a_caller_may_what_its_kind_may(lab: Lab, caller: str, access: Access) -> None:
    outcome = lab.judged(caller, None, access)
    assert isinstance(outcome, tuple) == (BARE[caller] >= RANK[access])
    if caller == "stranger":
        assert isinstance(outcome, Unauthenticated)


@settings(deadline=None)
@given(caller=callers, access=accesses, scopes=st.sampled_from(sorted(SCOPES)), issuer=issuers)
def test_a_good_token_adds_what_its_scopes_allow_and_names_the_caller(
    lab: Lab, caller: str, access: Access, scopes: tuple[str, ...], issuer: str
) -> None:
    outcome = lab.judged(caller, lab.token(issuer, scopes, lab.binding(caller)), access)
    if caller == "stranger":
        assert isinstance(outcome, Unauthenticated)
    elif max(BARE[caller], SCOPES[scopes]) >= RANK[access]:
        assert isinstance(outcome, tuple)
        assert outcome[0] == f"operator@{issuer}"
    else:
        assert isinstance(outcome, Forbidden)


@settings(deadline=None)
@given(caller=callers, access=accesses, holder=callers)
def test_a_token_of_someone_else_is_worth_nothing_to_anyone(lab: Lab, caller: str, access: Access, holder: str) -> None:
    if lab.binding(holder) == lab.binding(caller):
        return
    outcome = lab.judged(caller, lab.token("mainpc", ("control",), lab.binding(holder)), access)
    assert isinstance(outcome, Unauthenticated)


def test_a_service_that_admits_nobody_lets_no_invited_key_in(lab: Lab) -> None:
    guest = "g" * 40
    lab.home.invited = {guest: 4e9}
    lab.home.write()
    assert lab.judge.follow() == "changed"
    assert not lab.judge.admits(guest, zap.REQUESTS)
    known = lab.key("agent")
    assert known is not None
    assert lab.judge.admits(known, zap.EVENTS)
    assert not lab.judge.admits("x" * 40, zap.REQUESTS)


def test_it_tells_its_own_key_the_addresses_it_knows_and_whose_keys_are_gone(tmp_path: Path) -> None:
    own = Lab(tmp_path)
    assert own.judge.public == own.home.pairs["mainpc", "lab"].public
    own.home.addresses = {"mainpc": "10.0.0.1", "pc2": "10.0.0.2"}
    own.home.write()
    assert own.judge.follow() == "changed"
    assert own.judge.addresses == {"mainpc": "10.0.0.1", "pc2": "10.0.0.2"}
    assert isinstance(own.judged("agent", None, Access.USE), tuple)
    own.home.remove("pc2", "agent")
    own.home.write()
    assert own.judge.follow() == "keys lost"
    assert own.judge.identify(cast("RouterPort", Port(own.key("agent")))) is STRANGER
    assert own.judge.follow() == "as before"


def test_without_keys_there_is_nothing_to_tell() -> None:
    bare: Any = Authority(ShellSettings("Lab", "mainpc", 0), SystemClock(), lambda verb: True)
    assert (bare.public, bare.addresses, bare.problem, bare.follow()) == ("", {}, "", "as before")
    assert not bare.admits("x" * 40, zap.REQUESTS)
