from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.api.security_gateway import MAX_TTL_S
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from pc2.security_gateway.revocations import IDENTITIES, SLACK_S, TOKENS, Dropped, RevocationBook, rows

WALL = 1_700_000_000.0


def test_a_token_is_revoked_until_it_has_expired_and_some_time_more() -> None:
    book = RevocationBook()
    fact = book.revoke_token("t1", WALL + 100, WALL)
    assert fact is not None
    event = book.apply(fact, now=5.0)
    assert (event.change, event.tokens, event.identities) == ("revoked", {"t1": WALL + 100}, {})
    assert book.tokens == {"t1": WALL + 100}
    expired, waited = WALL + 100 + SLACK_S, 5.0 + MAX_TTL_S + SLACK_S
    assert book.drop(expired - 1, waited) is None
    assert book.drop(expired, waited - 1) is None
    over = book.drop(expired, waited)
    assert over == Dropped(tokens=["t1"], identities=[])
    event = book.apply(over, now=999.0)
    assert (event.change, event.tokens) == ("dropped", {"t1": WALL + 100})
    assert not len(book)
    assert not book.tokens


def test_a_clock_that_was_set_forward_drops_nothing() -> None:
    book = RevocationBook()
    fact = book.revoke_token("t1", WALL + 100, WALL)
    assert fact is not None
    book.apply(fact, now=5.0)
    book.apply(book.revoke_identity("bob", WALL), now=5.0)
    assert book.drop(WALL + 1e9, 6.0) is None


def test_a_token_of_an_hour_is_kept_out_for_that_long_even_where_the_clock_says_that_it_is_over() -> None:
    book = RevocationBook()
    fact = book.revoke_token("t1", WALL + MAX_TTL_S, WALL + MAX_TTL_S + 60)
    assert fact is not None
    book.apply(fact, now=0.0)
    assert book.drop(WALL + 1e6, MAX_TTL_S) is None


def test_a_token_that_is_over_or_revoked_already_needs_no_fact() -> None:
    book = RevocationBook()
    assert book.revoke_token("t1", WALL - MAX_TTL_S, WALL) is None
    fact = book.revoke_token("t1", WALL + 1, WALL)
    assert fact is not None
    book.apply(fact, 0.0)
    assert book.revoke_token("t1", WALL + 1, WALL) is None


def test_an_identity_is_revoked_for_as_long_as_a_token_of_it_could_live() -> None:
    book = RevocationBook()
    fact = book.revoke_identity("bob", WALL)
    assert WALL < fact.at < WALL + 0.001
    assert book.apply(fact, now=0.0).identities == {"bob": fact.at}
    long = MAX_TTL_S + SLACK_S
    assert book.drop(WALL + long + 1, long - 1) is None
    over = book.drop(WALL + long + 1, long)
    assert over == Dropped(tokens=[], identities=["bob"])
    book.apply(over, now=0.0)
    assert not book.identities


def test_a_clock_that_was_set_back_takes_no_revocation_back() -> None:
    book = RevocationBook()
    first = book.revoke_identity("bob", WALL)
    book.apply(first, now=0.0)
    second = book.revoke_identity("bob", WALL - 1_000)
    assert second.at > first.at


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(1, 1_000)), max_size=12),
    st.integers(0, 5_000),
)
def test_what_was_stored_is_what_is_known(steps: list[tuple[bool, str, int]], later: int) -> None:
    book, store = RevocationBook(), MemoryStore()
    for is_token, name, ttl in steps:
        fact = book.revoke_token(name, WALL + ttl, WALL) if is_token else book.revoke_identity(name, WALL)
        if fact is not None:
            book.apply(fact, now=0.0)
            store.commit(rows(fact), Durability.FULL)
    over = book.drop(WALL + later, later)
    if over is not None:
        book.apply(over, now=later)
        store.commit(rows(over), Durability.FULL)
    again = RevocationBook()
    held = again.tokens
    again.apply(again.revoke_identity("somebody", WALL), now=0.0)
    again.restore([*(f for _, f in TOKENS.load(store)), *(f for _, f in IDENTITIES.load(store))], now=0.0)
    assert (again.tokens, again.identities) == (book.tokens, book.identities)
    assert again.tokens is held


class Revoking(RuleBasedStateMachine):
    """Tokens are issued, revoked and shown on a wall clock that steps; nothing revoked is ever good again."""

    def __init__(self) -> None:
        super().__init__()
        self.book = RevocationBook()
        self.wall, self.now, self.step = WALL, 0.0, 0.0
        self.issued: list[tuple[str, float]] = []
        self.ended: set[str] = set()

    @precondition(lambda self: not self.step)
    @rule(ttl=st.integers(1, MAX_TTL_S))
    def issue(self, ttl: int) -> None:
        self.issued.append((f"t{len(self.issued)}", self.wall + ttl))

    @precondition(lambda self: self.issued)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        jti, exp = data.draw(st.sampled_from(self.issued))
        fact = self.book.revoke_token(jti, exp, self.wall)
        if fact is not None:
            self.book.apply(fact, self.now)
            self.ended.add(jti)

    @rule(seconds=st.integers(1, 4_000))
    def wait(self, seconds: int) -> None:
        self.wall += seconds
        self.now += seconds
        self.trim()

    @rule(seconds=st.integers(-100, 100_000))
    def set_the_clock(self, seconds: int) -> None:
        self.wall += seconds
        self.step += seconds
        self.trim()

    @rule()
    def set_the_clock_right(self) -> None:
        self.wall -= self.step
        self.step = 0.0

    def trim(self) -> None:
        over = self.book.drop(self.wall, self.now)
        if over is not None:
            self.book.apply(over, self.now)

    @invariant()
    def what_was_revoked_stays_so_until_it_has_expired_by_the_right_clock(self) -> None:
        right = self.wall - self.step
        assert {jti for jti, exp in self.issued if jti in self.ended and exp > right} <= set(self.book.tokens)

    @invariant()
    def nothing_is_kept_for_what_was_never_revoked(self) -> None:
        assert set(self.book.tokens) <= self.ended


TestRevoking = Revoking.TestCase
