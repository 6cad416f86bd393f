"""SecurityGateway on real sockets for its tests, clients that may show a token, and key files as a supervisor writes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from common.api.security_gateway import SERVICE
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.settings import ClientSettings
from common.security import ed25519, keyfiles
from common.security.keyring import GATEWAY, HostKeys, Issuer, KeyEntry, Keyring
from common.security.passwords import Cost, Passwords
from common.service.shell import ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from pc2.security_gateway.lockout import Lockout
from pc2.security_gateway.own_files import OperatorSecret, OwnFiles
from pc2.security_gateway.service import SecurityGateway

CHEAP = Cost(passes=1, memory_kib=64, lanes=1)
Dict = dict[str, Any]


class Gateway:
    """The service in this process, and clients of it."""

    def __init__(self, service: SecurityGateway, files: OwnFiles) -> None:
        self.service = service
        self.shell = service.shell
        self.files = files
        self._clients: list[AsyncClient] = []
        self.client = self.open_client()

    def open_client(self, token: str = "") -> AsyncClient:
        place = f"{SERVICE}={self.shell.port}:{self.shell.events_port}@127.0.0.1"
        client = open_async_client(ClientSettings(token=token), Directory.parse(place))
        self._clients.append(client)
        return client

    async def call(self, verb: str, **fields: Any) -> Dict:
        return await self.client.call(SERVICE, verb, fields, timeout_s=60.0)

    async def create(self, name: str = "bob", *scopes: str, **fields: Any) -> str:
        """A new identity; its API key, or the password that was given."""
        asked = {"name": name, "kind": "agent", "scopes": list(scopes or ("use",))} | fields
        created = await self.call("create_identity", **asked)
        return str(created["api_key"] or fields["secret"])

    async def token(self, name: str, secret: str, **fields: Any) -> str:
        return str((await self.call("issue_token", name=name, secret=secret, **fields))["token"])

    async def verdict(self, token: str) -> str:
        """ "valid", or why the token is not."""
        verified = await self.call("verify_token", token=token)
        return "valid" if verified["valid"] else str(verified["reason"])

    @property
    def operator(self) -> OperatorSecret:
        return keyfiles.read(self.files.operator, OperatorSecret)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.service.close()


def supervised(folder: Path) -> Path:
    """The key files of a host whose supervisor runs the gateway; the gateway's own."""
    keys = keyfiles.keys_folder(folder, "pc2")
    keyfiles.make_folder(keys)
    own = keyfiles.new_process_keys(issuer=True)
    issuers = [Issuer(GATEWAY, ed25519.public_of(own.signing), ["control"])]
    entries = [KeyEntry("security_gateway", "service", own.public)]
    listed = HostKeys(host="pc2", serial=1, issued_at=1.0, keys=entries, issuers=issuers)
    keyfiles.write(keys / keyfiles.KEYRING_FILE, Keyring(own_host="pc2", hosts={"pc2": listed}))
    keyfiles.write(keys / "security_gateway.json", own)
    return keys / "security_gateway.json"


def trust(path: Path, **changes: Any) -> None:
    """Write another keyring as the supervisor does."""
    keyring = keyfiles.read(path, Keyring)
    keyfiles.write(path, msgspec.structs.replace(keyring, **changes))


@asynccontextmanager
async def gateway(
    folder: Path,
    store: RecordStore | None = None,
    *,
    keys: Path | None = None,
    lockout: Lockout | None = None,
    cost: Cost = CHEAP,
) -> AsyncIterator[Gateway]:
    """The service on ports of the system's choice; with `keys` as under a supervisor, else as started by hand."""
    own = keys or keyfiles.keys_folder(folder, "pc2") / "security_gateway.json"
    files = OwnFiles(own, folder / "pc2" / "security" / "operator.json", given=keys is not None)
    settings = ShellSettings(SERVICE, "pc2", 0, 0, 0, keys=keys, lone=keys is None)
    service = SecurityGateway(settings, store or MemoryStore(), files, Passwords(cost), lockout)
    await service.open()
    running = Gateway(service, files)
    try:
        yield running
    finally:
        await running.close()
