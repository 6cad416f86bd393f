"""What a caller may do: by whose key it came or from where, and by the token it shows on top of that.

Plain callers of this machine may read and use; supervisors and services control; agents and relays use; one that was invited may
ask to be admitted and nothing else. A token adds what its scopes allow. It checks no token and finds no key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from common.api.words import Access, AnyVerb
from common.errors import Forbidden, TandemError, Unauthenticated
from common.security.keyring import Caller, CallerKind, Keyring, allows, local_binding

LOOPBACK: Final = "127.0.0.1"
ADMIT: Final = "admit_host"
"""The one verb of whoever came with an invitation."""

BY_KIND: Final[Mapping[CallerKind, Access | None]] = {
    "supervisor": Access.CONTROL,
    "service": Access.CONTROL,
    "agent": Access.USE,
    "relay": Access.USE,
    "invited": None,
}

_MEND: Final = (
    "show a token whose scopes allow it: `tandem` makes one by itself where it may read TANDEM_HOME; a program gets one "
    "by issue_token of SecurityGateway and shows it as TANDEM_TOKEN or `_token`"
)
_NO_KEYRING_MEND: Final = "start it by its supervisor, which gives it keys and a keyring"


class Standing(Struct, frozen=True, eq=False):
    """Who a caller is before any token, and what it may do, as an access, as all accesses up to it and as scopes.

    A token that it shows must be bound to one of `bindings`, and one that is issued to it is bound to the first. `key` is its
    CURVE key, "" for a plain caller; `reason` says why nobody is behind it, for a caller that is not known.
    """

    identity: str
    host: str
    access: Access | None
    bindings: tuple[str, ...] = ()
    invited: bool = False
    reason: str = ""
    allowed: frozenset[Access] = frozenset()
    scopes: tuple[str, ...] = ()
    key: str = ""

    @property
    def known(self) -> bool:
        """Whether anybody is behind it."""
        return not self.reason


def _standing(
    identity: str, host: str, access: Access | None, bindings: Sequence[str], *, invited: bool = False, key: str = ""
) -> Standing:
    allowed = frozenset(each for each in Access if allows(access, each))
    scopes = () if access is None else (access.value,)
    return Standing(identity, host, access, tuple(bindings), invited, "", allowed, scopes, key)


def local(host: str, neighbours: Sequence[str] = (), access: Access = Access.USE) -> Standing:
    """A plain caller on `host`'s loopback; tokens bound to the loopback of a neighbour on the same machine are its own too."""
    return _standing(local_binding(host), host, access, [local_binding(each) for each in (host, *neighbours)])


def keyed(caller: Caller, public: str) -> Standing:
    """The holder of a key that the keyring knows; through a relay come the plain callers of its host."""
    identity = local_binding(caller.host) if caller.kind == "relay" else caller.identity
    invited = caller.kind == "invited"
    access, bindings = BY_KIND[caller.kind], [caller.binding(public)]
    return _standing(identity, caller.host, access, bindings, invited=invited, key=public)


STRANGER: Final = Standing(
    "",
    "",
    None,
    reason="the key of this connection is not known here any more: it was revoked, or its host was sent away",
)


def neighbours(keyring: Keyring) -> list[str]:
    """The hosts on this machine, whose loopback is its own: those that share its address.

    A host that has no address but loopback is linked with nobody else, so whoever is known with it is on its machine.
    """
    own = keyring.hosts.get(keyring.own_host)
    if own is None or not own.address:
        return []
    others = [known for name, known in keyring.hosts.items() if name != keyring.own_host and known.address]
    return [known.host for known in others if known.address == own.address or LOOPBACK in (known.address, own.address)]


def unknown(standing: Standing) -> Unauthenticated:
    """What one behind whom nobody is gets, whatever it asks."""
    return Unauthenticated(standing.reason, mend="join its host again, and restart the process there")


def refusal(
    standing: Standing, by_token: Access | None, verb: AnyVerb, *, has_keyring: bool = True
) -> TandemError | None:
    """Why this caller may not use the verb, with the mend; None: it may. `by_token` is what its token allows here."""
    if standing.reason:
        return unknown(standing)
    if standing.invited:
        if verb.name == ADMIT:
            return None
        return Forbidden(f"an invitation allows {ADMIT} and nothing else", mend="join first: `tandem join BUNDLE`")
    if allows(standing.access, verb.access) or allows(by_token, verb.access):
        return None
    held = _more(standing.access, by_token)
    text = f"{verb.name} needs access {verb.access}; {standing.identity} has {held or 'none'} here"
    return Forbidden(text, mend=_MEND if has_keyring else _NO_KEYRING_MEND)


def _more(one: Access | None, other: Access | None) -> Access | None:
    return other if one is None or allows(other, one) else one
