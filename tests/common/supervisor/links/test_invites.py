from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Conflict, Forbidden, NotFound, TandemError
from common.supervisor.links import invites
from common.supervisor.links.invites import Invite, hash_of, issued, may_connect, redeemed, remembered


def invite(host: str = "pc2", secret: str = "s", at: float = 0.0, ttl: float = 900.0) -> Invite:
    return Invite(
        host=host, public=f"one-time {secret}", secret_hash=hash_of(secret), issued_at=at, expires_at=at + ttl
    )


def test_an_invitation_admits_once_and_says_when_and_by_whom_it_was_used() -> None:
    used = redeemed([invite()], "s", "pc2", "KEY", 10.0)
    with pytest.raises(Conflict, match="was used at 1970-01-01T00:00:10Z by pc2") as refused:
        redeemed(used, "s", "pc2", "OTHER", 20.0)
    assert refused.value.details["mend"] == "run `tandem invite pc2` again on the inviting host"


def test_the_host_that_used_it_may_ask_again_when_its_answer_was_lost() -> None:
    used = redeemed([invite()], "s", "pc2", "KEY", 10.0)
    assert redeemed(used, "s", "pc2", "KEY", 20.0) == used


def test_an_old_one_says_that_it_expired() -> None:
    with pytest.raises(Conflict, match="expired at 1970-01-01T00:15:00Z"):
        redeemed([invite()], "s", "pc2", "KEY", 900.0)


def test_another_hosts_secret_and_an_unknown_one_admit_nobody() -> None:
    with pytest.raises(Forbidden, match="invites pc2, not pc3"):
        redeemed([invite()], "s", "pc3", "KEY", 10.0)
    with pytest.raises(NotFound, match="no invitation given out here has this secret"):
        redeemed([invite()], "x", "pc2", "KEY", 10.0)


def test_a_newer_invitation_replaces_an_open_one_of_the_same_host_alone() -> None:
    both = issued(issued([invite()], invite("pc3", "other", 5.0)), invite("pc2", "newer", 7.0))
    with pytest.raises(Conflict, match="a newer bundle replaced this one at 1970-01-01T00:00:07Z"):
        redeemed(both, "s", "pc2", "KEY", 10.0)
    newest = issued(both, invite("pc2", "newest", 9.0))
    assert [one.replaced_at for one in newest] == [7.0, None, 9.0, None]
    assert redeemed(both, "newer", "pc2", "KEY", 10.0) != both
    assert redeemed(both, "other", "pc3", "KEY", 10.0) != both


def test_a_late_key_may_connect_to_be_told_and_is_forgotten_in_the_end() -> None:
    assert may_connect([invite()]) == {"one-time s": 900.0 + invites.GRACE_S}
    assert remembered([invite()], 1_000.0) == [invite()]
    assert remembered([invite()], 901.0 + invites.KEPT_S) == []


tries = st.lists(
    st.tuples(
        st.sampled_from(["s", "t", "guess"]),
        st.sampled_from(["pc2", "pc3"]),
        st.sampled_from("XYZ"),
        st.floats(0, 2_000),
    ),
    max_size=20,
)


@given(tries)
def test_one_invitation_admits_one_host_key(attempts: list[tuple[str, str, str, float]]) -> None:
    state = [invite("pc2", "s"), invite("pc3", "t", ttl=1_500.0)]
    admitted: dict[str, set[tuple[str, str]]] = {}
    for secret, host, key, now in attempts:
        try:
            state = redeemed(state, secret, host, key, now)
        except TandemError:
            continue
        admitted.setdefault(secret, set()).add((host, key))
    assert set(admitted) <= {"s", "t"}
    assert all(len(keys) == 1 for keys in admitted.values())
