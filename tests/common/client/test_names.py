from __future__ import annotations

from common.client.names import HEARD_S, UNHEARD_S, NameCache
from common.transport.sockets import Endpoint

A = Endpoint.tcp("127.0.0.1", 1)


def test_an_unheard_registrys_answer_holds_for_a_moment() -> None:
    names = NameCache()
    assert names.lookup("a", 0.0) is None
    names.learn("a", A, "native", names.changes, 0.0)
    known = names.lookup("a", UNHEARD_S * 0.9)
    assert known is not None
    assert (known.endpoint, known.dress) == (A, "native")
    assert names.lookup("a", UNHEARD_S) is None
    assert names.lookup("a", 0.0) is None, "what ran out is forgotten"


def test_a_heard_registrys_answer_holds_while_it_is_heard() -> None:
    names = NameCache()
    names.live(0.0)
    names.learn("a", A, "native", names.changes, 0.5)
    for second in range(1, 20):
        names.heard(float(second))
        assert names.lookup("a", second + 0.9)
    assert names.lookup("a", 19.0 + HEARD_S) is None


def test_what_was_learned_before_the_events_were_heard_does_not_outlive_their_beginning() -> None:
    names = NameCache()
    names.learn("a", A, "native", names.changes, 0.0)
    asked = names.changes
    names.live(0.1)
    assert names.lookup("a", 0.2) is None
    names.learn("b", A, "native", asked, 0.3)
    assert names.lookup("b", 0.4)
    names.heard(5.0)
    assert names.lookup("b", 5.0) is None, "asked before, told after: it may have changed unseen"


def test_an_answer_that_an_event_overtook_holds_for_a_moment_only() -> None:
    names = NameCache()
    names.live(0.0)
    asked = names.changes
    names.forget("a")
    names.learn("a", A, "native", asked, 0.1)
    names.heard(2.0)
    assert names.lookup("a", 2.0) is None


def test_an_event_or_a_refusal_forgets_one_name_and_a_loss_forgets_all() -> None:
    names = NameCache()
    for name in "abc":
        names.learn(name, A, "plain", names.changes, 0.0)
    names.forget("a")
    names.forget("never known")
    assert [name for name in "abc" if names.lookup(name, 0.1)] == ["b", "c"]
    names.forget_all()
    assert not any(names.lookup(name, 0.1) for name in "abc")
