"""What a host keeps of its links over restarts, and the keyring that its processes read; pure data and questions about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from common.api.security_gateway import MAX_TTL_S
from common.security.keyring import Keyring, SignedKeys
from common.supervisor.links import invites
from common.supervisor.links.invites import Invite
from common.supervisor.links.trust import Known, Trust

REVOKED_FOR_S: Final = 2.0 * MAX_TTL_S
"""So long after an identity was revoked no token of it can be good any more, whatever two hosts' clocks say."""


class LinkState(Struct, frozen=True, kw_only=True):
    """All of it, replaced whole at every change.

    `own` is this host's list as it was last signed; `used` tells when the bundle of a one-time key was used here;
    `revoked_tokens` and `revoked_identities` are as in the keyring.
    """

    trust: Trust
    own: Known
    invites: list[Invite] = []
    used: dict[str, float] = {}
    revoked_tokens: dict[str, float] = {}
    revoked_identities: dict[str, float] = {}

    @property
    def lists(self) -> list[SignedKeys]:
        """Every list known here, as it is passed on; the own one first."""
        return [self.own.signed, *(known.signed for known in self.trust.lists.values())]

    def keyring(self, gateway_host: str) -> Keyring:
        """What every process of this host trusts now; `gateway_host` is the host that SecurityGateway is on."""
        return Keyring(
            own_host=self.trust.own,
            gateway_host=gateway_host,
            hosts={self.trust.own: self.own.keys, **{host: one.keys for host, one in self.trust.lists.items()}},
            revoked_tokens=self.revoked_tokens,
            revoked_identities=self.revoked_identities,
            invited=invites.may_connect(self.invites),
        )


def revoked(state: LinkState, tokens: Mapping[str, float], identities: Mapping[str, float]) -> LinkState:
    """With these revocations too; what is revoked stays so, and of two moments for one identity the later counts."""
    before = state.revoked_identities
    later = {name: max(at, before.get(name, at)) for name, at in identities.items()}
    return replace(state, revoked_tokens={**state.revoked_tokens, **tokens}, revoked_identities={**before, **later})


def remembered(state: LinkState, now: float, fresh: Collection[str] = ()) -> LinkState:
    """Without what has lost its meaning: tokens that expired, revocations, invitations and bundles of long ago.

    Of revocations `now` alone does not decide, for a clock that stepped may step back: those of `fresh` stay in any case.
    """
    tokens = {jti: until for jti, until in state.revoked_tokens.items() if until > now or jti in fresh}
    identities = {
        name: at for name, at in state.revoked_identities.items() if at + REVOKED_FOR_S > now or name in fresh
    }
    used = {key: at for key, at in state.used.items() if at + invites.KEPT_S > now}
    kept = invites.remembered(state.invites, now)
    left = replace(state, revoked_tokens=tokens, revoked_identities=identities, used=used, invites=kept)
    return state if left == state else left
