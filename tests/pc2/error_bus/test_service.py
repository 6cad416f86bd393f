from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api.error_bus import ERRORS_CHANGED, SERVICE, VERBS, ErrorGroupChanged
from common.api.words import Cursor
from common.client.following import Event
from common.errors import BadRequest, Conflict, NotFound, StorageUnavailable
from common.service.shell import ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.store.sqlite import SqliteStore
from pc2.error_bus.book import ErrorBook, Limits
from pc2.error_bus.service import ErrorBus
from tests.lab.nowhere import nobody_but
from tests.lab.service_process import ask, until
from tests.pc2.error_bus.fabric import Bus, bus

REPORT = {"agent": "reader", "error_type": "ValueError", "message": "no room for 3 files"}


async def test_a_bare_req_client_tells_lists_reads_and_resolves_an_error() -> None:
    async with bus() as errors:
        port = errors.shell.port
        told = await ask(port, "report_error", **REPORT, severity="critical", details={"n": 1}, stack="no frames")
        assert told["status"] == "success"
        group_id = told["group_id"]
        (group,) = (await ask(port, "list_error_groups", state="new", limit=5))["groups"]
        assert (group["group_id"], group["count"], group["state"]) == (group_id, 1, "new")
        assert (group["agents"], group["hosts"], group["severity"]) == (["reader"], ["pc2"], "critical")
        assert group["first_seen"] == group["last_seen"]
        detail = await ask(port, "get_error_group", group_id=group_id)
        assert (detail["by_agent"], detail["by_host"]) == ({"reader": 1}, {"pc2": 1})
        (sample,) = detail["samples"]
        assert (sample["message"], sample["details"], sample["stack"]) == (REPORT["message"], {"n": 1}, "no frames")
        resolved = await ask(port, "resolve_error_group", group_id=group_id, note="more room")
        assert (resolved["state"], resolved["resolved_by"], resolved["note"]) == ("resolved", "local@pc2", "more room")
        assert (await ask(port, "list_error_groups", state="unresolved"))["groups"] == []


@pytest.mark.parametrize(
    ("verb", "fields", "told"),
    [
        ("report_error", {**REPORT, "severity": "bad"}, "$.severity"),
        ("report_error", {**REPORT, "count": 0}, "$.count"),
        ("report_error", {**REPORT, "occurred_at": "once"}, "no RFC 3339 time"),
        ("report_error", {"agent": "reader", "message": "m"}, "error_type"),
        ("report_errors", {"sender": "s", "epoch": 1, "first_seq": 0, "reports": []}, "$.first_seq"),
        ("list_error_groups", {"state": "gone"}, "$.state"),
        ("list_error_groups", {"limit": 100_000}, "$.limit"),
    ],
)
async def test_what_cannot_be_understood_is_refused_with_its_place(verb: str, fields: Any, told: str) -> None:
    async with bus() as errors:
        with pytest.raises(BadRequest) as refused:
            await errors.call(verb, **fields)
        assert told in refused.value.message
        assert await errors.groups() == []


async def test_a_group_that_is_not_there_is_not_found() -> None:
    async with bus() as errors:
        for verb in ("get_error_group", "resolve_error_group"):
            with pytest.raises(NotFound, match="see list_error_groups"):
                await errors.call(verb, group_id="1:x")


async def test_a_huge_report_is_taken_and_kept_small() -> None:
    async with bus() as errors:
        huge = "word " * 400_000
        told = await errors.report(message=huge, stack=huge, details={"all": huge, "many": list(range(50_000))})
        detail = await errors.call("get_error_group", group_id=told["group_id"])
        assert len(msgspec.json.encode(detail)) < 65_536


async def test_a_batch_is_acknowledged_by_number_and_sent_again_counts_once() -> None:
    async with bus() as errors:
        batch: dict[str, Any] = {"sender": "mainpc/reader", "epoch": 3, "first_seq": 1, "reports": [REPORT] * 500}
        assert await errors.call("report_errors", **batch) == {"seq": 500, "taken": 500, "repeated": 0}
        assert await errors.call("report_errors", **batch) == {"seq": 500, "taken": 0, "repeated": 500}
        assert (await errors.call("report_errors", **(batch | {"reports": []})))["seq"] == 500
        assert (await errors.groups())[0]["count"] == 500
        assert errors.shell.journal.commits == 1


async def changes(errors: Bus, since: Cursor, until_change: str) -> list[str]:
    heard: list[str] = []
    stream = errors.client.events(SERVICE, [ERRORS_CHANGED.name], {ERRORS_CHANGED.name: since})
    async with asyncio.timeout(60):
        async for notice in stream:
            assert isinstance(notice, Event)
            heard.append(msgspec.json.decode(notice.body, type=ErrorGroupChanged).change)
            if heard[-1] == until_change:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    return heard


async def test_every_change_of_state_is_an_event_and_a_list_says_where_to_go_on() -> None:
    async with bus(limits=Limits(groups=1)) as errors:
        as_of = (await errors.call("list_error_groups"))["as_of"]
        group_id = (await errors.report())["group_id"]
        await errors.report()
        await errors.report(count=100)
        await errors.call("resolve_error_group", group_id=group_id)
        await errors.report()
        await errors.report("KeyError")
        assert await changes(errors, Cursor(**as_of), "forgotten") == [
            "new",
            "ongoing",
            "resolved",
            "regressed",
            "forgotten",
        ]


async def test_errors_outlive_the_service_and_regroup_in_no_way(tmp_path: Path) -> None:
    batch = {"sender": "s", "epoch": 1, "first_seq": 1, "reports": [REPORT] * 3}
    async with bus(SqliteStore(tmp_path / "error_bus.db", "one")) as errors:
        told = await errors.report(message="no room for 1 files", report_id="r")
        await errors.call("report_errors", **batch)
        before = await errors.call("get_error_group", group_id=told["group_id"])
    async with bus(SqliteStore(tmp_path / "error_bus.db", "two")) as errors:
        assert await errors.call("get_error_group", group_id=told["group_id"]) == before
        assert (await errors.call("report_errors", **batch))["repeated"] == 3
        assert (await errors.report(report_id="r"))["repeated"]
        assert (await errors.report(message="no room for 9 files"))["group_id"] == told["group_id"]
        (group,) = await errors.groups()
        assert group["count"] == 5


async def test_an_error_is_durable_before_it_is_acknowledged() -> None:
    asked: list[Durability] = []

    class Watched(MemoryStore):
        def commit(self, changes: Any, durability: Durability) -> None:
            asked.append(durability)
            super().commit(changes, durability)

    async with bus(Watched()) as errors:
        await errors.report()
    assert set(asked) == {Durability.FULL}


async def test_what_was_not_made_durable_was_not_counted_and_is_taken_when_there_is_room_again() -> None:
    store = MemoryStore()
    batch = {"sender": "s", "epoch": 1, "first_seq": 1, "reports": [REPORT]}
    async with bus(store) as errors:
        await errors.report(message=REPORT["message"])
        store.failure = StorageUnavailable("the disk is full")
        for verb, fields in (("report_error", REPORT), ("report_errors", batch)):
            with pytest.raises(StorageUnavailable):
                await errors.client.call(SERVICE, verb, fields, timeout_s=1.0)
        health = await errors.call("health_check")
        assert (health["status"], health["reasons"]) == ("degraded", ["the disk is full"])
        store.failure = None
        await until(lambda: errors.call("health_check"), lambda told: told["status"] == "ok")
        assert (await errors.groups())[0]["count"] == 1
        assert (await errors.call("report_errors", **batch))["taken"] == 1
        assert (await errors.groups())[0]["count"] == 2


async def test_what_goes_wrong_in_it_is_in_its_health_and_in_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bus() as errors:

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(ErrorBook, "take", fail)
        assert (await ask(errors.shell.port, "report_error", **REPORT))["code"] == "internal"
        told = await until(lambda: errors.call("health_check"), lambda health: health["status"] == "degraded")
        assert told["reasons"] == ["1 calls failed because of a bug in ErrorBus; its log has the story"]
        assert await errors.groups() == []


async def test_groups_forgotten_and_reports_lost_are_in_its_health() -> None:
    async with bus(limits=Limits(groups=1)) as errors:
        errors.shell.problems["other"] = "something else"
        await errors.report("A")
        await errors.report("B")
        await errors.call("report_errors", sender="s", epoch=1, first_seq=9, reports=[REPORT], lost=8)
        told = await until(lambda: errors.call("health_check"), lambda health: len(health["reasons"]) == 3)
        assert told["reasons"] == [
            "something else",
            "2 unresolved groups were forgotten to make room",
            "8 reports were lost at their senders for want of room",
        ]


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


async def test_a_port_that_is_taken_is_a_clear_end_of_the_start() -> None:
    async with bus() as errors:
        second = ErrorBus(ShellSettings(SERVICE, "pc2", errors.shell.port), nobody_but(), MemoryStore())
        with pytest.raises(Conflict, match=str(errors.shell.port)):
            await second.open()


async def test_metrics_tell_errors_groups_and_what_was_forgotten() -> None:
    async with bus(limits=Limits(groups=2)) as errors:
        group_id = (await errors.report("A", count=5, report_id="r"))["group_id"]
        await errors.report("A", report_id="r")
        await errors.call("resolve_error_group", group_id=group_id)
        await errors.call("report_errors", sender="s", epoch=1, first_seq=3, lost=2, reports=[REPORT])
        await errors.report("C")
        shown = await asyncio.to_thread(read, errors.shell.health_port)
    for line in (
        "tandem_errors_total 7.0",
        "tandem_errors_reports_total 3.0",
        "tandem_errors_repeated_total 1.0",
        "tandem_errors_lost_total 2.0",
        'tandem_errors_forgotten_total{state="resolved"} 1.0',
        'tandem_errors_forgotten_total{state="unresolved"} 0.0',
        'tandem_errors_groups{state="new"} 2.0',
        'tandem_errors_groups{state="resolved"} 0.0',
        "tandem_errors_senders 1.0",
    ):
        assert f"\n{line}\n" in shown


async def test_info_shows_every_verb_and_topic() -> None:
    async with bus() as errors:
        told = await errors.call("info")
        assert {verb.name for verb in VERBS} <= {verb["name"] for verb in told["verbs"]}
        assert ERRORS_CHANGED.name in {topic["name"] for topic in told["topics"]}
