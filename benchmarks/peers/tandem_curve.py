"""Tandem: the same service over its encrypted port, its caller known by the keyring as a service of another host."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from benchmarks.peer import Announce
from benchmarks.peers.tandem_native import Native, service
from common.security import keyfiles
from common.security.keyfiles import KEYRING_FILE, ProcessKeys
from common.security.keyring import HostKeys, KeyEntry, Keyring
from common.transport.sockets import Endpoint, Keys

ADDRESS: Final = "127.0.0.2"
"""Another address of this machine than the one that is served in plain."""


def _keys(seed: int) -> Keys:
    """The same pair in every process of a run; it guards nothing but a measurement."""
    secret = z85.encode(bytes(range(seed, seed + 32)))
    return Keys(zmq.curve_public(secret), secret)


SERVER_KEYS: Final = _keys(1)
CLIENT_KEYS: Final = _keys(101)


def key_file(folder: Path) -> Path:
    """The server's key file, with a keyring beside it that knows the client."""
    file = folder / "echo.json"
    keyfiles.make_folder(folder)
    keyfiles.write(file, ProcessKeys(SERVER_KEYS.public.decode(), SERVER_KEYS.secret.decode()))
    client = KeyEntry("caller", "service", CLIENT_KEYS.public.decode())
    known = HostKeys(host="elsewhere", serial=1, issued_at=0.0, keys=[client])
    keyfiles.write(folder / KEYRING_FILE, Keyring(own_host="bench", hosts={"elsewhere": known}))
    return file


class NativeCurve(Native):
    def endpoint(self, port: int) -> Endpoint:
        return Endpoint(f"tcp://{ADDRESS}:{port}", SERVER_KEYS.public, CLIENT_KEYS)

    async def _serve(self, announce: Announce) -> None:
        with tempfile.TemporaryDirectory() as folder:
            shell = service(addresses=("127.0.0.1", ADDRESS), keys=key_file(Path(folder)))
            await shell.open()
            announce(shell.port)
            await shell.serve()


PEER = NativeCurve()
