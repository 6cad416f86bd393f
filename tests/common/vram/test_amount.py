from __future__ import annotations

import pytest

from common.vram.amount import GIB, MIB, amount


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0.0 GiB"),
        (1_000, "1000 B"),
        (MIB, "1 MiB"),
        (64 * MIB, "64 MiB"),
        (GIB // 2, "0.5 GiB"),
        (10 * GIB, "10.0 GiB"),
    ],
)
def test_bytes_read_as_people_say_them(n: int, text: str) -> None:
    assert amount(n) == text
