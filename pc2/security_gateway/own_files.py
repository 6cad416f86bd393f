"""The gateway's own files: the key it signs tokens with, and the operator's API key that the first start leaves behind.

Both are private to their user. Under a supervisor the key file is the supervisor's; started by hand the gateway makes its own.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from common.config.settings import AgentEnvironment
from common.security import keyfiles
from common.security.keyfiles import KeyfileMissing, KeyfileRefused, ProcessKeys

PROCESS: Final = "security_gateway"
RENEWAL: Final = "new-operator"


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

    @property
    def renewal(self) -> Path:
        """Who makes this file, beside what the operator shows, asks for a new API key of the operator."""
        return self.operator.with_name(RENEWAL)

    @property
    def asks_for_operator(self) -> bool:
        """Whether the user of this process, or root, asks for it."""
        try:
            found = self.renewal.lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_uid in (os.geteuid(), 0)

    def operator_was_renewed(self) -> None:
        """It is asked for no more; KeyfileRefused when the file cannot be removed."""
        try:
            self.renewal.unlink(missing_ok=True)
        except OSError as error:
            raise KeyfileRefused(f"{self.renewal} cannot be removed: {error.strerror}") from None

    def leave_operator(self, name: str, api_key: str) -> None:
        """Writes the operator's API key down, in the place of an earlier one; KeyfileRefused when that cannot be."""
        keyfiles.make_folder(self.operator.parent)
        keyfiles.write(self.operator, OperatorSecret(name, api_key))
