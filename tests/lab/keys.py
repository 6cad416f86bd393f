"""Key files of a fabric made for one test: processes of several hosts, the keyring that one host trusts, and its operators."""

from __future__ import annotations

import time
from pathlib import Path

from common.security import keyfiles
from common.security.keyfiles import KEYRING_FILE, OPERATOR_FILE, ProcessKeys, SigningKeys
from common.security.keyring import HostKeys, Issuer, KeyEntry, Keyring, Kind, local_binding
from common.security.tokens import Minter
from common.transport.sockets import Keys

ALL = ["read", "use", "control"]


class KeyHome:
    """TANDEM_HOME as far as keys go; `write` makes what `own_host` trusts now."""

    def __init__(self, home: Path, own_host: str = "mainpc") -> None:
        self.home = home
        self.own_host = own_host
        self.entries: dict[str, dict[str, KeyEntry]] = {}
        self.pairs: dict[tuple[str, str], ProcessKeys] = {}
        self.operators: dict[str, SigningKeys] = {}
        self.addresses: dict[str, str] = {}
        self.invited: dict[str, float] = {}
        self.revoked_tokens: dict[str, float] = {}
        self.revoked_identities: dict[str, float] = {}

    def folder(self, host: str = "") -> Path:
        """A host's folder of keys."""
        folder = keyfiles.keys_folder(self.home, host or self.own_host)
        keyfiles.make_folder(folder)
        return folder

    def add(self, host: str, name: str, kind: Kind) -> Keys:
        """A process with a key that is trusted from the next `write` on, and its file."""
        pair = self.pairs.setdefault((host, name), keyfiles.new_process_keys())
        keyfiles.write(self.file(host, name), pair)
        self.entries.setdefault(host, {})[name] = KeyEntry(name, kind, pair.public)
        return Keys(pair.public.encode(), pair.secret.encode())

    def file(self, host: str, name: str) -> Path:
        """A process's own key file."""
        return self.folder(host) / f"{name}.json"

    def remove(self, host: str, name: str) -> None:
        """Its key is trusted no more from the next `write` on."""
        del self.entries[host][name]

    def operator(self, host: str) -> Minter:
        """The host's operator, trusted from the next `write` on."""
        name = f"operator@{host}"
        keys = self.operators.setdefault(host, keyfiles.new_signing_keys(name))
        keyfiles.write(self.folder(host) / OPERATOR_FILE, keys)
        self.entries.setdefault(host, {})
        return Minter(name, keys.seed)

    def token(
        self, host: str, *scopes: str, binding: str = "", ttl_s: float = 60.0, ago_s: float = 0.0, audience: str = ""
    ) -> str:
        """A token of the host's operator, for plain callers of the host unless it is bound to something else."""
        now, subject, bound = time.time() - ago_s, f"operator@{host}", binding or local_binding(host)
        minter = self.operator(host)
        return minter.mint(subject, scopes or ("control",), bound, now=now, ttl_s=ttl_s, audience=audience).token

    def write(self) -> None:
        """What `own_host` trusts now, for every process of it to read."""
        hosts = {
            host: HostKeys(
                host=host,
                serial=1,
                issued_at=1.0,
                address=self.addresses.get(host, ""),
                keys=list(entries.values()),
                issuers=[Issuer(f"operator@{host}", self.operators[host].public, ALL)]
                if host in self.operators
                else [],
            )
            for host, entries in self.entries.items()
        }
        trusted = Keyring(
            own_host=self.own_host,
            hosts=hosts,
            invited=self.invited,
            revoked_tokens=self.revoked_tokens,
            revoked_identities=self.revoked_identities,
        )
        keyfiles.write(self.folder() / KEYRING_FILE, trusted)
