"""A shell with keys over real sockets: whom its encrypted ports serve, and who may do what with which token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from common.api.words import Access, Empty, Verb
from common.errors import Unavailable
from common.security import keyfiles
from common.security.keyfiles import KeyfileRefused
from common.security.rights import ADMIT
from common.service import shell as module
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.transport import router_port, sockets
from common.transport.sockets import Keys
from common.wire.header import ReplyKind
from tests.common.service.lab import NOTED, OTHER, PATIENCE_S, WAIT, Said, Service, heard, is_error, native, peer, until
from tests.lab.keys import KeyHome

CURVE = "127.0.0.2"
STOP = Verb("stop_it", Empty, Said, Access.CONTROL)
ADMITS = Verb(ADMIT, Empty, Said, Access.CONTROL)
WHO = Verb("who", Empty, Said, Access.READ)


def who(request: Empty, call: Call) -> Said:
    return Said(text=json.dumps([call.identity, call.host, call.binding, call.scopes]))


@pytest.fixture
def home(tmp_path: Path) -> KeyHome:
    made = KeyHome(tmp_path)
    made.add("mainpc", "lab", "service")
    made.add("mainpc", "supervisor", "supervisor")
    made.add("pc2", "resource_manager", "service")
    made.add("pc2", "whisper", "agent")
    made.add("pc2", "relay", "relay")
    made.operator("mainpc")
    made.operator("pc2")
    made.write()
    return made


@asynccontextmanager
async def keyed(home: KeyHome, *, admits: bool = False, **settings: Any) -> AsyncIterator[Service]:
    made = {
        "service": "Lab",
        "host": "mainpc",
        "port": 0,
        "events_port": 0,
        "health_port": 0,
        "addresses": ("127.0.0.1", CURVE),
        "keys": home.file("mainpc", "lab"),
        "lone": False,
    }
    shell = Shell(ShellSettings(**made | settings), (NOTED, OTHER))
    serving = Service(shell)
    for verb in (STOP, WHO, *((ADMITS,) if admits else ())):
        shell.handle(verb, who)
    await shell.open()
    try:
        yield serving
    finally:
        await shell.close(drain_s=0)


class KeyedPeer:
    """A bare socket that came with a key."""

    def __init__(self, port: int, server: Keys, keys: Keys, kind: int = zmq.DEALER) -> None:
        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.CURVE_SERVERKEY, server.public)
        self.socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        self.socket.connect(f"tcp://{CURVE}:{port}")

    async def ask(self, verb: Verb[Any, Any], **fields: Any) -> dict[str, Any]:
        await self.socket.send_multipart([json.dumps({"action": verb.name, **fields}).encode()])
        async with asyncio.timeout(PATIENCE_S):
            (body,) = await self.socket.recv_multipart()
        return dict(json.loads(body))

    async def gets_nothing(self) -> bool:
        return not await self.socket.poll(300)


@contextmanager
def caller(home: KeyHome, lab: Service, host: str, name: str) -> Iterator[KeyedPeer]:
    with stranger(
        lab, home.add(host, name, "agent") if (host, name) not in home.pairs else pair(home, host, name)
    ) as made:
        yield made


def pair(home: KeyHome, host: str, name: str) -> Keys:
    found = home.pairs[host, name]
    return Keys(found.public.encode(), found.secret.encode())


@contextmanager
def stranger(lab: Service, keys: Keys, port: int = 0, kind: int = zmq.DEALER) -> Iterator[KeyedPeer]:
    server = lab.shell.authority.keys
    assert server is not None
    made = KeyedPeer(port or lab.shell.port, server, keys, kind)
    try:
        yield made
    finally:
        made.socket.close()
        made.context.term()


def told(answer: dict[str, Any]) -> list[Any]:
    assert answer["status"] == "success", answer
    return list(json.loads(answer["text"]))


async def test_each_known_key_is_served_under_its_own_name(home: KeyHome) -> None:
    async with keyed(home) as lab:
        for name, scope in (("resource_manager", "control"), ("whisper", "use")):
            public = home.pairs["pc2", name].public
            with caller(home, lab, "pc2", name) as known:
                assert told(await known.ask(WHO)) == [f"{name}@pc2", "pc2", public, [scope]]
        with caller(home, lab, "pc2", "relay") as relayed:
            assert told(await relayed.ask(WHO)) == ["local@pc2", "pc2", "local@pc2", ["use"]]
        async with peer(lab.shell.port) as plain:
            assert told(await plain.plain("who")) == ["local@mainpc", "mainpc", "local@mainpc", ["use"]]


async def test_an_unknown_key_and_a_plaintext_client_get_nothing(home: KeyHome) -> None:
    async with keyed(home) as lab:
        context = zmq.asyncio.Context()
        plain = context.socket(zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(f"tcp://{CURVE}:{lab.shell.port}")
        await plain.send(b"ping")
        with stranger(lab, Keys(*zmq.curve_keypair())) as unknown:
            await unknown.socket.send(b"ping")
            assert await unknown.gets_nothing()
        assert not await plain.poll(0)
        assert lab.shell.counters()["keys_refused"] >= 1
        plain.close()
        context.term()


async def test_control_is_for_services_and_supervisors_and_for_tokens_that_allow_it(home: KeyHome) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        refused = await plain.plain("stop_it")
        assert (refused["code"], refused["retryable"]) == ("forbidden", False)
        assert "stop_it needs access control; local@mainpc has use here" in refused["message"]
        assert "token" in refused["details"]["mend"]
        served = await plain.plain("stop_it", _token=home.token("mainpc"))
        assert told(served) == ["operator@mainpc", "mainpc", "local@mainpc", ["use", "control"]]
        assert (await plain.plain("stop_it", _token=home.token("mainpc", "read")))["code"] == "forbidden"
        assert (await plain.plain("stop_it", _token=home.token("mainpc", "control:Other")))["code"] == "forbidden"
        assert told(await plain.plain("stop_it", _token=home.token("mainpc", "control:Lab")))
        with caller(home, lab, "pc2", "resource_manager") as service:
            assert told(await service.ask(STOP))[0] == "resource_manager@pc2"
        with caller(home, lab, "pc2", "whisper") as agent:
            assert (await agent.ask(STOP))["code"] == "forbidden"
            bound = home.token("pc2", binding=home.pairs["pc2", "whisper"].public)
            assert told(await agent.ask(STOP, _token=bound))[0] == "operator@pc2"
        with caller(home, lab, "pc2", "relay") as relayed:
            assert told(await relayed.ask(STOP, _token=home.token("pc2")))[0] == "operator@pc2"


async def test_a_bad_token_is_refused_for_every_verb_with_the_reason(home: KeyHome) -> None:
    bad = {
        "expired": home.token("mainpc", ttl_s=10, ago_s=60),
        "bound to another key": home.token("mainpc", binding="local@pc2"),
        "malformed": "x.y.z",
        "unknown issuer": KeyHome(home.home / "other").token("elsewhere"),
    }
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        for reason, token in bad.items():
            for verb in ("who", "stop_it"):
                answer = await plain.plain(verb, _token=token)
                assert (answer["code"], answer["details"]["reason"]) == ("unauthenticated", reason)
        with caller(home, lab, "pc2", "whisper") as agent:
            stolen = await agent.ask(STOP, _token=home.token("pc2", binding=home.pairs["pc2", "relay"].public))
            assert stolen["details"]["reason"] == "bound to another key"


async def test_a_revoked_token_is_refused_once_the_keyring_says_so(home: KeyHome) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        minted = home.operator("mainpc").mint("someone", ["control"], "local@mainpc", now=time.time(), ttl_s=60)
        assert told(await plain.plain("stop_it", _token=minted.token))[0] == "someone"
        home.revoked_tokens = {minted.claims.jti: minted.claims.exp}
        home.write()
        before = lab.shell.authority._keyring
        await until(lambda: lab.shell.authority._keyring is not before)
        refused = await plain.plain("stop_it", _token=minted.token)
        assert (refused["code"], refused["details"]["reason"]) == ("unauthenticated", "revoked")


async def test_a_native_call_shows_its_token_in_its_header(home: KeyHome) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        assert is_error(await plain.ask(*native("stop_it")), "forbidden")
        _, body = heard(await plain.ask(*native("stop_it", token=home.token("mainpc"))))
        assert json.loads(body["text"])[0] == "operator@mainpc"


async def test_a_neighbours_token_counts_on_the_shared_loopback_and_a_far_hosts_does_not(home: KeyHome) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        assert (await plain.plain("stop_it", _token=home.token("pc2")))["code"] == "unauthenticated"
        home.addresses = {"mainpc": "127.0.0.1", "pc2": "127.0.0.1"}
        home.write()
        await until(lambda: "local@pc2" in lab.shell.authority._plain.bindings)
        assert told(await plain.plain("stop_it", _token=home.token("pc2")))[0] == "operator@pc2"
        assert (await plain.plain("stop_it", _token=home.token("pc2", binding="local@x")))["code"] == "unauthenticated"


async def test_a_key_revoked_midway_is_refused_message_by_message_and_hears_no_more_events(home: KeyHome) -> None:
    async with keyed(home) as lab:
        with (
            caller(home, lab, "pc2", "whisper") as revoked,
            caller(home, lab, "pc2", "resource_manager") as kept,
            stranger(lab, pair(home, "pc2", "whisper"), lab.shell.events_port, zmq.SUB) as ears,
            stranger(lab, pair(home, "pc2", "resource_manager"), lab.shell.events_port, zmq.SUB) as other,
        ):
            for each in (ears, other):
                each.socket.setsockopt(zmq.SUBSCRIBE, b"beat")
                async with asyncio.timeout(PATIENCE_S):
                    await each.socket.recv_multipart()
            assert told(await revoked.ask(WHO))
            home.remove("pc2", "whisper")
            home.write()
            before = lab.shell.authority._keyring
            await until(lambda: lab.shell.authority._keyring is not before)
            for verb in (WHO, Verb("nobody_knows", Empty, Said, Access.READ)):
                answer = await revoked.ask(verb)
                assert (answer["code"], "revoked" in answer["message"]) == ("unauthenticated", True)
            assert (await revoked.ask(Verb("ping", Empty, Said, Access.READ)))["code"] == "unauthenticated"
            assert told(await kept.ask(WHO))
            await until(lambda: lab.shell._events is not None and lab.shell._events.is_open_at(CURVE))
            while await ears.socket.poll(0):
                await ears.socket.recv_multipart()
            while await other.socket.poll(0):
                await other.socket.recv_multipart()
            async with asyncio.timeout(PATIENCE_S):
                await other.socket.recv_multipart()
            assert not await ears.socket.poll(0)


async def test_what_a_revoked_key_waits_for_ends_and_what_others_wait_for_goes_on(home: KeyHome) -> None:
    async with keyed(home) as lab:
        with (
            caller(home, lab, "pc2", "whisper") as revoked,
            caller(home, lab, "pc2", "resource_manager") as kept,
        ):
            waiting = [asyncio.create_task(each.ask(WAIT)) for each in (revoked, kept)]
            await until(lambda: lab.shell.onion.in_flight == 2)
            home.remove("pc2", "whisper")
            home.write()
            answer = await waiting[0]
            assert (answer["code"], "revoked" in answer["message"]) == ("unauthenticated", True)
            assert (lab.ended, lab.shell.onion.in_flight) == (["cancelled"], 1)
            lab.go.set()
            assert (await waiting[1])["status"] == "success"


@pytest.mark.parametrize("by", ["its id", "its identity", "its issuer"])
async def test_what_a_revoked_token_waits_for_ends_and_what_others_wait_for_goes_on(home: KeyHome, by: str) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as revoked, peer(lab.shell.port) as kept:
        minted = home.operator("mainpc").mint("someone", ["use"], "local@mainpc", now=time.time(), ttl_s=60)
        waiting = [
            asyncio.create_task(revoked.plain("wait", _token=minted.token)),
            asyncio.create_task(kept.plain("wait")),
        ]
        await until(lambda: lab.shell.onion.in_flight == 2)
        if by == "its id":
            home.revoked_tokens = {minted.claims.jti: minted.claims.exp}
        elif by == "its identity":
            home.revoked_identities = {"someone": time.time() + 1}
        else:
            home.operators["mainpc"] = keyfiles.new_signing_keys("operator@mainpc")
        home.write()
        answer = await waiting[0]
        told_reason = "unknown issuer" if by == "its issuer" else "revoked"
        assert (answer["code"], answer["details"]["reason"]) == ("unauthenticated", told_reason)
        assert (lab.ended, lab.shell.onion.in_flight) == (["cancelled"], 1)
        lab.go.set()
        assert (await waiting[1])["status"] == "success"


async def test_a_stream_of_a_token_ends_when_it_is_revoked_and_another_change_of_the_keyring_ends_none(
    home: KeyHome,
) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        minted = home.operator("mainpc").mint("someone", ["use"], "local@mainpc", now=time.time(), ttl_s=60)
        await plain.send(*native("count", {"text": "and wait", "number": 1}, token=minted.token))
        assert heard(await plain.receive())[0].kind is ReplyKind.PART
        home.add("pc2", "another", "agent")
        home.write()
        before = lab.shell.authority._keyring
        await until(lambda: lab.shell.authority._keyring is not before)
        assert (lab.ended, lab.shell.onion.in_flight) == ([], 1)
        home.revoked_tokens = {minted.claims.jti: minted.claims.exp}
        home.write()
        assert is_error(await plain.receive(), "unauthenticated")
        assert lab.ended == ["cancelled"]


async def test_one_that_was_invited_may_ask_to_be_admitted_and_nothing_else(home: KeyHome) -> None:
    guest = Keys(*zmq.curve_keypair())
    home.invited = {guest.public.decode(): time.time() + 600}
    home.write()
    async with keyed(home, admits=True) as lab:
        with stranger(lab, guest) as invited, stranger(lab, guest, lab.shell.events_port, zmq.SUB) as ears:
            ears.socket.setsockopt(zmq.SUBSCRIBE, b"")
            assert told(await invited.ask(ADMITS))
            for verb in (WHO, Verb("nobody_knows", Empty, Said, Access.READ)):
                answer = await invited.ask(verb)
                assert answer["code"] == "forbidden"
                assert "tandem join" in answer["details"]["mend"]
            await until(lambda: lab.shell.counters()["keys_refused"] > 0)
            assert not await ears.socket.poll(0)
            home.invited = {}
            home.write()
            before = lab.shell.authority._keyring
            await until(lambda: lab.shell.authority._keyring is not before)
            assert (await invited.ask(ADMITS))["code"] == "unauthenticated"
    home.invited = {guest.public.decode(): time.time() + 600}
    home.write()
    async with keyed(home) as lab:
        with stranger(lab, guest) as invited:
            await invited.socket.send(b"ping")
            assert await invited.gets_nothing()


async def test_a_damaged_keyring_keeps_the_last_good_one_and_degrades_the_health(home: KeyHome) -> None:
    async with keyed(home) as lab, peer(lab.shell.port) as plain:
        (home.folder() / "keyring.json").write_text("{")
        await until(lambda: bool(lab.shell.problems))
        health = await plain.plain("ping")
        assert (health["status"], health["ready"]) == ("degraded", True)
        assert "damaged" in health["reasons"][0]
        with caller(home, lab, "pc2", "whisper") as known:
            assert told(await known.ask(WHO))
        home.write()
        await until(lambda: not lab.shell.problems)


async def test_a_late_address_is_retried_and_shown_and_loopback_serves_meanwhile(
    home: KeyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = False
    bind = sockets.bind

    def absent(socket: zmq.Socket[bytes], address: sockets.Address) -> int:
        if address.host == CURVE and not there:
            raise Unavailable(f"cannot listen on {CURVE}: no such address")
        return bind(socket, address)

    monkeypatch.setattr(router_port.sockets, "bind", absent)
    monkeypatch.setattr(module, "RETRY_ADDRESS_S", 0.01)
    made = ShellSettings("Lab", "mainpc", 0, 0, 0, ("127.0.0.1", CURVE), keys=home.file("mainpc", "lab"), lone=False)
    shell = Shell(made, (NOTED, OTHER))
    lab = Service(shell)
    shell.handle(WHO, who)
    await shell.open()
    async with peer(shell.port) as plain:
        await until(lambda: bool(shell.lacks))
        health = await plain.plain("ping")
        assert (health["ready"], health["lacks"]) == (True, [f"cannot listen on {CURVE}: no such address"])
        there = True
        await until(lambda: not shell.lacks and len(shell._ports) == 2)
        with caller(home, lab, "pc2", "whisper") as known:
            assert told(await known.ask(WHO))
    await shell.close(drain_s=0)


async def test_a_taken_port_at_a_late_address_is_shown(home: KeyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_ADDRESS_S", 0.01)
    with zmq.Context() as context, context.socket(zmq.REP) as holder:
        number = holder.bind_to_random_port(f"tcp://{CURVE}")
        made = ShellSettings("Lab", "mainpc", number, None, None, ("127.0.0.1", CURVE), home.file("mainpc", "lab"))
        shell = Shell(made)
        await shell.open()
        await until(lambda: bool(shell.lacks))
        assert "is taken" in shell.report().lacks[0]
        holder.unbind(f"tcp://{CURVE}:{number}")
        await until(lambda: not shell.lacks)
        await shell.close(drain_s=0)


async def test_without_keys_other_addresses_are_not_served_and_that_is_shown() -> None:
    shell = Shell(ShellSettings("Lab", "mainpc", 0, addresses=("127.0.0.1", CURVE)))
    await shell.open()
    assert "no keys" in shell.report().lacks[0]
    assert len(shell._ports) == 1
    await shell.close(drain_s=0)


@pytest.mark.parametrize("lone", [True, False], ids=["by hand", "without its keys"])
async def test_a_process_without_a_keyring_gives_control_only_if_it_was_started_by_hand(lone: bool) -> None:
    shell = Shell(ShellSettings("Lab", "mainpc", 0, lone=lone))
    shell.handle(STOP, who)
    await shell.open()
    async with peer(shell.port) as plain:
        answer = await plain.plain("stop_it", _token="whatever")
    if lone:
        assert told(answer) == ["local@mainpc", "mainpc", "local@mainpc", ["control"]]
    else:
        assert answer["code"] == "forbidden"
        assert "supervisor" in answer["details"]["mend"]
    await shell.close(drain_s=0)


async def test_keys_that_others_may_read_are_refused_at_the_start(home: KeyHome) -> None:
    file = home.file("mainpc", "lab")
    file.chmod(0o644)
    with pytest.raises(KeyfileRefused, match="may be read by others"):
        Shell(ShellSettings("Lab", "mainpc", 0, keys=file))
    keyfiles.make_folder(file.parent)
