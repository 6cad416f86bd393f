"""One model: what is learned of its loads, and how it is shown."""

from __future__ import annotations

from common.config.units import Duration
from common.supervisor.models.managed import Held, Serving
from tests.common.supervisor.models.desk import GIB, Desk, model


def test_learned_seconds_and_bytes_go_before_what_was_declared() -> None:
    desk = Desk(model("a", load_s=Duration(20.0)))
    managed = desk.managed("a")
    assert managed.seconds(desk.footprints) == (20.0, True)
    desk.footprints.loaded(managed.key, "cold", 5.0, 4 * GIB)
    assert managed.seconds(desk.footprints) == (5.0, True)
    for _ in range(40):
        desk.footprints.looked(managed.key, 6 * GIB, 60.0)
    assert managed.need_bytes(desk.footprints) > 6 * GIB
    desk.loaded("a")
    assert managed.tier == "cached"


def test_a_model_that_was_found_loaded_is_ready_without_a_load() -> None:
    desk = Desk(model("a", command=[], url="http://127.0.0.1:11434"))
    held = Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB)
    serving = Serving(url="http://127.0.0.1:11434", upstream="a:latest", pid=7, start_time=8)
    desk.roster.found("a", held, serving, desk.now)
    shown = desk.managed("a").shown("h", desk.footprints, desk.now + 9)
    assert (shown.state, shown.upstream, shown.pid, shown.idle_s, shown.adopted) == ("ready", "a:latest", 7, 9.0, True)
    assert desk.roster.of_lease("l-a") is desk.managed("a")
    assert desk.roster.of_lease("l-b") is None
