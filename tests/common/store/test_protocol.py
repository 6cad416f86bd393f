from __future__ import annotations

from common.store.protocol import Change, net_effect


def test_only_the_last_change_of_each_row_counts() -> None:
    changes = [
        Change("t", "a", b"1"),
        Change("t", "b", b"1"),
        Change("t", "b", None),
        Change("u", "a", None),
        Change("t", "a", b"2"),
    ]
    assert net_effect(changes) == ([("t", "a", b"2")], [("t", "b"), ("u", "a")])


def test_no_changes_have_no_effect() -> None:
    assert net_effect([]) == ([], [])
