from __future__ import annotations

from benchmarks.vram.granting import decided_us, table, told_us


def test_every_decision_grants_and_leaves_the_table_as_it_was() -> None:
    made = table(2, 12)
    for timed in (decided_us, told_us, decided_us):
        took = timed(made, 30)
        assert len(took) == 30
        assert took == sorted(took)
        assert took[0] > 0
        assert len(made) == 12
