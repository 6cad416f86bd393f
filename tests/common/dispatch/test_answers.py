from __future__ import annotations

from typing import Any

import pytest

from common.dispatch.answers import Parts, result_of
from common.errors import BadRequest, TooLarge


def test_a_reply_of_nothing_but_a_result_is_that_result() -> None:
    assert result_of({"result": 3}, [], plain=False) == 3
    assert result_of({"result": 3, "ms": 1}, [], plain=False) == {"result": 3, "ms": 1}


def test_a_plain_reply_leaves_its_envelope_behind() -> None:
    assert result_of({"status": "success", "_id": 4, "text": "hi"}, [], plain=True) == {"text": "hi"}
    assert result_of({"status": "warm"}, [], plain=False) == {"status": "warm"}


def test_streamed_items_are_together_again_in_the_result() -> None:
    heard: list[Any] = []
    parts = Parts(heard.append, most_bytes=1_000)
    parts.take({"item": "a"})
    parts.take({"item": "b", "n": 1})
    assert heard == parts.kept == ["a", {"item": "b", "n": 1}]
    assert result_of({"count": 2, "items": []}, parts.kept, plain=False) == {"count": 2, "items": heard}


def test_a_stream_of_more_bytes_than_a_result_may_have_ends_the_call() -> None:
    parts = Parts(lambda _: None, most_bytes=20)
    parts.take({"item": "a"})
    with pytest.raises(TooLarge, match="more than 20 bytes"):
        parts.take({"item": "b" * 20})


def test_a_result_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(BadRequest, match="integer beyond"):
        result_of({"n": 2**60}, [], plain=False)
