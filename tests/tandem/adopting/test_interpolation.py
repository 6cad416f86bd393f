from __future__ import annotations

import pytest

from tandem.adopting import interpolation
from tandem.adopting.interpolation import MAX_CHARS, Uninterpolable, filled

ENVIRON = {"A": "1", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("$A-${A}-$$A-$B.", "1-1-$A-."),
        ("${EMPTY:-d}|${EMPTY-d}|${B-d}|${A:-d}", "d||d|1"),
        ("${EMPTY:+r}|${EMPTY+r}|${B+r}|${A:+r}", "|r||r"),
        ("${A:?x}${A?x}${EMPTY?x}", "11"),
        ("${B:-${C:-${A}}}x", "1x"),
        ("no variable", "no variable"),
    ],
)
def test_a_text_is_filled_in_as_compose_does(text: str, meant: str) -> None:
    assert interpolation.text(text, ENVIRON) == meant


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${B:?say it}", "needs the variable B, which is not set: say it"),
        ("${EMPTY:?}", "needs the variable EMPTY, which is not set$"),
        ("${A", "a brace that is never closed"),
        ("5$", "a dollar without a variable"),
        ("${1}", r"has no variable in \$\{1\}"),
        ("${A.b}", "has no variable in"),
        ("${B:-" * 50 + "x" + "}" * 50, "variables in variables more than 16 deep"),
        ("x" * (MAX_CHARS + 1), "is longer than"),
    ],
)
def test_what_cannot_be_filled_in_says_why(text: str, told: str) -> None:
    with pytest.raises(Uninterpolable, match=told):
        interpolation.text(text, ENVIRON)


def test_values_of_all_shapes_are_filled_in() -> None:
    assert filled({"$A": ["$A", {"k": "${A}"}], "n": 5}, ENVIRON) == {"$A": ["1", {"k": "1"}], "n": 5}
