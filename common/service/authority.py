"""Who asks a process, and what it may do: from the key of its connection, the keyring of the moment and the token it shows.

The rules are those of `common.security.rights`; here they meet the files. A process without keys listens on loopback alone and
can check nothing: one that was started by hand (`lone`) lets whoever reaches that loopback do everything, any other gives no
control. A damaged keyring leaves the last good one in force, and `problem` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from common.api.words import Access, AnyVerb
from common.clock import Clock
from common.errors import TandemError
from common.security import keyfiles, rights
from common.security.keyfiles import KEYRING_FILE, KeyringFile, ProcessKeys
from common.security.keyring import Keyring
from common.security.rights import STRANGER, Standing
from common.security.tokens import BadToken, Checked, TokenChecker
from common.service.call import Authorized
from common.service.settings import ShellSettings
from common.transport import sockets, zap
from common.transport.router_port import RouterPort

FOLLOW_S: Final = 0.25
"""A revocation is in force within about this time of the keyring's file."""

Followed = Literal["as before", "changed", "keys lost"]
"""What a look at the keyring found: the same, another one, or one in which some key that was trusted is so no more."""

NO_KEYS: Final = "this process has no keys (TANDEM_KEYS), so it is not served there"


class Authority:
    """One process's judge; raises KeyfileRefused when its own keys cannot be read."""

    def __init__(self, settings: ShellSettings, clock: Clock, serves: Callable[[str], bool]) -> None:
        self._service = settings.service
        self._host = settings.host
        self._now = clock.wall
        self._serves = serves
        self._by_key: dict[str, Standing] = {}
        self._file: KeyringFile | None = None
        self.keys: sockets.Keys | None = None
        if settings.keys is not None:
            own = keyfiles.read(settings.keys, ProcessKeys)
            self.keys = sockets.Keys(own.public.encode(), own.secret.encode())
            self._file = KeyringFile(settings.keys.with_name(KEYRING_FILE), settings.host)
            self._tokens = TokenChecker(lambda: self._keyring, clock)
        self._bare = Access.CONTROL if settings.lone else Access.USE
        self._plain = self._local()

    @property
    def _keyring(self) -> Keyring:
        assert self._file is not None
        return self._file.current

    @property
    def problem(self) -> str:
        """Why the keyring in force is not the one in the file; empty where it is."""
        return self._file.problem if self._file is not None else ""

    @property
    def addresses(self) -> dict[str, str]:
        """Where each host that is trusted is reached, as it tells itself; those that have no address but loopback left out."""
        hosts = self._keyring.hosts.values() if self._file is not None else ()
        return {known.host: known.address for known in hosts if known.address not in ("", rights.LOOPBACK)}

    @property
    def public(self) -> str:
        """This process's public key in Z85; empty where it has none."""
        return self.keys.public.decode() if self.keys is not None else ""

    def follow(self) -> Followed:
        """Look at the keyring's file, and say what came of it."""
        if self._file is None:
            return "as before"
        before = self._keyring
        if not self._file.refresh():
            return "as before"
        self._by_key.clear()
        self._plain = self._local()
        now = self._now()
        trusted = {key.public: known.host for known in before.hosts.values() for key in known.keys}
        is_lost = any(self._keyring.who(public, now) != before.who(public, now) for public in trusted)
        return "keys lost" if is_lost else "changed"

    def admits(self, key: str, domain: str) -> bool:
        """Whether a connection of this key may come in; who is but invited gets no events, and nothing where it has no verb."""
        standing = self._of_key(key)
        if standing.invited:
            return domain == zap.REQUESTS and self._serves(rights.ADMIT)
        return standing.known

    def identify(self, port: RouterPort) -> Standing:
        """The caller whose message is being handed over."""
        return self._of_key(port.key) if port.encrypted else self._plain

    def withdrawn(self, standing: Standing, shown: Checked | None) -> TandemError | None:
        """Why the call of a caller that was let in is to end: its key is known no more, or the token that it has shown.

        Who showed no token on plain loopback stays.
        """
        if standing.key and self._of_key(standing.key).identity != standing.identity:
            return rights.unknown(STRANGER)
        return self._tokens.withdrawn(shown) if shown is not None else None

    def authorize(self, standing: Standing, token: str | None, verb: AnyVerb) -> Authorized:
        """Who the caller is and what it may, once it may use the verb; Unauthenticated, Forbidden with the mend.

        A token that is shown is checked for every verb, and names the caller. A process without a keyring looks at none.
        """
        if not token or self._file is None or not standing.bindings or standing.invited:
            if verb.access not in standing.allowed:
                refusal = rights.refusal(standing, None, verb, has_keyring=self._file is not None)
                if refusal is not None:
                    raise refusal
            return Authorized(standing.identity, standing.scopes)
        checked = self._checked(token, standing)
        refusal = rights.refusal(standing, checked.access, verb)
        if refusal is not None:
            raise refusal
        return Authorized(checked.subject, (*standing.scopes, *checked.scopes), checked)

    def _checked(self, token: str, standing: Standing) -> Checked:
        *others, last = standing.bindings
        for binding in others:
            try:
                return self._tokens.check(token, self._service, binding, self._host)
            except BadToken as error:
                if error.reason != "bound to another key":
                    raise
        return self._tokens.check(token, self._service, last, self._host)

    def _of_key(self, key: str) -> Standing:
        standing = self._by_key.get(key)
        if standing is not None:
            return standing
        caller = self._keyring.who(key, self._now()) if self._file is not None else None
        if caller is None:
            return STRANGER
        standing = rights.keyed(caller, key)
        if not standing.invited:  # an invitation ends by the clock
            self._by_key[key] = standing
        return standing

    def _local(self) -> Standing:
        if self._file is None:
            return rights.local(self._host, access=self._bare)
        return rights.local(self._host, rights.neighbours(self._keyring))
