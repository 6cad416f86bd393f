"""What this process shows to others and whom it trusts: its own key pair, the host's keyring, and tokens for control verbs.

An encrypted endpoint is made anew from the keyring at each connect. A service or supervisor shows who it is by its key; on plain
loopback, where there is none, it shows a token that its host's operator key signs, for control verbs and for the one callee that
it names. So does the `tandem` command. A token that was given (TANDEM_TOKEN) is shown to whom it is meant for, and one that names
nobody to services and supervisors, never to an agent. Where nothing but a port says who answers, a token is shown only if the
program there is run by whoever runs the fabric. Nothing here decides what a caller may do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.api import core_orchestrator as core
from common.api.catalog import SERVICES
from common.api.words import Access, AnyVerb
from common.client.directory import Place
from common.client.pursuit import Found
from common.clock import Clock
from common.config.settings import LOOPBACK, TOKEN, AgentEnvironment
from common.errors import Forbidden, Unavailable
from common.security import keyfiles
from common.security.keyfiles import KEYRING_FILE, OPERATOR_FILE, KeyfileMissing, KeyringFile, ProcessKeys, SigningKeys
from common.security.keyring import local_binding
from common.security.tokens import OPERATOR_TTL_S, Minter, audience_of
from common.telemetry.system_clock import SystemClock
from common.transport.listeners import users_at
from common.transport.sockets import Endpoint, Keys

FRESH_S: Final = OPERATOR_TTL_S / 2
"""A token is shown for so long before another one is made."""

TOKENS_KEPT: Final = 256
_CONTROL: Final = Access.CONTROL
_CONTROLLING: Final = frozenset({"service", "supervisor"})
_SERVICES: Final = frozenset(spec.name for spec in SERVICES)
_SCOPABLE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Operator:
    """The authority of a host's operator, as far as `operator.json` may be read: short tokens, each for one service.

    A person (`is_person`) may also control what an agent of one's own makes; a process controls what the catalog says.
    """

    def __init__(self, file: Path, host: str, subject: str, clock: Clock, *, is_person: bool = False) -> None:
        self._file = file
        self._host = host
        self._subject = subject
        self._now = clock.wall
        self.is_person = is_person
        self._minter: Minter | None = None
        self._made: dict[str, tuple[str, float]] = {}

    def serves(self, target: str, verb: AnyVerb) -> bool:
        """Whether a call of this verb needs a token: what the catalog marks control, and what an agent may have marked so."""
        service = _service_of(target)
        wanted = verb.access is _CONTROL or (self.is_person and service not in _SERVICES)
        return wanted and _SCOPABLE.fullmatch(service) is not None

    def token(self, target: str) -> str | None:
        """A token for a callee alone, with all that the operator may do there; None where nobody may make one here."""
        token, made_at = self._made.get(target, ("", 0.0))
        now = self._now()
        if token and 0.0 <= now - made_at < FRESH_S:
            return token
        return self._mint(target, now)

    def _mint(self, target: str, now: float) -> str | None:
        if self._minter is None:
            try:
                keys = keyfiles.read(self._file, SigningKeys)
            except KeyfileMissing:
                return None
            self._minter = Minter(keys.name, keys.seed)
        scopes, binding = [f"{Access.CONTROL}:{_service_of(target)}"], local_binding(self._host)
        minted = self._minter.mint(self._subject, scopes, binding, now=now, ttl_s=OPERATOR_TTL_S, audience=target)
        token = minted.token
        if len(self._made) >= TOKENS_KEPT:
            self._made.clear()
        self._made[target] = token, now
        return token


class Credentials:
    """One process's; without `key_file` it speaks to plain endpoints alone, without `operator` it shows `token` or none.

    `house` is a file of whoever runs the fabric: in plain, tokens are shown to programs of its owner, of root and of the own user
    alone. Without it, and without `key_file`, nobody knows who that is, and a given token is shown on any port of loopback.
    """

    def __init__(
        self,
        key_file: Path | None = None,
        host: str = "",
        token: str = "",
        operator: Operator | None = None,
        house: Path | None = None,
    ) -> None:
        self._keys: Keys | None = None
        self._ring: KeyringFile | None = None
        if key_file is not None:
            own = keyfiles.read(key_file, ProcessKeys)
            self._keys = Keys(own.public.encode(), own.secret.encode())
            self._ring = KeyringFile(key_file.with_name(KEYRING_FILE), host)
        self._given = token
        self._meant_for = audience_of(token)
        self._operator = operator
        self._users = _users_of(house or key_file)

    @classmethod
    def of_process(cls, key_file: Path | None, host: str, token: str = "", clock: Clock | None = None) -> Credentials:
        """A process's by its key file; KeyfileRefused when that cannot be read. Services and supervisors may control."""
        operator = None
        if key_file is not None and not token:
            subject = f"{key_file.stem}@{host}"
            operator = Operator(key_file.with_name(OPERATOR_FILE), host, subject, clock or SystemClock())
        return cls(key_file, host, token, operator)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> Credentials:
        """This process's, as its supervisor told it."""
        told = AgentEnvironment.read(environ)
        return cls.of_process(told.key_file, told.host, environ.get(TOKEN, ""))

    @classmethod
    def of_operator(cls, environ: Mapping[str, str] = os.environ) -> Credentials:
        """Of whoever runs the `tandem` command here: TANDEM_TOKEN, else the operator's key of the host that TANDEM_HOME is of."""
        told = AgentEnvironment.read(environ)
        given, home = environ.get(TOKEN, ""), told.home
        files = [file for file in home.glob(f"*/{keyfiles.KEYS_FOLDER}/{OPERATOR_FILE}") if _is_readable(file)]
        own = [file for file in files if file.parent.parent.name == told.host] or sorted(files, key=_last_changed)
        if given or not own:
            return cls(told.key_file, told.host, given, house=own[-1] if own else None)
        host = own[-1].parent.parent.name
        operator = Operator(own[-1], host, f"operator@{host}", SystemClock(), is_person=True)
        return cls(told.key_file, told.host, operator=operator, house=own[-1])

    @property
    def has_keys(self) -> bool:
        """Whether this process can speak CURVE."""
        return self._keys is not None

    @property
    def shows_tokens(self) -> bool:
        """Whether any call may show a token."""
        return bool(self._given) or self._operator is not None

    def token(self, target: str, endpoint: Endpoint, verb: AnyVerb) -> str | None:
        """What to show with a call of `target` at `endpoint`; where this process came with a key, that is who it is.

        For a control verb Unavailable where nobody listens in plain, and Forbidden where a user does who does not run the fabric.
        """
        if self._given:
            return self._given if self._may_give_to(target) and self._is_ours(target, endpoint, verb) else None
        operator = self._operator
        if operator is None or endpoint.server_key or not (verb.access is _CONTROL or operator.is_person):
            return None
        may = operator.serves(target, verb) and (operator.is_person or self._controls())
        return operator.token(target) if may and self._is_ours(target, endpoint, verb) else None

    def _may_give_to(self, target: str) -> bool:
        service = _service_of(target)
        if self._meant_for:
            return target in self._meant_for or service in self._meant_for
        return service in _SERVICES

    def _is_ours(self, target: str, endpoint: Endpoint, verb: AnyVerb) -> bool:
        """Whether whoever answers there may be shown a token: by the key that it must have, or run by who runs the fabric."""
        if endpoint.server_key:
            return True
        if not _is_loopback(endpoint.address):
            return False
        if not self._users:
            return True
        users = users_at(endpoint.address)
        strangers = users - self._users
        if verb.access is _CONTROL and not users:
            raise Unavailable(f"nobody listens at {endpoint.address}")
        if verb.access is _CONTROL and strangers:
            raise Forbidden(
                f"{endpoint.address} is served by user {min(strangers)}, who does not run this fabric: no token was shown",
                mend=f"see who took the port of {target}: `ss -ltnp`",
            )
        return bool(users) and not strangers

    def dressed(self, place: Place) -> Place:
        """The place with the keys to connect by; Unavailable with the mend where they are not known here.

        For a process without keys it is on this host's loopback, where the relay offers the other hosts' services in plain.
        """
        if not place.process:
            return place
        if self._ring is None:
            return Place(_on_loopback(place.requests), _on_loopback(place.events) if place.events is not None else None)
        server = self._server_key(self._ring, place)

        def curve(endpoint: Endpoint) -> Endpoint:
            return Endpoint(endpoint.address, server, self._keys)

        events = curve(place.events) if place.events is not None else None
        return Place(curve(place.requests), events, place.host, place.process)

    @staticmethod
    def _server_key(ring: KeyringFile, place: Place) -> bytes:
        ring.refresh()
        key = ring.current.server_key(place.host, place.process)
        if key is not None:
            return key
        if place.host not in ring.current.hosts:
            mend = f"run `tandem invite {place.host}` on this host and `tandem join` there"
            raise Unavailable(f"{place.host} has not joined: {mend}", mend=mend)
        raise Unavailable(f"{place.host} has told of no key of {place.process} yet", mend=f"start it on {place.host}")

    def found(self, at: core.Endpoint) -> Found:
        """An answer of the registry as a place to call; Unavailable when it names a key that is not the agent's host's here."""
        return Found(self._endpoint(at, at.port), at.dress)

    def place(self, at: core.Endpoint) -> Place:
        """The same with its events."""
        return Place(self._endpoint(at, at.port), self._endpoint(at, at.events_port) if at.events_port else None)

    def _endpoint(self, at: core.Endpoint, port: int) -> Endpoint:
        address = Endpoint.tcp(at.host, port).address
        if not at.server_key:
            return Endpoint(address)
        if self._ring is None:
            raise Unavailable(f"{at.agent_name} is encrypted, and this process has no keys (TANDEM_KEYS)")
        self._ring.refresh()
        if self._ring.current.server_key(at.location, at.agent_name) != at.server_key.encode():
            raise Unavailable(
                f"the key that the registry names for {at.agent_name} is not one that {at.location} has told of",
                mend=f"`tandem status` shows whether {at.location} has joined; start {at.agent_name} by its supervisor",
            )
        return Endpoint(address, at.server_key.encode(), self._keys)

    def _controls(self) -> bool:
        """Whether the keyring knows this process's key as a service's or supervisor's."""
        if self._ring is None or self._keys is None:
            return False
        caller = self._ring.current.who(self._keys.public.decode(), 0.0)
        return caller is not None and caller.kind in _CONTROLLING


def _service_of(target: str) -> str:
    return target.partition("/")[0]


def _users_of(house: Path | None) -> frozenset[int]:
    """Whose programs are the fabric's, by a file of whoever runs it; empty: nobody knows."""
    return frozenset({0, os.geteuid(), house.stat().st_uid}) if house is not None else frozenset()


def _is_loopback(address: str) -> bool:
    return address.startswith(("tcp://127.", "tcp://localhost:"))


def _on_loopback(endpoint: Endpoint) -> Endpoint:
    return Endpoint.tcp(LOOPBACK, int(endpoint.address.rpartition(":")[2]))


def _is_readable(file: Path) -> bool:
    return os.access(file, os.R_OK)


def _last_changed(file: Path) -> float:
    """When the host's keyring was last written: of several hosts, the one that ran last is meant."""
    try:
        return file.with_name(KEYRING_FILE).stat().st_mtime
    except OSError:
        return 0.0


NOBODY: Final = Credentials()
"""Those of a process that has no keys and shows no token."""
