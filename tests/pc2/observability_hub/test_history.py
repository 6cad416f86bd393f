from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from common.errors import StorageUnavailable
from pc2.observability_hub.asking import LEVELS, merged, span
from pc2.observability_hub.deliveries import Delivered
from pc2.observability_hub.history import TOUCH_S, History
from pc2.observability_hub.series import Bucket, Closed, SeriesKey

NOW = 1_700_000_000.0
X = SeriesKey("x", "a", (("verb", "ping"),))


def closed(start: float, *points: float, key: SeriesKey = X) -> Closed:
    begin = int(start) - int(start) % 10
    return Closed(key, "gauge", Bucket(begin, len(points), sum(points), min(points), max(points), points[-1]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pc2" / "metrics.db"


def read(history: History, ago_s: float, now: float = NOW, key: SeriesKey = X) -> list[Bucket]:
    exact = span(now - ago_s, now + 10, 1, now) if ago_s < 3_000 else span(now - ago_s, now + 10, ago_s / 1_000, now)
    found, _ = history.read(key.name, key.agent, dict(key.labels), exact)
    return merged(found[0][2], exact) if found else []


def test_pieces_of_a_bucket_are_added_up_at_every_level(path: Path) -> None:
    history = History(path)
    history.write([closed(NOW, 1.0, 3.0)], [], NOW)
    history.write([closed(NOW, 8.0), closed(NOW - 10, 2.0)], [], NOW)
    assert [(one.count, one.total, one.last) for one in read(history, 60)] == [(1, 2.0, 2.0), (3, 12.0, 8.0)]
    for ago_s in (50_000, 1_000_000):
        assert sum(one.count for one in read(history, ago_s)) == 4
    history.close()
    history.close()


def test_history_outlives_its_process(path: Path) -> None:
    first = History(path)
    first.write([closed(NOW, 4.0)], [Delivered("s", 2, 7)], NOW)
    second = History(path)
    first._connection.close()  # type: ignore[union-attr]  # as kill -9 leaves it
    assert second.delivered() == [Delivered("s", 2, 7)]
    second.write([closed(NOW, 6.0)], [Delivered("s", 2, 8)], NOW)
    assert [(one.count, one.most) for one in read(second, 60)] == [(2, 6.0)]
    assert second.delivered() == [Delivered("s", 2, 8)]
    second.close()


def test_each_level_forgets_what_is_older_than_it_keeps(path: Path) -> None:
    history = History(path)
    history.write([closed(NOW, 1.0)], [], NOW)
    later = NOW + LEVELS[0].kept_s + 60
    history.write([closed(later, 2.0)], [], later)
    counts = [
        history._connection.execute(f"SELECT count(*) FROM every_{level.step_s}").fetchone()[0]  # type: ignore[union-attr]
        for level in LEVELS
    ]
    assert counts == [1, 2, 2]
    assert [one.last for one in read(history, 50_000, later)] == [1.0, 2.0]
    history.close()


def test_a_series_without_any_bucket_left_is_forgotten_and_so_is_an_old_sender(path: Path) -> None:
    history = History(path)
    history.write([closed(NOW, 1.0)], [Delivered("s", 1, 1)], NOW)
    late = NOW + LEVELS[-1].kept_s + 86_400
    history.write([closed(late, 1.0, key=SeriesKey("y", "a", ()))], [], late)
    history.forget(late)
    assert history._connection.execute("SELECT name FROM series").fetchall() == [("y",)]  # type: ignore[union-attr]
    assert history.delivered() == []
    history.write([closed(late, 1.0)], [], late)
    assert len(read(history, 60, late)) == 1
    history.close()


def test_a_series_that_goes_on_is_found_whenever_it_was_noted_as_heard_of_last(path: Path) -> None:
    history = History(path)
    for ago_s in range(2 * TOUCH_S, -1, -60):
        history.write([closed(NOW - ago_s, 1.0)], [], NOW - ago_s)
        assert len(read(history, 30, NOW - ago_s)) == 1
    assert len(read(history, 2 * TOUCH_S)) == 11
    history.close()


def test_series_that_ended_a_while_ago_take_no_room_from_those_that_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc2.observability_hub.history.MAX_SERIES", 2)
    history = History(path)
    keys = [SeriesKey("x", "a", (("run", str(number)),)) for number in range(5)]
    history.write([closed(NOW - 200, 1.0, key=key) for key in keys[:3]], [], NOW - 200)
    history.write([closed(NOW, 1.0, key=key) for key in keys[3:]], [], NOW)
    found, more = history.read("x", "", {}, span(NOW - 60, NOW + 10, 1, NOW))
    assert ([key for key, _, _ in found], more) == (keys[3:], 0)
    found, more = history.read("x", "", {}, span(NOW - 300, NOW + 10, 1, NOW))
    assert ([key for key, _, _ in found], more) == (keys[:2], 3)
    history.close()


def test_a_question_is_narrowed_by_agent_and_labels_and_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc2.observability_hub.history.MAX_SERIES", 2)
    history = History(path)
    keys = [SeriesKey("x", agent, (("n", str(n)),)) for agent in ("a", "b") for n in range(2)]
    history.write([closed(NOW, 1.0, key=key) for key in keys], [], NOW)
    exact = span(NOW - 60, NOW + 10, 10, NOW)
    assert [key for key, _, _ in history.read("x", "b", {}, exact)[0]] == keys[2:]
    assert [key for key, _, _ in history.read("x", "", {"n": "1"}, exact)[0]] == [keys[1], keys[3]]
    assert history.read("x", "", {}, exact)[1] == 2
    assert history.read("z", "", {}, exact) == ([], 0)
    history.close()


def test_many_series_are_known_again_when_their_numbers_were_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc2.observability_hub.history.IDS_KEPT", 1)
    history = History(path)
    other = SeriesKey("y", "a", ())
    for _ in range(3):
        history.write([closed(NOW, 1.0), closed(NOW, 1.0, key=other)], [], NOW)
    assert [one.count for one in read(history, 60)] == [3]
    assert [one.count for one in read(history, 60, key=other)] == [3]
    history.close()


def test_a_file_that_cannot_be_used_says_so_and_is_tried_again(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all, and long enough to be seen as none" * 30)
    history = History(path)
    with pytest.raises(
        StorageUnavailable, match=r"metrics\.db: the history of metrics cannot be kept: .*move the file aside"
    ):
        history.write([closed(NOW, 1.0)], [], NOW)
    path.unlink()
    history.write([closed(NOW, 1.0)], [], NOW)
    assert len(read(history, 60)) == 1
    history.close()


def test_a_file_of_a_newer_tandem_is_left_alone(path: Path) -> None:
    first = History(path)
    first.write([], [], NOW)
    first.close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StorageUnavailable, match="it has schema 99"):
        History(path).delivered()
