from __future__ import annotations

import pytest

from common import errors
from common.errors import BY_CODE, Code, TandemError


def test_every_code_stands_for_one_error_and_every_error_has_a_code() -> None:
    assert set(BY_CODE) == set(Code)
    assert all(kind.code is code for code, kind in BY_CODE.items())
    assert BY_CODE[Code.INTERNAL] is errors.Internal


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    for kind in BY_CODE.values():
        assert kind.__name__ in errors.__doc__
        assert kind.code.value in errors.__doc__


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.Unavailable, errors.NoCapacity, errors.StorageUnavailable])
def test_trying_again_can_help_where_nothing_was_done(kind: type[TandemError]) -> None:
    assert kind("later").retryable


def test_nothing_else_is_worth_trying_again_unasked() -> None:
    worth = {code for code, kind in BY_CODE.items() if kind.retryable}
    assert worth == {Code.OVERLOADED, Code.UNAVAILABLE, Code.NO_CAPACITY, Code.STORAGE_UNAVAILABLE}


def test_an_error_keeps_its_sentence_its_hint_and_its_details() -> None:
    error = errors.NoCapacity("10 GiB needed, 3 free", retry_after_ms=50, need=10)
    assert (str(error), error.retry_after_ms, error.details) == ("10 GiB needed, 3 free", 50, {"need": 10})
