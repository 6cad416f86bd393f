from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ids import MAX_WIRE_INT
from common.security.keyring import SignedKeys, Vouch
from common.supervisor.links import trust
from common.supervisor.links.trust import Trust
from tests.common.supervisor.links.fakes import check, keys, signed

ME = Trust(own="a", own_public="A")
best = trust._best


def outcomes(verdicts: list[trust.Verdict]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


def test_a_list_of_a_trusted_host_is_taken_and_a_newer_one_replaces_it() -> None:
    me = trust.know(ME, "b", "B")
    me, verdicts = trust.take(me, [signed(keys("b", 1), "B")], check)
    assert outcomes(verdicts) == ["taken"]
    me, verdicts = trust.take(me, [signed(keys("b", 2), "B"), signed(keys("b", 2), "B")], check)
    assert outcomes(verdicts) == ["taken", "same"]
    assert me.lists["b"].keys.serial == 2


def test_a_rolled_back_list_is_refused_even_after_its_host_was_sent_away() -> None:
    me, _ = trust.take(trust.know(ME, "b", "B"), [signed(keys("b", 5), "B")], check)
    assert trust.take(me, [signed(keys("b", 4), "B")], check) == (
        me,
        [trust.Verdict("b", "older", "b's list 4 is older than its list 5, which is known")],
    )
    back = trust.know(trust.expel(me, "b"), "b", "B")
    assert back.lists == {}
    assert outcomes(trust.take(back, [signed(keys("b", 4), "B")], check)[1]) == ["older"]
    assert outcomes(trust.take(back, [signed(keys("b", 5), "B")], check)[1]) == ["taken"]


def test_two_lists_of_one_number_are_not_both_believed() -> None:
    me, _ = trust.take(trust.know(ME, "b", "B"), [signed(keys("b", 5), "B")], check)
    other = signed(keys("b", 5, Vouch("c", "C", 1)), "B")
    assert trust.take(me, [other], check) == (me, [trust.Verdict("b", "refused", "b signed two lists of number 5")])


def test_no_host_takes_the_key_of_another_for_its_own() -> None:
    me, _ = trust.take(trust.know(trust.know(ME, "b", "B"), "c", "C"), [signed(keys("b"), "B")], check)
    thief = msgspec.structs.replace(keys("c"), keys=[*keys("c").keys, *keys("b").keys])
    after, (verdict,) = trust.take(me, [signed(thief, "C")], check)
    assert (after, verdict.outcome) == (me, "refused")
    assert verdict.reason == "c claims a key of b; expel b if it is the same machine"
    assert outcomes(trust.take(me, [signed(keys("c"), "C"), signed(keys("b", 2), "B")], check)[1]) == ["taken", "taken"]


def test_an_unknown_host_is_refused_with_the_mend() -> None:
    after, (verdict,) = trust.take(ME, [signed(keys("b"), "B")], check)
    assert after == ME
    assert verdict.outcome == "unknown"
    assert verdict.reason == (
        "b has not joined: run `tandem invite b` on this host, and `tandem join` with its file there"
    )


def test_a_wrong_signature_and_a_damaged_list_are_refused() -> None:
    me = trust.know(ME, "b", "B")
    after, verdicts = trust.take(me, [signed(keys("b"), "X"), SignedKeys(b"\xc1", b"")], check)
    assert after == me
    assert [(verdict.host, verdict.outcome) for verdict in verdicts] == [("b", "refused"), ("", "refused")]
    assert "if it was set up anew, invite it again" in verdicts[0].reason


def test_the_own_list_is_never_taken_and_its_number_is_told() -> None:
    own = signed(keys("a", 7, Vouch("x", "X", 9)), "A")
    assert trust.take(ME, [own], check) == (ME, [trust.Verdict("a", "own", serial=7)])
    assert outcomes(trust.take(ME, [signed(keys("a", 9), "X")], check)[1]) == ["refused"]


def test_a_trusted_host_vouches_for_others_in_whatever_order_their_lists_come() -> None:
    me = trust.know(ME, "b", "B")
    chain = [
        signed(keys("d"), "D"),
        signed(keys("c", 1, Vouch("d", "D", 1)), "C"),
        signed(keys("b", 1, Vouch("c", "C", 1)), "B"),
    ]
    after, verdicts = trust.take(me, chain, check)
    assert sorted(outcomes(verdicts)) == ["taken"] * 3
    assert trust.trusted(after) == {"b": "B", "c": "C", "d": "D"}
    gone = trust.expel(after, "c")
    assert trust.trusted(gone) == {"b": "B"}
    assert set(gone.lists) == {"b"}


def test_a_vouch_for_this_host_itself_counts_for_nothing() -> None:
    after, _ = trust.take(trust.know(ME, "b", "B"), [signed(keys("b", 1, Vouch("a", "Z", 99)), "B")], check)
    assert trust.trusted(after) == {"b": "B"}


def test_a_host_that_vouches_for_itself_is_sent_away_all_the_same() -> None:
    boast = keys("b", 1, Vouch("b", "B", MAX_WIRE_INT))
    me, verdicts = trust.take(trust.know(ME, "b", "B"), [signed(boast, "B")], check)
    assert outcomes(verdicts) == ["taken"]
    assert trust.trusted(trust.expel(me, "b")) == {}
    assert trust.expel(me, "b").vouches["b"].generation == 2


def test_no_vouch_drives_a_generation_beyond_what_others_can_read() -> None:
    boast = keys("b", 1, Vouch("c", "X", MAX_WIRE_INT))
    me, _ = trust.take(trust.know(ME, "b", "B"), [signed(boast, "B")], check)
    own = trust.know(me, "c", "C")
    assert own.vouches["c"].generation == MAX_WIRE_INT
    assert check(signed(keys("a", 1, *own.vouches.values()), "A"), "A").vouches == list(own.vouches.values())
    assert trust.trusted(trust.know(trust.expel(own, "b"), "c", "C")) == {"c": "C"}


def test_a_trusted_host_cannot_fill_this_one_with_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    herd = [f"h{number}" for number in range(5)]
    boast = keys("b", 1, *(Vouch(host, host.upper(), 1) for host in herd))
    me, _ = trust.take(trust.know(ME, "b", "B"), [signed(boast, "B")], check)
    offered = [signed(keys(host), host.upper()) for host in herd]
    monkeypatch.setattr(trust, "MOST_HOSTS", 3)
    after, verdicts = trust.take(me, offered, check)
    assert (set(after.lists), outcomes(verdicts)) == ({"b", "h0", "h1"}, ["taken"] * 2 + ["refused"] * 3)
    assert outcomes(trust.take(after, [signed(keys("h1", 2), "H1")], check)[1]) == ["taken"]
    monkeypatch.setattr(trust, "MOST_BYTES", len(me.lists["b"].signed.body) + 1)
    assert verdicts[-1].reason == "there is no room for h4's list: too many hosts, or too long lists"
    assert outcomes(trust.take(me, offered[:1], check)[1]) == ["refused"]


def test_of_keys_that_are_trusted_no_more_only_so_many_serials_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MOST_SERIALS", 3)
    me = trust.know(ME, "b", "B")
    for public in ("C1", "C2", "C3", "C4"):
        me = trust.know(me, "c", public)
        me, _ = trust.take(me, [signed(keys("b"), "B"), signed(keys("c"), public)], check)
    assert set(me.serials) == {"B", "C3", "C4"}


def test_a_long_chain_of_vouches_told_in_the_worst_order_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Trust] = []

    def counted(me: Trust) -> Mapping[str, Vouch]:
        looked.append(me)
        return best(me)

    monkeypatch.setattr(trust, "_best", counted)
    chain = ["b", *(f"h{number}" for number in range(trust.MOST_HOSTS - 1))]
    offered = [
        signed(keys(host, 1, Vouch(after, after.upper(), 1)), host.upper())
        for host, after in zip(chain, [*chain[1:], "end"], strict=True)
    ]
    me, _ = trust.take(trust.know(ME, "b", "B"), offered[::-1], check)
    assert set(me.lists) == set(chain)
    assert len(looked) <= 4 * len(chain)


def test_a_host_set_up_anew_is_known_by_its_new_key_everywhere() -> None:
    me, _ = trust.take(trust.know(trust.know(ME, "b", "B"), "c", "C"), [signed(keys("c"), "C")], check)
    renewed = signed(keys("b", 1, Vouch("c", "C2", 2)), "B")
    after, _ = trust.take(me, [renewed, signed(keys("c", 1), "C2")], check)
    assert trust.trusted(after)["c"] == "C2"
    assert after.lists["c"].public == "C2"
    assert outcomes(trust.take(after, [signed(keys("c", 9), "C")], check)[1]) == ["refused"]
    assert trust.know(after, "c", "C2").vouches["c"] == Vouch("c", "C2", 2)


def test_what_a_host_vouched_for_goes_with_it() -> None:
    me = trust.know(trust.know(ME, "b", "B"), "c", "C")
    me, _ = trust.take(me, [signed(keys("b", 1, Vouch("d", "D", 1)), "B"), signed(keys("d"), "D")], check)
    assert "d" in trust.trusted(me)
    me, _ = trust.take(me, [signed(keys("c", 1, Vouch("b", "", 2)), "C")], check)
    assert trust.trusted(me) == {"c": "C"}
    assert set(me.lists) == {"c"}


def test_knowing_the_same_key_again_changes_nothing() -> None:
    me = trust.know(ME, "b", "B")
    assert trust.know(me, "b", "B") == me
    assert trust.know(me, "b", "B2").vouches["b"] == Vouch("b", "B2", 2)


HOSTS = ("a", "b", "c", "d")
PUBLICS = ("A", "B", "C", "D", "B2", "C2", "M")
vouches = st.builds(Vouch, st.sampled_from(HOSTS), st.sampled_from((*PUBLICS, "")), st.integers(1, 4))
lists = st.builds(
    lambda host, serial, told: keys(host, serial, *told),
    st.sampled_from(HOSTS),
    st.integers(1, 5),
    st.lists(vouches, max_size=3),
)
offers = st.builds(
    lambda told, signer, forged: signed(told, "M") if forged else signed(told, signer),
    lists,
    st.sampled_from([public for public in PUBLICS if public != "M"]),
    st.booleans(),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.lists(offers, min_size=1, max_size=4)),
        st.tuples(
            st.just("know"), st.tuples(st.sampled_from(("b", "c", "d")), st.sampled_from(("B", "C", "B2", "C2")))
        ),
        st.tuples(st.just("expel"), st.sampled_from(("b", "c", "d"))),
    ),
    max_size=12,
)


@given(steps)
def test_no_order_of_exchanges_replays_or_rollbacks_admits_what_no_trusted_key_signed(
    moves: list[tuple[str, object]],
) -> None:
    me, highest = ME, dict[str, int]()
    for kind, what in moves:
        match kind, what:
            case "take", list(offered):
                me, _ = trust.take(me, offered, check)
            case "know", (str(host), str(public)):
                me = trust.know(me, host, public)
            case "expel", str(host):
                me = trust.expel(me, host)
                assert host not in trust.trusted(me)
        believed = trust.trusted(me)
        assert "a" not in believed
        for host, known in me.lists.items():
            assert known.public == believed[host]
            assert check(known.signed, known.public) == known.keys
            assert known.keys.host == host
            assert known.keys.serial >= highest.get(known.public, 0)
        for host, public in believed.items():
            assert _vouched(me, host, public)
        highest = {**highest, **{one.public: one.keys.serial for one in me.lists.values()}}


def _vouched(me: Trust, host: str, public: str) -> bool:
    """A chain of signed vouches leads from this host's own to this key."""
    reached, before = {(one.host, one.public) for one in me.vouches.values()}, 0
    while len(reached) > before:
        before = len(reached)
        for known in me.lists.values():
            if (known.keys.host, known.public) in reached:
                reached |= {(one.host, one.public) for one in known.keys.vouches}
    return (host, public) in reached


@given(st.lists(offers, max_size=6), st.data())
def test_the_order_of_lists_in_one_exchange_does_not_matter_where_none_contradicts(
    offered: list[SignedKeys], data: st.DataObject
) -> None:
    me = trust.know(ME, "b", "B")
    harmless = list({check_host(one): one for one in offered if not vouch_clash(offered)}.values())
    shuffled = data.draw(st.permutations(harmless))
    assert trust.trusted(trust.take(me, harmless, check)[0]) == trust.trusted(trust.take(me, shuffled, check)[0])


def check_host(one: SignedKeys) -> str:
    public, _, _ = one.signature.partition(b":")
    return check(one, public.decode()).host


def vouch_clash(offered: list[SignedKeys]) -> bool:
    """Whether two of these lists say different things of one host."""
    said: dict[str, Vouch] = {}
    for one in offered:
        for vouch in check(one, one.signature.partition(b":")[0].decode()).vouches:
            if said.setdefault(vouch.host, vouch) != vouch or vouch.host == "b":
                return True
    return False
