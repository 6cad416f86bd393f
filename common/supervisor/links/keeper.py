"""Keeps a host's keys on disk: its own, its processes', what it trusts, and the keyring that its processes read.

Every change is on disk (trust.json, then keyring.json, each replaced whole) before it counts here or is told to anyone; where the
disk takes nothing, nothing has changed. The supervisor that holds the host's home is the one writer. It makes its changes
`aside`, one after the other in a thread of their own, so that its loop waits for no disk; what is so may be read at any time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from common.api.links import BUNDLE_FORMAT, AdmitHost, Bundle, InviteHost, SignedList
from common.clock import Clock
from common.config.schema import Startup
from common.errors import Conflict, Forbidden, Unauthenticated
from common.security import ed25519, host_signing, keyfiles
from common.security.keyfiles import KeyfileMissing, KeyfileRefused, ProcessKeys, SigningKeys
from common.security.keyring import GATEWAY, HostKeys, Issuer, KeyEntry, Kind, SignedKeys
from common.supervisor.links import bundle, invites, trust
from common.supervisor.links.invites import Invite
from common.supervisor.links.own_list import next_list
from common.supervisor.links.state import REVOKED_FOR_S, LinkState, remembered, revoked
from common.supervisor.links.trust import Known, Trust, Verdict
from common.supervisor.whereabouts import GATEWAY_PROCESS, LOOPBACK, gateway_host, outward

T = TypeVar("T")

TRUST_FILE: Final = "trust.json"
SUPERVISOR: Final = "supervisor"
RELAY: Final = "relay"


class Keeper:
    """One host's keys, made where there are none; KeyfileRefused where a file is damaged, open to others or cannot be written.

    `home` is TANDEM_HOME. `on_change` hears, in the thread of the change, of each host whose list is another one now, and its
    serial.
    """

    def __init__(self, home: Path, startup: Startup, clock: Clock) -> None:
        self.host = startup.host
        self.on_change: Callable[[str, int], None] = lambda _host, _serial: None
        self._home = home
        self._startup = startup
        self._wall, self._now = clock.wall, clock.monotonic
        self._heard: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, "keys")
        self.folder = keyfiles.keys_folder(home, startup.host)
        keyfiles.make_folder(self.folder)
        keyfiles.forget_unfinished(self.folder)
        self._host_key = self._signing_keys(keyfiles.HOST_FILE, startup.host)
        self._operator = self._signing_keys(keyfiles.OPERATOR_FILE, f"operator@{startup.host}")
        self._ports = (startup.supervisor.port, startup.supervisor.events_port)
        self._processes = {name: self._process_keys(name) for name in self._kinds()}
        self._state = self._load()
        self._commit(self._state)

    async def aside(self, change: Callable[..., T], *arguments: object) -> T:
        """What one of the methods below returns or raises, which runs after all changes that were asked for before it.

        A caller that is cancelled meanwhile does not undo it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, change, *arguments)

    def close(self) -> None:
        """Changes nothing any more, once what was asked for is done; does not wait for it."""
        self._thread.shutdown(wait=False)

    @property
    def supervisor(self) -> ProcessKeys:
        """The supervisor's own pair."""
        return self._processes[SUPERVISOR]

    @property
    def host_key(self) -> str:
        """This host's public key, by which others trust it."""
        return self._host_key.public

    @property
    def keyring_file(self) -> Path:
        """The file that every process of this host reads."""
        return self.folder / keyfiles.KEYRING_FILE

    @property
    def lists(self) -> list[SignedList]:
        """Every list known here, to be passed on."""
        return [SignedList(body=one.body, signature=one.signature) for one in self._state.lists]

    @property
    def hosts(self) -> dict[str, str]:
        """The host key of every other host that is trusted."""
        return trust.trusted(self._state.trust)

    def process_file(self, name: str) -> Path:
        """Where the key pair of a process of the startup file lies."""
        return self.folder / f"{name}.json"

    def knows(self, host: str) -> bool:
        """Whether a list of `host` is known, so that its processes can be reached and may come in."""
        return host in self._state.trust.lists

    def serial(self, host: str) -> int:
        """The number of the list of `host` that counts here; -1 where there is none."""
        known = self._state.own if host == self.host else self._state.trust.lists.get(host)
        return known.keys.serial if known is not None else trust.NEVER

    def listen_on(self, port: int, events_port: int) -> None:
        """The supervisor's ports are these, where the startup file leaves them to the system."""
        if (port, events_port) != self._ports:
            self._ports = (port, events_port)
            self._commit(self._state)

    def take(self, offered: Iterable[SignedList]) -> list[Verdict]:
        """Take what is new in these lists and is signed by hosts that are trusted; what became of each."""
        signed = [SignedKeys(bytes(one.body), bytes(one.signature)) for one in offered]
        after, verdicts = trust.take(self._state.trust, signed, host_signing.verify)
        seen = max((verdict.serial for verdict in verdicts), default=trust.NEVER)
        if after is not self._state.trust or seen > self._state.own.keys.serial:
            self._commit(replace(self._state, trust=after), seen)
        return verdicts

    def meet(self, host: str) -> bool:
        """Trust a neighbour by its host key, which lies in the same TANDEM_HOME; whether it is there."""
        try:
            keys = keyfiles.read(keyfiles.keys_folder(self._home, host) / keyfiles.HOST_FILE, SigningKeys)
        except KeyfileRefused:
            return False
        if self.hosts.get(host) != keys.public:
            self._commit(replace(self._state, trust=trust.know(self._state.trust, host, keys.public)))
        return True

    def invite(self, asked: InviteHost, address: str, port: int) -> Bundle:
        """A bundle by which `asked.host` may join this host at this address and port, once and in its time."""
        now, pair, secret = self._wall(), keyfiles.new_process_keys(), ed25519.encoded(os.urandom(32))
        fresh = Invite(
            host=asked.host,
            public=pair.public,
            secret_hash=invites.hash_of(secret),
            issued_at=now,
            expires_at=now + asked.ttl_s,
        )
        self._commit(replace(self._state, invites=invites.issued(self._state.invites, fresh)))
        made = Bundle(
            format=BUNDLE_FORMAT,
            host=asked.host,
            inviter=self.host,
            address=address,
            port=port,
            server_key=self.supervisor.public,
            host_key=self._host_key.public,
            key=pair.public,
            secret_key=pair.secret,
            secret=secret,
            expires_at=invites.spelled(fresh.expires_at),
        )
        return bundle.sealed(made)

    def admit(self, asked: AdmitHost) -> tuple[str, bool]:
        """Trust the host that shows the secret of an invitation: its name, and whether a key known before counts no more.

        Unauthenticated where its list is not signed by the key it shows; otherwise as `invites.redeemed`.
        """
        signed = SignedKeys(bytes(asked.keys.body), bytes(asked.keys.signature))
        host = host_signing.verify(signed, asked.host_key).host
        used = invites.redeemed(self._state.invites, asked.secret, host, asked.host_key, self._wall())
        before = self.hosts.get(host)
        after = trust.know(self._state.trust, host, asked.host_key)
        after, (verdict,) = trust.take(after, [signed], host_signing.verify)
        if verdict.outcome not in ("taken", "same"):
            raise Conflict(verdict.reason, mend=f"compare the clocks of {self.host} and {host}, and try again")
        self._commit(replace(self._state, trust=after, invites=used))
        return host, before not in (None, asked.host_key)

    def check_bundle(self, shown: Bundle) -> None:
        """Raises where this host may not use the bundle, or has used it: as `bundle.check`, and Conflict."""
        used_at = self._state.used.get(shown.key)
        if used_at is not None:
            raise Conflict(
                f"the bundle was used at {invites.spelled(used_at)} by {self.host}", mend=invites.again(self.host)
            )
        bundle.check(shown, self.host, self._startup.peers)

    def joined(self, shown: Bundle, lists: Iterable[SignedList]) -> bool:
        """Trust the inviter of a bundle, which answered with these lists; whether a key known before counts no more."""
        before = self.hosts.get(shown.inviter)
        after = trust.know(self._state.trust, shown.inviter, shown.host_key)
        signed = [SignedKeys(bytes(one.body), bytes(one.signature)) for one in lists]
        after, verdicts = trust.take(after, signed, host_signing.verify)
        if shown.inviter not in after.lists:
            told = "; ".join(verdict.reason for verdict in verdicts if verdict.host == shown.inviter)
            raise Unauthenticated(f"{shown.inviter} did not answer with the list of its keys: {told or 'it sent none'}")
        self._commit(replace(self._state, trust=after, used={**self._state.used, shown.key: self._wall()}))
        return before not in (None, shown.host_key)

    def expel(self, host: str) -> None:
        """Trust `host` no more. Forbidden for this host itself and for one that is trusted by its file."""
        if host == self.host:
            raise Forbidden(f"{host} is this host itself")
        if (keyfiles.keys_folder(self._home, host) / keyfiles.HOST_FILE).exists():
            raise Forbidden(f"{host} keeps its keys in the same TANDEM_HOME, and is trusted for that")
        self._commit(replace(self._state, trust=trust.expel(self._state.trust, host)))

    def revoke(self, tokens: Mapping[str, float], identities: Mapping[str, float]) -> None:
        """These tokens (to when each expires) and identities (before when their tokens are void) are revoked."""
        self._keep(revoked(self._state, tokens, identities))
        self._heard |= dict.fromkeys((*tokens, *identities), self._now())

    def forget_old(self) -> None:
        """Drop what has lost its meaning, revocations not before this life has known them for as long; called now and then."""
        now = self._now()
        self._heard = {name: at for name, at in self._heard.items() if at + REVOKED_FOR_S > now}
        self._keep(remembered(self._state, self._wall(), self._heard))

    def _keep(self, state: LinkState) -> None:
        if state != self._state:
            self._commit(state)

    def _commit(self, state: LinkState, seen: int = trust.NEVER) -> None:
        fresh = replace(state, own=self._own(state, seen))
        keyfiles.write(self.folder / TRUST_FILE, fresh)
        keyfiles.write(self.keyring_file, fresh.keyring(gateway_host(self._startup)))
        before, self._state = self._state, fresh
        for host in {self.host, *before.trust.lists, *fresh.trust.lists}:
            if _keys_of(before, host) != _keys_of(fresh, host):
                self.on_change(host, max(self.serial(host), 0))

    def _load(self) -> LinkState:
        public = self._host_key.public
        try:
            state = keyfiles.read(self.folder / TRUST_FILE, LinkState)
        except KeyfileMissing:
            fresh = Trust(own=self.host, own_public=public)
            return LinkState(trust=fresh, own=self._signed(self._wanted(fresh), None, trust.NEVER))
        self._heard = dict.fromkeys((*state.revoked_tokens, *state.revoked_identities), self._now())
        state = replace(state, trust=replace(state.trust, own_public=public))
        return remembered(state, self._wall(), self._heard)

    def _own(self, state: LinkState, seen: int) -> Known:
        """This host's list; a new one where it does not say what is so, or was signed by another host key."""
        last = state.own
        if last.public == self._host_key.public:
            return self._signed(self._wanted(state.trust), last, seen)
        return self._signed(self._wanted(state.trust), None, max(seen, last.keys.serial))

    def _signed(self, wanted: HostKeys, last: Known | None, seen: int) -> Known:
        keys = next_list(wanted, last.keys if last is not None else None, self._wall(), seen)
        if last is not None and keys is last.keys:
            return last
        return Known(self._host_key.public, host_signing.sign(keys, self._host_key.seed), keys)

    def _wanted(self, trusting: Trust) -> HostKeys:
        port, events_port = self._ports
        entries = [KeyEntry(name, kind, self._processes[name].public) for name, kind in self._kinds().items()]
        return HostKeys(
            host=self.host,
            serial=0,
            issued_at=0.0,
            address=next(iter(outward(self._startup)), LOOPBACK),
            supervisor_port=port,
            events_port=events_port,
            keys=entries,
            issuers=self._issuers(),
            vouches=[trusting.vouches[host] for host in sorted(trusting.vouches)],
        )

    def _issuers(self) -> list[Issuer]:
        found = [Issuer(self._operator.name, self._operator.public, ["control"])]
        gateway = self._processes.get(GATEWAY_PROCESS)
        if gateway is not None and gateway.signing:
            found.append(Issuer(GATEWAY, ed25519.public_of(gateway.signing), ["control"]))
        return found

    def _kinds(self) -> dict[str, Kind]:
        return {SUPERVISOR: "supervisor", RELAY: "relay", **{entry.name: entry.kind for entry in self._startup.entries}}

    def _signing_keys(self, file: str, name: str) -> SigningKeys:
        try:
            return keyfiles.read(self.folder / file, SigningKeys)
        except KeyfileMissing:
            fresh = keyfiles.new_signing_keys(name)
            keyfiles.write(self.folder / file, fresh)
            return fresh

    def _process_keys(self, name: str) -> ProcessKeys:
        issuer = any(service.name == name == GATEWAY_PROCESS for service in self._startup.services)
        try:
            keys = keyfiles.read(self.process_file(name), ProcessKeys)
            if keys.signing or not issuer:
                return keys
            fresh = replace(keys, signing=ed25519.new_seed())
        except KeyfileMissing:
            fresh = keyfiles.new_process_keys(issuer=issuer)
        keyfiles.write(self.process_file(name), fresh)
        return fresh


def _keys_of(state: LinkState, host: str) -> HostKeys | None:
    if host == state.trust.own:
        return state.own.keys
    known = state.trust.lists.get(host)
    return known.keys if known is not None else None
