"""The links between hosts, as supervisors speak of them: keys, joining, the relay."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from common.api.words import Access, AnyVerb, Count, Cursor, Empty, Host, Message, Port, Seconds, Timestamp, Topic, Verb

CurveKey = Annotated[str, Meta(min_length=40, max_length=40)]
HostKey = Annotated[str, Meta(min_length=43, max_length=43)]
Secret = Annotated[str, Meta(min_length=1, max_length=128)]

MAX_LIST_BYTES = 1024 * 1024
"""A signed list of keys is no longer than this: some 8,000 processes."""

BUNDLE_FORMAT = "tandem-invite-1"


class SignedList(Message, frozen=True):
    """A host's list of keys in msgpack, and its host key's Ed25519 signature of those bytes."""

    body: Annotated[bytes, Meta(max_length=MAX_LIST_BYTES)]
    signature: Annotated[bytes, Meta(max_length=64)]


class ExchangeKeys(Message, frozen=True):
    """The lists that the asking supervisor knows, its own among them."""

    lists: Annotated[list[SignedList], Meta(max_length=256)]


class ExchangedKeys(Message, frozen=True):
    """The lists that this supervisor knows, and why it took none of some host's."""

    lists: list[SignedList]
    as_of: Cursor
    refused: dict[str, str] = {}


class InviteHost(Message, frozen=True):
    """Invites `host`, which is to join from its own address within `ttl_s`; `address`: where this host is reached from there."""

    host: Host
    address: str = ""
    ttl_s: Annotated[float, Meta(ge=1, le=604_800, description="seconds")] = 900.0


class Bundle(Message, frozen=True):
    """What a host needs to join another, once: who invites whom, where, by which keys, and until when.

    `key` and `secret_key` are the one-time CURVE pair, `checksum` shows a damaged file.
    """

    format: str
    host: Host
    inviter: Host
    address: str
    port: Port
    server_key: CurveKey
    host_key: HostKey
    key: CurveKey
    secret_key: CurveKey
    secret: Secret
    expires_at: Timestamp
    checksum: str = ""

    def __repr__(self) -> str:
        return f"Bundle(host={self.host!r}, inviter={self.inviter!r}, expires_at={self.expires_at!r})"


class JoinHost(Message, frozen=True):
    """Joins the host that made this bundle, which invites this one."""

    bundle: Bundle


class Joined(Message, frozen=True):
    """This host and `host` trust each other now; `replaced`: a key by which one knew the other before counts no more."""

    host: str
    replaced: bool = False
    hosts: list[str] = []


class AdmitHost(Message, frozen=True):
    """Asks to be admitted with the secret of a bundle; `keys` is signed by `host_key`."""

    secret: Secret
    host_key: HostKey
    keys: SignedList

    def __repr__(self) -> str:
        return f"AdmitHost(host_key={self.host_key!r})"


class Admitted(Message, frozen=True):
    """Every list that the admitting host knows, its own among them; `replaced`: it knew the host by another key before."""

    lists: list[SignedList]
    replaced: bool = False


class ExpelHost(Message, frozen=True):
    """Sends a host away: none of its keys counts any more, here and wherever this host is trusted."""

    host: Host


class ListLinks(Message, frozen=True):
    """The links from this host to the others, as seen from this end."""


class Link(Message, frozen=True):
    """The link to one peer. `joined`: its keys are known; `neighbour`: it is on this machine and needs no encryption.

    `up` says whether its supervisor answers, `since` from when on it does or does not, `round_trip_ms` is the median of the
    last ten answers; `why` says what is wrong and how to mend it.
    """

    host: str
    address: str
    joined: bool
    neighbour: bool
    up: bool
    since: Timestamp
    since_s: Seconds
    heard_s: Seconds | None = None
    round_trip_ms: float | None = None
    lost: Count = 0
    why: str = ""


class Links(Message, frozen=True):
    """The links of this host."""

    host: str
    links: list[Link]
    as_of: Cursor


class KeysChanged(Message, frozen=True):
    """A host's list changed here; the entity in the header is that host."""

    serial: Count


class LinkChanged(Message, frozen=True):
    """A link came up or went down; the entity in the header is the peer."""

    link: Link


EXCHANGE_KEYS = Verb(
    "exchange_keys",
    ExchangeKeys,
    ExchangedKeys,
    Access.USE,
    stability="internal",
    summary="signed lists of keys, both ways; they prove themselves, so whoever may call may bring them",
)
INVITE_HOST = Verb(
    "invite_host",
    InviteHost,
    Bundle,
    Access.CONTROL,
    idempotent=False,
    summary="a bundle by which one host may join, once",
)
JOIN_HOST = Verb("join_host", JoinHost, Joined, Access.CONTROL, summary="join the host that made the bundle")
ADMIT_HOST = Verb(
    "admit_host",
    AdmitHost,
    Admitted,
    Access.CONTROL,
    stability="internal",
    summary="the joining host's half, open to the one-time key of a bundle",
)
EXPEL_HOST = Verb("expel_host", ExpelHost, Empty, Access.CONTROL, summary="trust none of a host's keys any more")
LIST_LINKS = Verb(
    "list_links", ListLinks, Links, Access.READ, summary="links to the other hosts: joined, up, round trip"
)

VERBS: tuple[AnyVerb, ...] = (EXCHANGE_KEYS, INVITE_HOST, JOIN_HOST, ADMIT_HOST, EXPEL_HOST, LIST_LINKS)

KEYS_CHANGED = Topic("keys.changed", KeysChanged, "a host's list of keys changed here")
LINK_CHANGED = Topic("links.changed", LinkChanged, "a link to another host came up or went down")

TOPICS: tuple[Topic, ...] = (KEYS_CHANGED, LINK_CHANGED)
