from __future__ import annotations

from msgspec.structs import replace

from common.supervisor.links import trust
from common.supervisor.links.invites import KEPT_S, Invite
from common.supervisor.links.state import LinkState, remembered, revoked
from common.supervisor.links.trust import Known, Trust
from tests.common.supervisor.links.fakes import check, keys, signed

OWN = Known("A", signed(keys("a"), "A"), keys("a"))
FRESH = LinkState(trust=Trust(own="a", own_public="A"), own=OWN)
INVITE = Invite(host="b", public="one-time", secret_hash="", issued_at=0.0, expires_at=900.0)


def test_the_keyring_holds_the_own_list_those_that_were_taken_and_who_was_invited() -> None:
    known, _ = trust.take(trust.know(FRESH.trust, "b", "B"), [signed(keys("b"), "B")], check)
    state = replace(FRESH, trust=known, invites=[INVITE], revoked_tokens={"t": 5.0}, revoked_identities={"n": 1.0})
    ring = state.keyring("b")
    assert ring.own_host == "a"
    assert ring.hosts == {"a": keys("a"), "b": keys("b")}
    assert (ring.revoked_tokens, ring.revoked_identities) == ({"t": 5.0}, {"n": 1.0})
    assert ring.invited.keys() == {"one-time"}
    assert state.lists == [OWN.signed, signed(keys("b"), "B")]


def test_what_was_revoked_stays_revoked_whatever_an_older_answer_says() -> None:
    state = revoked(revoked(FRESH, {"t": 5.0}, {"n": 7.0}), {"u": 6.0}, {"n": 3.0, "m": 1.0})
    assert state.revoked_tokens == {"t": 5.0, "u": 6.0}
    assert state.revoked_identities == {"n": 7.0, "m": 1.0}


def test_what_lost_its_meaning_is_forgotten() -> None:
    state = replace(revoked(FRESH, {"t": 5.0, "u": 1e9}, {"n": 1.0}), invites=[INVITE], used={"k": 1.0})
    assert remembered(state, 4.0) is state
    late = remembered(state, 1_000.0 + KEPT_S)
    assert (late.revoked_tokens, late.revoked_identities, late.invites, late.used) == ({"u": 1e9}, {}, [], {})
