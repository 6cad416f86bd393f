"""What this process shows to others and whom it trusts: its own key pair, the host's keyring, and tokens for control verbs.

An encrypted endpoint is made anew from the keyring at each connect. A service or supervisor shows who it is by its key; on plain
loopback, where there is none, it shows a token that its host's operator key signs, for control verbs and for the one service
that is called. So does the `tandem` command. Nothing here decides what a caller may do.
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
from common.errors import Unavailable
from common.security import keyfiles
from common.security.keyfiles import KEYRING_FILE, OPERATOR_FILE, KeyfileMissing, KeyringFile, ProcessKeys, SigningKeys
from common.security.keyring import local_binding
from common.security.tokens import OPERATOR_TTL_S, Minter
from common.telemetry.system_clock import SystemClock
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

    def serves(self, service: str, verb: AnyVerb) -> bool:
        """Whether a call of this verb needs a token: what the catalog marks control, and what an agent may have marked so."""
        wanted = verb.access is _CONTROL or (self.is_person and service not in _SERVICES)
        return wanted and _SCOPABLE.fullmatch(service) is not None

    def token(self, service: str) -> str | None:
        """A token to show at a service, with all that the operator may do there; None where nobody may make one here."""
        token, made_at = self._made.get(service, ("", 0.0))
        now = self._now()
        if token and 0.0 <= now - made_at < FRESH_S:
            return token
        return self._mint(service, now)

    def _mint(self, service: str, now: float) -> str | None:
        if self._minter is None:
            try:
                keys = keyfiles.read(self._file, SigningKeys)
            except KeyfileMissing:
                return None
            self._minter = Minter(keys.name, keys.seed)
        scope, binding = f"{Access.CONTROL}:{service}", local_binding(self._host)
        token = self._minter.mint(self._subject, [scope], binding, now=now, ttl_s=OPERATOR_TTL_S).token
        if len(self._made) >= TOKENS_KEPT:
            self._made.clear()
        self._made[service] = token, now
        return token


class Credentials:
    """One process's; without `key_file` it speaks to plain endpoints alone, without `operator` it shows `token` or none."""

    def __init__(
        self, key_file: Path | None = None, host: str = "", token: str = "", operator: Operator | None = None
    ) -> None:
        self._keys: Keys | None = None
        self._ring: KeyringFile | None = None
        if key_file is not None:
            own = keyfiles.read(key_file, ProcessKeys)
            self._keys = Keys(own.public.encode(), own.secret.encode())
            self._ring = KeyringFile(key_file.with_name(KEYRING_FILE), host)
        self._given = token
        self._operator = operator

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
            return cls(told.key_file, told.host, given)
        host = own[-1].parent.parent.name
        operator = Operator(own[-1], host, f"operator@{host}", SystemClock(), is_person=True)
        return cls(told.key_file, told.host, operator=operator)

    @property
    def has_keys(self) -> bool:
        """Whether this process can speak CURVE."""
        return self._keys is not None

    @property
    def shows_tokens(self) -> bool:
        """Whether any call may show a token."""
        return bool(self._given) or self._operator is not None

    def token(self, target: str, endpoint: Endpoint, verb: AnyVerb) -> str | None:
        """What to show with a call of `target` at `endpoint`; where this process came with a key, that is who it is."""
        operator = self._operator
        if operator is None or self._given:
            return self._given or None
        if endpoint.server_key or not (verb.access is _CONTROL or operator.is_person):
            return None
        service = target.partition("/")[0]
        may = operator.serves(service, verb) and (operator.is_person or self._controls())
        return operator.token(service) if may else None

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


NOBODY: Final = Credentials()
"""Those of a process that has no keys and shows no token."""


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
