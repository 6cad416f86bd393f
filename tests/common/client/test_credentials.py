"""Both faces over encrypted links: whose key they ask for, which they come with, and which tokens they show."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from common.api.words import Access, Empty, Verb
from common.client import credentials
from common.client.aio import AsyncClient
from common.client.credentials import FRESH_S, Credentials, Operator
from common.client.directory import Directory, Place
from common.client.settings import ClientSettings
from common.client.sync import Client
from common.errors import Conflict, Forbidden, Interrupted, Unauthenticated, Unavailable
from common.resilience.budget import RetrySettings
from common.security import keyfiles
from common.security.keyring import Keyring
from common.security.tokens import BadToken, TokenChecker
from common.service.shell import Shell, ShellSettings
from common.telemetry.system_clock import SystemClock
from common.transport import sockets
from common.transport.sockets import Endpoint
from tests.common.client.lab import FACES, Face, registry
from tests.common.service.lab import NOTED, OTHER, Said, Service, until
from tests.common.service.test_shell_keys import CURVE, STOP, WHO, who
from tests.lab.keys import KeyHome
from tests.lab.nowhere import alone

WAIT = Verb("wait", Empty, Said, Access.USE)


@pytest.fixture
def home(tmp_path: Path) -> KeyHome:
    """What mainpc trusts: its own service and agent, and pc2's service."""
    made = KeyHome(tmp_path)
    made.add("mainpc", "core", "service")
    made.add("mainpc", "whisper", "agent")
    made.add("pc2", "lab", "service")
    made.operator("mainpc")
    made.write()
    return made


@asynccontextmanager
async def far_service(home: KeyHome, port: int = 0, events_port: int = 0) -> AsyncIterator[Service]:
    """pc2's service, which trusts the same keyring."""
    settings = ShellSettings(
        "Lab", "pc2", port, events_port, None, ("127.0.0.1", CURVE), keys=pc2_file(home, "lab"), lone=False
    )
    shell = Shell(settings, (NOTED, OTHER))
    made = Service(shell)
    for verb in (STOP, WHO):
        shell.handle(verb, who)
    await shell.open()
    try:
        yield made
    finally:
        await shell.close(drain_s=0)


def pc2_file(home: KeyHome, name: str) -> Path:
    """The process's key file, with the keyring beside it."""
    ring = home.folder("pc2") / "keyring.json"
    if not ring.exists():
        ring.symlink_to(home.folder("mainpc") / "keyring.json")
    return home.file("pc2", name)


def place_of(lab: Service, address: str = CURVE) -> Place:
    shell = lab.shell
    if address != CURVE:
        return Place(Endpoint.tcp(address, shell.port), Endpoint.tcp(address, shell.events_port))
    return Place(Endpoint.tcp(CURVE, shell.port), Endpoint.tcp(CURVE, shell.events_port), "pc2", "lab")


def of(home: KeyHome, name: str) -> Credentials:
    return Credentials.of_process(home.file("mainpc", name), "mainpc")


def face(
    kind: type[Any], directory: Directory, credentials: Credentials, settings: ClientSettings | None = None
) -> Face:
    once = settings or ClientSettings(timeout_s=60.0, retry=RetrySettings(attempts=1))
    made: Face = kind.__new__(kind)
    make: Any = AsyncClient if kind.__name__ == "AsyncFace" else Client
    made.client = make(directory, SystemClock(), random.Random(1), once, credentials=credentials)
    return made


@pytest.fixture(params=FACES.values(), ids=FACES)
def kind(request: pytest.FixtureRequest) -> type[Any]:
    made: type[Any] = request.param
    return made


async def test_a_process_comes_with_its_key_and_is_served_by_its_kind(home: KeyHome, kind: type[Any]) -> None:
    async with far_service(home) as lab:
        directory = alone({"Lab": place_of(lab)})
        service, agent = face(kind, directory, of(home, "core")), face(kind, directory, of(home, "whisper"))
        assert '"core@mainpc", "mainpc"' in (await service.call("Lab", WHO, Empty())).text
        assert '"core@mainpc"' in (await service.call("Lab", STOP, Empty())).text
        assert '"whisper@mainpc"' in (await agent.call("Lab", WHO, Empty())).text
        with pytest.raises(Forbidden, match="needs access control"):
            await agent.call("Lab", STOP, Empty())
        await service.close()
        await agent.close()


async def test_a_host_that_has_not_joined_is_told_with_the_mend(home: KeyHome, kind: type[Any]) -> None:
    directory = Directory.parse("Far=7001@127.0.0.1#pc3/x,Gone=7001@127.0.0.1#pc2/x")
    known = face(kind, directory, of(home, "core"))
    with pytest.raises(
        Unavailable, match="pc3 has not joined: run `tandem invite pc3` on this host and `tandem join` there"
    ):
        await known.call("Far", WHO, Empty())
    with pytest.raises(Unavailable, match="pc2 has told of no key of x yet"):
        await known.call("Gone", WHO, Empty())
    await known.close()


def test_without_keys_the_other_hosts_services_are_on_this_ones_loopback() -> None:
    place = Directory.parse("Far=7001:7501@10.0.0.2#pc2/x").place("Far")
    assert place is not None
    assert Credentials().dressed(place) == Place(Endpoint("tcp://127.0.0.1:7001"), Endpoint("tcp://127.0.0.1:7501"))
    assert Credentials().dressed(Place(place.requests, None, "pc2", "x")).events is None


async def test_a_wrong_server_key_and_an_unknown_client_are_told_apart(home: KeyHome, kind: type[Any]) -> None:
    async with far_service(home) as lab:
        home.remove("mainpc", "whisper")
        home.write()
        await until(lambda: "whisper" not in str(lab.shell.authority._keyring))
        directory = alone({"Lab": place_of(lab)})
        unknown = face(kind, directory, of(home, "whisper"))
        with pytest.raises(Unavailable, match="does not let this process's key in"):
            await unknown.call("Lab", WHO, Empty())
        await unknown.close()
        home.pairs["pc2", "lab"] = home.pairs["mainpc", "whisper"]
        home.entries["pc2"]["lab"] = type(home.entries["pc2"]["lab"])("lab", "service", home.pairs["pc2", "lab"].public)
        home.write()
        misled = face(kind, directory, of(home, "core"))
        with pytest.raises(Unavailable, match="another key is served there"):
            await misled.call("Lab", WHO, Empty())
        await misled.close()


async def test_one_that_was_not_known_yet_is_served_as_soon_as_it_is(home: KeyHome, kind: type[Any]) -> None:
    async with far_service(home) as lab:
        credentials = of(home, "whisper")
        entry = home.entries["mainpc"]["whisper"]
        home.remove("mainpc", "whisper")
        home.write()
        await until(lambda: "whisper" not in str(lab.shell.authority._keyring))
        patient = ClientSettings(timeout_s=60.0, retry=RetrySettings(attempts=1))
        late = face(kind, alone({"Lab": place_of(lab)}), credentials, patient)
        with pytest.raises(Unavailable):
            await late.call("Lab", WHO, Empty())
        home.entries["mainpc"]["whisper"] = entry
        home.write()
        await until(lambda: "whisper" in str(lab.shell.authority._keyring))
        async with asyncio.timeout(60):
            while True:
                try:
                    said = await late.call("Lab", WHO, Empty())
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert "whisper@mainpc" in said.text
        await late.close()


async def test_a_service_controls_over_plain_loopback_with_a_token_of_its_own_and_an_agent_does_not(
    home: KeyHome, kind: type[Any]
) -> None:
    settings = ShellSettings("Lab", "mainpc", 0, keys=home.file("mainpc", "core"), lone=False)
    shell = Shell(settings)
    for verb in (STOP, WHO):
        shell.handle(verb, who)
    await shell.open()
    directory = alone({"Lab": Place(Endpoint.tcp("127.0.0.1", shell.port))})
    service, agent = face(kind, directory, of(home, "core")), face(kind, directory, of(home, "whisper"))
    for _ in range(2):
        assert '"core@mainpc", "mainpc", "local@mainpc"' in (await service.call("Lab", STOP, Empty())).text
    assert '"local@mainpc"' in (await service.call("Lab", WHO, Empty())).text
    with pytest.raises(Forbidden):
        await agent.call("Lab", STOP, Empty())
    given = face(kind, directory, Credentials(token=home.token("mainpc", audience="Lab")))
    assert '"operator@mainpc"' in (await given.call("Lab", WHO, Empty())).text
    expired = ClientSettings(timeout_s=60.0, token=home.token("mainpc", ago_s=600))
    late = face(kind, directory, of(home, "core"), expired)
    with pytest.raises(Unauthenticated, match="expired"):
        await late.call("Lab", WHO, Empty())
    for each in (service, agent, given, late):
        await each.close()
    await shell.close(drain_s=0)


async def test_an_agents_key_is_believed_only_if_its_host_has_told_of_it(home: KeyHome, kind: type[Any]) -> None:
    home.add("pc2", "other", "agent")
    home.write()
    async with far_service(home) as lab, registry() as listed:
        names = {"CoreOrchestrator": Place(Endpoint.tcp("127.0.0.1", listed.shell.port))}
        agents = {"lab": home.pairs["pc2", "lab"].public, "other": home.pairs["mainpc", "core"].public}
        for name, public in agents.items():
            listed.put(name, lab.shell.port, events_port=lab.shell.events_port, server_key=public)
            told = listed.agents[name]
            listed.agents[name] = type(told)(
                **{field: getattr(told, field) for field in told.__struct_fields__} | {"host": CURVE, "location": "pc2"}
            )
        client = face(kind, alone(names), of(home, "core"))
        assert "core@mainpc" in (await client.call("lab", WHO, Empty())).text
        assert listed.curve == [True]
        with pytest.raises(Unavailable, match="not one that pc2 has told of"):
            await client.call("other", WHO, Empty())
        bare = face(kind, alone(names), Credentials())
        with pytest.raises(Unavailable, match="no keys"):
            await bare.call("lab", WHO, Empty())
        assert listed.curve[-1] is False
        await client.close()
        await bare.close()


async def test_events_are_followed_over_an_encrypted_link(home: KeyHome) -> None:
    async with far_service(home) as lab:
        client = face(FACES["async"], alone({"Lab": place_of(lab)}), of(home, "whisper")).client
        assert isinstance(client, AsyncClient)
        live = asyncio.Event()

        async def first() -> Any:
            async for event in client.events("Lab", [NOTED.name], live=live.set):
                return event
            return None

        following = asyncio.create_task(first())
        async with asyncio.timeout(60):
            await live.wait()
            await client.call("Lab", "write", {"key": "a", "value": "b"})
            assert (await following).entity == "a"
        await client.close()


async def test_a_publisher_that_comes_back_with_another_key_is_followed_on(home: KeyHome) -> None:
    async with far_service(home) as lab:
        port, events_port = lab.shell.port, lab.shell.events_port
        place = place_of(lab)
        client = face(FACES["async"], alone({"Lab": place}), of(home, "core")).client
        assert isinstance(client, AsyncClient)
        lives: list[int] = []

        async def follow() -> None:
            async for _ in client.events("Lab", [NOTED.name], live=lambda: lives.append(1)):
                pass

        following = asyncio.create_task(follow())
        await until(lambda: len(lives) == 1)
    del home.pairs["pc2", "lab"]
    home.add("pc2", "lab", "service")
    home.write()
    async with asyncio.timeout(60):
        while True:
            try:
                async with far_service(home, port, events_port):
                    await until(lambda: len(lives) >= 2)
                break
            except Conflict:  # libzmq frees a closed socket's port in its own time
                await asyncio.sleep(0.05)
    following.cancel()
    await client.close()


async def test_a_call_to_a_frozen_peer_on_an_encrypted_link_ends_as_interrupted(home: KeyHome) -> None:
    """A peer whose machine is gone answers no heartbeat: a proxy that stops passing bytes on stands for it."""
    async with far_service(home) as lab:
        passing = asyncio.Event()
        passing.set()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                await passing.wait()
                writer.write(data)
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(CURVE, lab.shell.port)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

        proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        place = Place(Endpoint.tcp("127.0.0.1", port), None, "pc2", "lab")
        client = face(FACES["async"], alone({"Lab": place}), of(home, "core"))
        assert "core@mainpc" in (await client.call("Lab", WHO, Empty())).text
        waiting = asyncio.create_task(client.call("Lab", WAIT, Empty(), timeout_s=60.0))
        async with asyncio.timeout(60):
            await lab.waiting.wait()
            passing.clear()
            with pytest.raises(Interrupted):
                await waiting
        passing.set()
        await client.close()
        proxy.close()


class Wall(SystemClock):
    """A clock whose wall time is set."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def wall(self) -> float:
        return self.at


def test_a_token_is_kept_for_half_its_life_and_each_service_has_its_own(home: KeyHome) -> None:
    clock = Wall()
    operator = Operator(home.folder() / "operator.json", "mainpc", "me", clock, is_person=True)
    first = operator.token("Supervisor")
    assert operator.token("Supervisor") == first
    assert operator.token("CoreOrchestrator") != first
    clock.at += FRESH_S
    assert operator.token("Supervisor") != first
    clock.at -= 10 * FRESH_S
    assert operator.token("Supervisor") != first


def test_who_cannot_read_the_operators_key_shows_no_token(home: KeyHome) -> None:
    nobody = Operator(home.folder() / "nothing.json", "mainpc", "me", SystemClock(), is_person=True)
    assert nobody.token("Supervisor") is None


@pytest.fixture
def listening() -> Iterator[int]:
    """A port that this user listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_person_shows_tokens_for_control_and_to_agents_whose_verbs_may_be_so(home: KeyHome, listening: int) -> None:
    person = Credentials.of_operator({"TANDEM_HOME": str(home.home)})
    plain = Endpoint.tcp("127.0.0.1", listening)
    use, control = Verb("v", Empty, Empty, Access.USE), Verb("v", Empty, Empty, Access.CONTROL)
    assert person.token("Supervisor/mainpc", plain, use) is None
    assert person.token("Supervisor/mainpc", plain, control)
    assert person.token("whisper", plain, use)
    assert person.token("no such name!", plain, control) is None
    encrypted = Endpoint("tcp://x:1", home.pairs["pc2", "lab"].public.encode())
    assert person.token("Supervisor/mainpc", encrypted, control) is None


def test_a_token_that_was_given_is_shown_to_services_and_never_to_an_agent_unless_it_is_meant_for_it(
    home: KeyHome, listening: int
) -> None:
    plain = Endpoint.tcp("127.0.0.1", listening)

    def shown(audience: str = "") -> set[str]:
        made = Credentials(token=home.token("mainpc", audience=audience))
        names = ("Supervisor/pc2", "Supervisor/mainpc", "CoreOrchestrator", "whisper", "", "tcp://127.0.0.1:7090")
        return {name for name in names if made.token(name, plain, WHO)}

    assert shown() == {"Supervisor/pc2", "Supervisor/mainpc", "CoreOrchestrator"}
    assert shown("whisper") == {"whisper"}
    assert shown("Supervisor") == {"Supervisor/pc2", "Supervisor/mainpc"}
    assert shown("Supervisor/pc2") == {"Supervisor/pc2"}
    assert Credentials(token="no token").token("whisper", plain, WHO) is None


def test_no_token_crosses_a_network_in_plain(home: KeyHome) -> None:
    given = Credentials(token=home.token("mainpc"))
    person = Credentials.of_operator({"TANDEM_HOME": str(home.home)})
    for each in (given, person):
        assert each.token("CoreOrchestrator", Endpoint.tcp("10.0.0.2", 7000), STOP) is None


@pytest.mark.parametrize("whose", ["person", "service", "given"])
def test_whoever_took_a_port_of_the_fabric_as_another_user_is_shown_no_token(
    home: KeyHome, monkeypatch: pytest.MonkeyPatch, listening: int, whose: str
) -> None:
    environ = {"TANDEM_HOME": str(home.home), "TANDEM_TOKEN": home.token("mainpc") if whose == "given" else ""}
    made = of(home, "core") if whose == "service" else Credentials.of_operator(environ)
    plain = Endpoint.tcp("127.0.0.1", listening)
    assert made.token("CoreOrchestrator", plain, STOP)
    monkeypatch.setattr(credentials, "users_at", lambda _: frozenset({os.geteuid(), 4_711}))
    with pytest.raises(Forbidden, match="is served by user 4711, who does not run this fabric: no token was shown"):
        made.token("CoreOrchestrator", plain, STOP)
    assert made.token("CoreOrchestrator", plain, WHO) is None
    monkeypatch.setattr(credentials, "users_at", lambda _: frozenset())
    with pytest.raises(Unavailable, match="nobody listens"):
        made.token("CoreOrchestrator", plain, STOP)


def test_a_token_of_the_operator_is_good_at_its_callee_alone(home: KeyHome) -> None:
    operator = Operator(home.folder() / "operator.json", "mainpc", "me", SystemClock(), is_person=True)
    checker = TokenChecker(lambda: keyfiles.read(home.folder() / "keyring.json", Keyring), SystemClock())
    token = operator.token("Supervisor/pc2")
    assert token is not None
    assert checker.check(token, "Supervisor", "local@mainpc", "pc2").access is Access.CONTROL
    for service, host in (("Supervisor", "mainpc"), ("CoreOrchestrator", "pc2")):
        with pytest.raises(BadToken, match="meant for another"):
            checker.check(token, service, "local@mainpc", host)


def test_the_operator_of_the_host_named_or_last_at_work_is_meant(home: KeyHome) -> None:
    home.operator("pc2")
    environ = {"TANDEM_HOME": str(home.home)}

    def issuer(**more: str) -> str:
        made = Credentials.of_operator(environ | more)
        assert made._operator is not None
        return made._operator._host

    assert issuer() == "mainpc"
    assert issuer(TANDEM_HOST="pc2") == "pc2"
    assert issuer(TANDEM_HOST="pc9") == "mainpc"
    given = Credentials.of_operator(environ | {"TANDEM_TOKEN": "t"})
    assert given.token("Supervisor/pc2", Endpoint("tcp://h:1", b"k"), WHO) == "t"
    nothing = Credentials.of_operator({"TANDEM_HOME": str(home.home / "nowhere")})
    assert not nothing.shows_tokens
    assert not nothing.has_keys


async def test_a_key_that_nobody_gave_opens_no_encrypted_port(home: KeyHome) -> None:
    """A pair of one's own and the right server key are not enough."""
    async with far_service(home) as lab:
        thief = sockets.Keys(*zmq.curve_keypair())
        server = home.pairs["pc2", "lab"].public.encode()
        context = sockets.new_context()
        dealer = sockets.dealer(context, Endpoint(f"tcp://{CURVE}:{lab.shell.port}", server, thief))
        sockets.connect(dealer, Endpoint(f"tcp://{CURVE}:{lab.shell.port}", server, thief))
        await until(lambda: lab.shell.counters()["keys_refused"] > 0)
        assert not sockets.send_now(sockets.raw_send(dealer), [b"x"])
        context.destroy(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a port as another user")
async def test_a_squatter_on_a_port_of_the_fabric_hears_no_token(
    home: KeyHome, kind: type[Any], tmp_path: Path
) -> None:
    """The whole way: another user's program answers where a service should, speaks ZMTP, and keeps whatever it gets."""
    program = (
        "import os, sys, zmq; os.setuid(65534); context = zmq.Context(); router = context.socket(zmq.ROUTER); "
        "print(router.bind_to_random_port('tcp://127.0.0.1'), flush=True); "
        "print(*router.recv_multipart(), flush=True)"
    )
    squatter = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert squatter.stdout is not None
    try:
        port = int(await squatter.stdout.readline())
        directory = alone({"CoreOrchestrator": Place(Endpoint.tcp("127.0.0.1", port))})
        person = face(kind, directory, Credentials.of_operator({"TANDEM_HOME": str(home.home)}))
        with pytest.raises(Forbidden, match="is served by user 65534"):
            await person.call("CoreOrchestrator", STOP, Empty())
        reading = asyncio.create_task(person.call("CoreOrchestrator", WHO, Empty()))
        heard = await squatter.stdout.readline()
        assert b"who" in heard
        assert b"eyJ" not in heard
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await person.close()
    finally:
        if squatter.returncode is None:
            squatter.kill()
        await squatter.wait()
