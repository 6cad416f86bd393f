from __future__ import annotations

import pytest

from common.errors import NotFound
from main_pc.core_orchestrator.metric_history import MetricHistory


def test_sixty_points_are_kept_and_the_latest_are_shown_oldest_first() -> None:
    metrics = MetricHistory()
    for second in range(100):
        metrics.add("pc2", {"load": float(second)}, f"t{second}", float(second))
    assert len(metrics.history("load", 60).points) == 60
    assert [(point.at, point.value) for point in metrics.history("load", 2).points] == [("t98", 98.0), ("t99", 99.0)]


def test_the_latest_value_has_a_source_and_an_age() -> None:
    metrics = MetricHistory()
    metrics.add("pc2", {"b.x": 1.0, "a.x": 2.0}, "t", 5.0)
    found = metrics.latest("", 8.0)
    assert list(found) == ["a.x", "b.x"]
    assert (found["a.x"].value, found["a.x"].source, found["a.x"].age_s) == (2.0, "pc2", 3.0)
    assert list(metrics.latest("b.", 8.0)) == ["b.x"]


def test_a_metric_nobody_told_of_is_not_found() -> None:
    with pytest.raises(NotFound, match="get_metrics lists"):
        MetricHistory().history("x", 1)


def test_the_metric_silent_for_longest_makes_room() -> None:
    metrics = MetricHistory(max_metrics=2)
    metrics.add("s", {"a": 1.0, "b": 1.0}, "t", 0.0)
    metrics.add("s", {"a": 2.0}, "t", 1.0)
    metrics.add("s", {"c": 1.0}, "t", 2.0)
    assert list(metrics.latest("", 2.0)) == ["a", "c"]
    assert len(metrics) == 2


def test_a_sources_metrics_go_with_it() -> None:
    metrics = MetricHistory()
    metrics.add("a", {"x": 1.0}, "t", 0.0)
    metrics.add("b", {"y": 1.0}, "t", 0.0)
    metrics.forget("a")
    assert list(metrics.latest("", 0.0)) == ["y"]
