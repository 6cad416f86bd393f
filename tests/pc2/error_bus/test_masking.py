from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc2.error_bus.masking import READ_CHARS, mask

SAME = {
    "numbers": ("needs 10.0 GiB, 3 free on card 0", "needs 9.25 GiB, 12 free on card 1"),
    "numbers in words": ("worker12 ended", "worker7 ended"),
    "exponents": ("loss is 1e-05", "loss is 3.2e+10"),
    "hex": ("object at 0x7f3a", "object at 0x1"),
    "ids": ("lease-3f2a09c1d4e5b677 is gone", "lease-a11ce00000000001 is gone"),
    "uuids": ("job 550e8400-e29b-41d4-a716-446655440000", "job 6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    "paths": ("cannot open /tmp/a.txt", "cannot open /home/me/models/b.bin"),
    "windows paths": (r"cannot open C:\Users\me\a.txt", r"cannot open D:\b.txt"),
    "relative paths": ("cannot open ./a/b.txt", "cannot open ~/c"),
    "quoted": ("no model 'whisper large'", 'no model "llama"'),
    "backquoted": ("no verb `reed`", "no verb `wirte`"),
    "addresses": ("10.0.0.2:7001 is away", "192.168.1.7 is away"),
    "addresses of six": ("fe80::1 is away", "2001:db8:0:0:0:0:0:1 is away"),
    "loopback of six": ("::1 is away", "fe80::1:2 is away"),
    "urls": ("cannot reach tcp://127.0.0.1:7001", "cannot reach http://pc2/models?x=1"),
    "times": ("since 2026-01-31T12:00:00.123Z", "since 2025-12-01 01:02:03,456+01:00"),
    "dates": ("since 2026-01-31", "since 2025-12-01"),
    "clocks": ("since 12:00:01", "since 01:59:07.5"),
    "white space": ("a  b\n\tc", "a b c"),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME.keys())
def test_what_varies_does_not_tell_messages_apart(pair: tuple[str, str]) -> None:
    assert mask(pair[0]) == mask(pair[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cannot open /a", "cannot close /a"),
        ("no model 'a'", "no card 'a'"),
        ("std::vector is full", "std::string is full"),
        ("and/or", "either/or"),
        ("facade", "decade"),
        ("deadline passed", "deadlock found"),
        ("can't read John's file", "can't write John's file"),
    ],
)
def test_what_is_said_tells_them_apart(one: str, other: str) -> None:
    assert mask(one) != mask(other)


def test_a_template_reads_like_the_message() -> None:
    message = "whisper needs 10.0 GiB; 3.2 GiB free on mainpc:0, see '/var/log/x' or http://h/p"
    assert mask(message) == "whisper needs <n> GiB; <n> GiB free on mainpc:<n>, see <text> or <url>"


def test_only_the_beginning_of_a_huge_message_counts() -> None:
    begin = "no room " * (READ_CHARS // 8)
    assert mask(begin + "one" * 1_000_000) == mask(begin + "another") == begin.strip()


@settings(max_examples=60, deadline=None)
@given(st.text(), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_number_after_any_text_is_never_what_differs(text: str, one: int, other: int) -> None:
    begin = f"{text} x "[: READ_CHARS - 20]
    assert mask(f"{begin}{one} y") == mask(f"{begin}{other} y")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="'\"`/\\:.-+~0123456789abcdefx \n", max_size=3_000))
def test_any_text_has_a_bounded_template(text: str) -> None:
    assert len(mask(text)) <= 6 * READ_CHARS
    assert mask(text) == mask(text)
