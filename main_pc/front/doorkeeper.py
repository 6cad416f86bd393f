"""Who may knock at the front: a pure judgement by where the request came in, its Host, its Origin, and its bearer key.

On loopback everybody of this machine may ask, as everywhere in the fabric; but a web page of elsewhere, which a browser here may
be showing, may not. So a foreign `Host` (a name that was made to point here) and a foreign `Origin` are refused. At any
other address a bearer key is needed as well.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from common.errors import Forbidden, TandemError, Unauthenticated

NAMES = frozenset({"localhost"})


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """`names` are host names beside `localhost` under which the front may be asked; `key` is asked for off loopback."""

    names: Collection[str] = ()
    key: str = ""

    def refusal(self, came_in_at: str, host: str, origin: str | None, authorization: str) -> TandemError | None:
        """Why a request that came in at this local address is refused; None when it may pass."""
        at_home = is_loopback(came_in_at)
        asked_as = _host_name(host)
        if not self._known(asked_as, came_in_at):
            mend = f"ask by an address of this host, or have the front know the name: --name {asked_as or 'NAME'}"
            return Forbidden(f"the request is for {host!r}, which is not a name of this front", mend=mend)
        if origin is not None and not self.welcome(origin, came_in_at):
            mend = "pages of other sites may not ask; a page served by this host may"
            return Forbidden(f"a page of {origin!r} may not ask this front", mend=mend)
        if not at_home and not self._has_key(authorization):
            mend = "send `Authorization: Bearer KEY` with the key in the file that the front's log names"
            return Unauthenticated("this front is asked from elsewhere, and needs a key", mend=mend)
        return None

    def welcome(self, origin: str, came_in_at: str) -> bool:
        """Whether a page of this origin may ask: it was served by this host itself."""
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and self._known(_host_name(rest), came_in_at)

    def _known(self, name: str, came_in_at: str) -> bool:
        if name in NAMES or name in self.names or name == came_in_at:
            return True
        return is_loopback(name) and is_loopback(came_in_at)

    def _has_key(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        fits = hmac.compare_digest(given.strip().encode(), self.key.encode())
        return bool(self.key) and scheme.lower() == "bearer" and fits


def _host_name(host: str) -> str:
    """The name in a Host header or after `://`, without its port; IPv6 without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def is_loopback(address: str) -> bool:
    """Whether the address is one that only this host can ask at."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
