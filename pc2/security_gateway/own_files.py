"""The gateway's own files: the key it signs tokens with, and the operator's API key that the first start leaves behind.

Both are private to their user. Under a supervisor the key file is the supervisor's; started by hand the gateway makes its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from common.config.settings import AgentEnvironment
from common.security import keyfiles
from common.security.keyfiles import KeyfileMissing, KeyfileRefused, ProcessKeys

PROCESS: Final = "security_gateway"


class OperatorSecret(msgspec.Struct, frozen=True):
    """What the operator shows to get a token."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"OperatorSecret(name={self.name!r})"


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Where they lie: `keys`, made here when absent unless they are `given`, and `operator`."""

    keys: Path
    operator: Path
    given: bool = False

    @classmethod
    def of(cls, environment: AgentEnvironment, host: str) -> OwnFiles:
        """The places of a process with this environment."""
        own = keyfiles.keys_folder(environment.home, host) / f"{PROCESS}.json"
        keys = Path(environment.keys) if environment.keys else own
        return cls(keys, environment.home / host / "security" / "operator.json", given=bool(environment.keys))

    @property
    def keyring(self) -> Path:
        """What the host trusts lies beside the keys."""
        return self.keys.with_name(keyfiles.KEYRING_FILE)

    def signing_seed(self) -> str:
        """The seed that tokens are signed with; KeyfileRefused with the mend."""
        try:
            keys = keyfiles.read(self.keys, ProcessKeys)
        except KeyfileMissing:
            if self.given:
                raise
            keys = self._made()
        if not keys.signing:
            raise KeyfileRefused(
                f"{self.keys} holds no key to sign tokens with: only the service that its host's startup file names "
                f"{PROCESS} is given one"
            )
        return keys.signing

    def _made(self) -> ProcessKeys:
        keys = keyfiles.new_process_keys(issuer=True)
        keyfiles.make_folder(self.keys.parent)
        keyfiles.write(self.keys, keys)
        return keys

    def leave_operator(self, name: str, api_key: str) -> None:
        """Writes the operator's API key down, once; KeyfileRefused when that cannot be."""
        keyfiles.make_folder(self.operator.parent)
        keyfiles.write(self.operator, OperatorSecret(name, api_key))
