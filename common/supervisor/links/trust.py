"""Whose lists of keys this host believes: decides which signed list is taken, and which host keys count; reads and signs nothing.

A host is trusted by its host key, which is vouched for: by this host itself, which admitted it or joined it, or by a host that is
trusted already, in its own signed list. So a third host needs one invitation, and lists are passed on. Of two vouches for one
host the higher generation counts: a host that was set up anew or sent away is vouched for one generation higher, with its new
key or with none. What a host that is not trusted vouches for counts for nothing, nor does a vouch for this host or for the
voucher itself, so that whoever is trusted can be sent away.

A list is taken when its host's key signed it and its serial is higher than any seen under that key, as long as there is room: a
host that vouches for as many as it likes fills no disk, and the lists of all still pass in one message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from common.errors import Unauthenticated
from common.ids import MAX_WIRE_INT
from common.security.keyring import HostKeys, SignedKeys, Vouch

Check = Callable[[SignedKeys, str], HostKeys]
"""The list in a signed one, if the host key (second) signed it; Unauthenticated where it did not."""

Outcome = Literal["taken", "same", "older", "own", "unknown", "refused"]
NEVER: Final = -1
MOST_HOSTS: Final = 63
"""Lists of other hosts that are kept."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""Bytes that all of them may have together."""
MOST_SERIALS: Final = 4_096
"""Host keys whose highest serial is remembered; of those that are not trusted any more the first ones seen are forgotten."""


class Known(Struct, frozen=True):
    """A list that was taken, and the host key that it was signed by."""

    public: str
    signed: SignedKeys
    keys: HostKeys


class Trust(Struct, frozen=True, kw_only=True, dict=True):
    """What this host trusts: `vouches` are its own, `serials` the highest serial seen under each host key."""

    own: str
    own_public: str
    vouches: dict[str, Vouch] = {}
    lists: dict[str, Known] = {}
    serials: dict[str, int] = {}

    @cached_property
    def reached(self) -> Mapping[str, str]:
        """The host key of every other host that is trusted."""
        return _reached(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one list that was offered; `serial` is that of a list of this host's own that came back."""

    host: str
    outcome: Outcome
    reason: str = ""
    serial: int = NEVER


class _Named(Struct):
    host: str


def trusted(trust: Trust) -> dict[str, str]:
    """The host key of every host that is trusted, this one aside."""
    return dict(trust.reached)


def _reached(trust: Trust) -> dict[str, str]:
    best = _best(trust)
    reached: dict[str, str] = {}
    ways = [list(trust.vouches.values())]
    while ways:
        for vouch in ways.pop():
            counts = best.get(vouch.host)
            if vouch.public and vouch.host not in reached and counts is not None and counts.public == vouch.public:
                reached[vouch.host] = vouch.public
                ways.append(_vouches_of(trust, vouch))
    return reached


def know(trust: Trust, host: str, public: str) -> Trust:
    """`host` is trusted by this key from now on, whatever its key was before."""
    last = _best(trust).get(host)
    if last is None or last.public != public:
        last = Vouch(host, public, min(last.generation + 1, MAX_WIRE_INT) if last is not None else 1)
    return _pruned(replace(trust, vouches={**trust.vouches, host: last}))


def expel(trust: Trust, host: str) -> Trust:
    """`host` is trusted by no key any more."""
    return know(trust, host, "")


def take(trust: Trust, offered: Iterable[SignedKeys], check: Check) -> tuple[Trust, list[Verdict]]:
    """The trust after these lists were looked at, and what became of each; one may vouch for the host of another."""
    left, verdicts = list(offered), list[Verdict]()
    while left:
        unknown: list[tuple[SignedKeys, Verdict]] = []
        for signed in left:
            trust, verdict = _take(trust, signed, check)
            if verdict.outcome == "unknown":
                unknown.append((signed, verdict))
            else:
                verdicts.append(verdict)
        if len(unknown) == len(left):
            return trust, [*verdicts, *(verdict for _, verdict in unknown)]
        left = [signed for signed, _ in unknown]
    return trust, verdicts


def not_joined(host: str) -> str:
    """What a host says of one whose key it does not know, with the mend."""
    return f"{host} has not joined: run `tandem invite {host}` on this host, and `tandem join` with its file there"


def _take(trust: Trust, signed: SignedKeys, check: Check) -> tuple[Trust, Verdict]:
    try:
        host = msgspec.msgpack.decode(signed.body, type=_Named).host
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return trust, Verdict("", "refused", "a list of keys is damaged")
    public = trust.own_public if host == trust.own else trust.reached.get(host)
    if public is None:
        return trust, Verdict(host, "unknown", not_joined(host))
    try:
        keys = check(signed, public)
    except Unauthenticated:
        reason = (
            f"{host}'s list is not signed by the key that {host} joined with; if it was set up anew, invite it again"
        )
        return trust, Verdict(host, "refused", reason)
    if host == trust.own:
        return trust, Verdict(host, "own", serial=keys.serial)
    return _newest(trust, Known(public, signed, keys))


def _newest(trust: Trust, offered: Known) -> tuple[Trust, Verdict]:
    host, serial = offered.keys.host, offered.keys.serial
    seen, known = trust.serials.get(offered.public, NEVER), trust.lists.get(host)
    if serial < seen:
        return trust, Verdict(host, "older", f"{host}'s list {serial} is older than its list {seen}, which is known")
    if serial == seen and known is not None:
        if known.signed.body == offered.signed.body:
            return trust, Verdict(host, "same")
        return trust, Verdict(host, "refused", f"{host} signed two lists of number {serial}")
    claimed = _owner_of_a_claimed_key(trust, offered)
    if claimed:
        return trust, Verdict(
            host, "refused", f"{host} claims a key of {claimed}; expel {claimed} if it is the same machine"
        )
    if not _has_room(trust, offered):
        return trust, Verdict(host, "refused", f"there is no room for {host}'s list: too many hosts, or too long lists")
    lists = {**trust.lists, host: offered}
    serials = _remembered({**trust.serials, offered.public: serial}, {known.public for known in lists.values()})
    taken = replace(trust, lists=lists, serials=serials)
    return _pruned(taken), Verdict(host, "taken")


def _owner_of_a_claimed_key(trust: Trust, offered: Known) -> str:
    """The other host that has told of one of these keys as its own, and would lose its callers to this one; empty for none."""
    claims = {key.public for key in offered.keys.keys}
    others = (host for host in sorted(trust.lists) if host != offered.keys.host)
    return next(
        (host for host in others if not claims.isdisjoint(key.public for key in trust.lists[host].keys.keys)), ""
    )


def _remembered(serials: dict[str, int], trusted: Collection[str]) -> dict[str, int]:
    old = [public for public in serials if public not in trusted]
    for public in old[: max(0, len(serials) - MOST_SERIALS)]:
        del serials[public]
    return serials


def _has_room(trust: Trust, offered: Known) -> bool:
    others = [known.signed.body for host, known in trust.lists.items() if host != offered.keys.host]
    return len(others) < MOST_HOSTS and sum(map(len, others)) + len(offered.signed.body) <= MOST_BYTES


def _pruned(trust: Trust) -> Trust:
    """Without the lists of hosts that are not trusted, or not by the key that signed them."""
    keys = trust.reached
    lists = {host: known for host, known in trust.lists.items() if keys.get(host) == known.public}
    return trust if len(lists) == len(trust.lists) else replace(trust, lists=lists)


def _best(trust: Trust) -> Mapping[str, Vouch]:
    """The vouch that counts for each host, of this host's own and of those it trusts, one after the other."""
    best, heard = dict(trust.vouches), set[str]()
    while ready := sorted(host for host, vouch in best.items() if host not in heard and _vouches_of(trust, vouch)):
        heard.add(ready[0])
        for vouch in _vouches_of(trust, best[ready[0]]):
            if vouch.host not in (trust.own, ready[0]) and _counts(vouch, best.get(vouch.host)):
                best[vouch.host] = vouch
    return best


def _vouches_of(trust: Trust, host: Vouch) -> list[Vouch]:
    """What the list of the host vouched for says, if it was signed by that very key."""
    known = trust.lists.get(host.host)
    return known.keys.vouches if known is not None and known.public == host.public else []


def _counts(vouch: Vouch, other: Vouch | None) -> bool:
    return other is None or (vouch.generation, vouch.public) > (other.generation, other.public)
