from __future__ import annotations

import random
import re

from common.ids import MAX_WIRE_INT, new_id


def test_an_id_is_its_kind_and_64_random_bits() -> None:
    rng = random.Random(1)
    ids = {new_id("lease", rng) for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"lease-[0-9a-f]{16}", found) for found in ids)


def test_the_largest_integer_on_the_wire_is_one_that_a_double_keeps() -> None:
    assert int(float(MAX_WIRE_INT)) == MAX_WIRE_INT
    assert int(float(MAX_WIRE_INT + 2)) != MAX_WIRE_INT + 2
