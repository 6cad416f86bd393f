from __future__ import annotations

from typing import Any

import pytest

from common.dispatch.provider import Provider, concurrency
from common.dispatch.rule import Candidate
from common.resilience.breaker import State as Breaker


@pytest.mark.parametrize(
    ("dress", "metadata", "expected"),
    [
        ("plain", {}, 1),
        ("native", {}, 4),
        ("plain", {"concurrency": 9}, 9),
        ("plain", {"concurrency": True}, 1),
        ("plain", {"concurrency": 0}, 1),
        ("native", {"concurrency": 1_001}, 4),
        ("plain", {"concurrency": "9"}, 1),
    ],
)
def test_concurrency_is_what_the_agent_says_or_follows_its_dress(dress: Any, metadata: Any, expected: int) -> None:
    assert concurrency(dress, metadata) == expected


def test_a_candidate_is_the_provider_with_what_the_dispatcher_knows_of_it() -> None:
    provider = Provider("a", "pc2", "suspect", "speak", True, 3, Breaker.OPEN, 7.0)
    assert provider.candidate(2, 5) == Candidate("a", "pc2", "suspect", 2, 3, 5, Breaker.OPEN, 7.0)
