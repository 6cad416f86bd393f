from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.api.links import BUNDLE_FORMAT, AdmitHost, JoinHost, SignedList
from common.errors import BadRequest, Conflict, Forbidden, NotFound, TandemError
from common.supervisor.links import bundle
from common.supervisor.links.bundle import Spent
from tests.common.supervisor.links.fakes import invitation

MADE = invitation("secret", "1970-01-01T00:15:00Z")


def test_a_bundle_is_read_as_it_was_written() -> None:
    assert bundle.read(msgspec.json.encode(MADE), "f") == MADE
    assert bundle.read(msgspec.json.format(msgspec.json.encode(MADE)), "f") == MADE


def test_no_repr_shows_what_admits_a_host() -> None:
    admit = AdmitHost(secret=MADE.secret, host_key=MADE.host_key, keys=SignedList(body=b"", signature=b""))
    for shown in (repr(JoinHost(bundle=MADE)), repr(admit)):
        assert not [secret for secret in (MADE.secret_key, MADE.secret) if repr(secret) in shown]


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000, msgspec.json.encode({"format": BUNDLE_FORMAT})]
)
def test_what_is_no_bundle_is_refused_with_the_mend(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="f is no bundle of `tandem invite`, or is damaged") as refused:
        bundle.read(raw, "f")
    assert "tandem invite" in refused.value.details["mend"]


def test_another_format_is_told_by_its_name() -> None:
    with pytest.raises(BadRequest, match="of the format 'tandem-invite-9'"):
        bundle.read(msgspec.json.encode(replace(MADE, format="tandem-invite-9")), "f")


def test_a_used_one_says_when_and_by_whom() -> None:
    spent = Spent(host="pc2", inviter="mainpc", used_at="2026-01-01T00:00:00Z")
    with pytest.raises(Conflict, match="f was used at 2026-01-01T00:00:00Z by pc2"):
        bundle.read(msgspec.json.encode(spent), "f")


@given(st.data())
def test_no_changed_byte_of_a_bundle_goes_unseen(data: st.DataObject) -> None:
    raw = bytearray(msgspec.json.encode(MADE))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    try:
        read = bundle.read(bytes(raw), "f")
    except TandemError:
        return
    assert read == MADE


@pytest.mark.parametrize(
    ("change", "own", "error", "told"),
    [
        ({}, "pc3", Forbidden, "this bundle invites pc2; this host is pc3"),
        ({"inviter": "other"}, "pc2", NotFound, "the bundle is of other, which pc2's startup file does not name"),
    ],
)
def test_one_that_may_not_be_used_says_why_and_what_to_do(
    change: dict[str, Any], own: str, error: type[TandemError], told: str
) -> None:
    with pytest.raises(error, match=told) as refused:
        bundle.check(replace(MADE, **change), own, {"mainpc"})
    assert refused.value.details["mend"]


def test_a_good_one_may_be_used() -> None:
    bundle.check(MADE, "pc2", {"mainpc"})
    bundle.check_time(MADE, 899.0)


def test_a_late_one_says_when_it_expired() -> None:
    with pytest.raises(Conflict, match="the bundle expired at 1970-01-01T00:15:00Z"):
        bundle.check_time(MADE, 900.0)
    with pytest.raises(BadRequest, match="it does not say when it expires"):
        bundle.check_time(replace(MADE, expires_at="soon"), 0.0)
