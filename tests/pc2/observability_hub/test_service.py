from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.api import links
from common.api import observability_hub as api
from common.errors import BadRequest, NotFound
from pc2.observability_hub.evidence import Weight
from pc2.observability_hub.probing import weigh
from tests.pc2.observability_hub.bench import HUB, Bench, running, until
from tests.pc2.observability_hub.saying import process


async def changes(bench: Bench, found: list[api.HealthChanged], live: asyncio.Event) -> None:
    import msgspec

    async for notice in bench.client.events(HUB, [api.HEALTH_CHANGED.name], live=live.set):
        found.append(msgspec.json.decode(notice.body, type=api.HealthChanged))  # type: ignore[union-attr]


def link(host: str, up: bool = True) -> links.Link:
    return links.Link(
        host=host, address="", joined=True, neighbour=True, up=up, since="", since_s=1.0, round_trip_ms=0.5, why=""
    )


async def test_everybody_that_answers_is_healthy_and_get_health_shows_it(tmp_path: Path) -> None:
    async with running(tmp_path, "a", "b") as (bench, _):
        for key in ("pc2/a", "pc2/b", "pc2", "mainpc", "mainpc/supervisor"):
            await bench.until(key, "healthy")
        bench.hosts["pc2"].links = [link("mainpc")]
        bench.hosts["mainpc"].links = [link("pc2", up=False)]
        await bench.settled()
        await until(lambda: len(bench.hub._links.show()[0].sides) == 3)
        health = await bench.health()
        assert [one.name for one in health.agents] == ["a", "b"]
        assert all(one.verdict == "healthy" and one.probed and one.latency_ms > 0 for one in health.agents)
        assert {one.host for one in health.hosts} == {"mainpc", "pc2"}
        assert all(one.vitals is not None for one in health.hosts)
        assert [one.name for one in health.services] == ["supervisor", "supervisor"]
        (between,) = health.links
        assert [side.seen_from for side in between.sides] == [HUB, "Supervisor/pc2", "Supervisor/mainpc"]
        await until(lambda: bench.hub._links.show()[0].verdict == "degraded")
        only = await bench.health("mainpc")
        assert (len(only.hosts), only.agents, len(only.links)) == (1, [], 1)
        with pytest.raises(NotFound, match="no host 'elsewhere'; there are "):
            await bench.health("elsewhere")


async def test_a_death_told_is_published_at_once_and_once(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, _):
        await bench.settled()
        heard: list[api.HealthChanged] = []
        live = asyncio.Event()
        following = asyncio.create_task(changes(bench, heard, live))
        await live.wait()
        bench.hosts["pc2"].say(process("a", "starting", last_exit="killed by signal 9"))
        await until(lambda: heard)
        assert (heard[0].name, heard[0].was, heard[0].verdict) == ("a", "healthy", "unhealthy")
        assert heard[0].reason == "died: killed by signal 9"
        following.cancel()


async def test_an_agent_that_goes_silent_is_degraded_then_unreachable_and_healthy_again(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, agents):
        await bench.until("pc2/a", "healthy")
        gone = await asyncio.start_server(_swallow, "127.0.0.1", 0)
        port = gone.sockets[0].getsockname()[1]
        bench.hosts["pc2"].say(process("a", health_check_port=port, pid=8))
        await bench.until("pc2/a", "unreachable")
        assert "no answer within" in (await bench.health()).agents[0].reason
        bench.hosts["pc2"].say(agents["a"].process)
        await bench.until("pc2/a", "healthy")
        gone.close()


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_process_can_be_asked_over_http_and_by_a_bare_connection(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, agents):
        port, host = agents["a"].shell.health_port, bench.hosts["pc2"]
        host.say(process("web", health_check_port=port, probe="http"))
        host.say(process("bare", health_check_port=port, probe="tcp"))
        host.say(process("none", probe="none"))
        for name in ("web", "bare", "none"):
            await bench.until(f"pc2/{name}", "healthy")
        agents["a"].shell.problems["x"] = "the disk is full"
        await bench.until("pc2/web", "degraded")
        assert {one.name: one.reason for one in (await bench.health()).agents}["web"] == "the disk is full"
        agents["a"].shell.phase = "starting"
        await bench.until("pc2/web", "unhealthy")
        assert bench.verdict("pc2/bare") == "healthy"


async def test_agents_that_only_the_registry_knows_are_watched_until_they_leave_it(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, agents):
        shell = agents["a"].shell
        bench.registry.say("registered", "lone", port=shell.port, health_check_port=shell.health_port, location="")
        bench.registry.say("registered", "bare", port=shell.port, dress="plain")
        await bench.until("mainpc/lone", "healthy")
        await bench.until("pc2/bare", "healthy")
        bench.registry.say("suspect", "bare", port=shell.port, dress="plain", liveness="suspect", heard_s=12.0)
        await bench.until("pc2/bare", "degraded")
        bench.registry.say("deregistered", "lone", port=shell.port, location="")
        await until(lambda: bench.verdict("mainpc/lone") == "")


async def test_behind_a_link_services_are_called_and_agents_reached_by_the_way_the_registry_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc2.observability_hub.service._is_near", lambda _directory, _host: False)
    async with running(tmp_path, "a") as (bench, agents):
        shell, mainpc = agents["a"].shell, bench.hosts["mainpc"]
        mainpc.say(process("core_orchestrator", kind="service", health_check_port=1))
        mainpc.say(process("far", health_check_port=1))
        mainpc.say(process("unknown", health_check_port=1))
        health = {"health_check_port": shell.health_port, "location": "mainpc", "dress": "plain"}
        bench.registry.say("registered", "far", port=shell.port, **health)
        bench.registry.say("registered", "native", port=shell.port, location="mainpc")
        bench.registry.say("registered", "lost", port=1, **(health | {"host": "nowhere"}))
        await bench.until("mainpc/native", "healthy")
        await bench.until("mainpc/core_orchestrator", "healthy")
        far = bench.hub._ward.find("mainpc/far")
        assert far is not None
        await until(lambda: far.relayed is not None and far.evidence.latency_s > 0)
        assert bench.verdict("mainpc/far") == "healthy"
        shown = {one.name: one for one in (await bench.health("mainpc")).agents}
        assert (shown["unknown"].verdict, shown["unknown"].probed) == ("healthy", False)
        assert shown["unknown"].reason == "ready, as its supervisor says"
        assert (shown["lost"].verdict, shown["lost"].reason) == ("unknown", "no way leads to it")


async def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, _):
        await bench.until("pc2/a", "healthy")
        import msgspec

        from common.api import core_orchestrator as registry
        from common.api import supervisor
        from common.api.words import Empty

        host = bench.hosts["pc2"].shell.publisher
        host.publish(supervisor.PROCESS_CHANGED, "a", Empty())
        bench.registry.shell.publisher.publish(registry.AGENTS_CHANGED, "a", Empty())
        bench.hosts["pc2"].say(process("a", "crash-looping", last_exit="exit 1"))
        await bench.until("pc2/a", "unhealthy")
        assert msgspec


async def test_a_host_that_goes_takes_its_link_and_processes_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, _):
        await bench.until("mainpc", "healthy")
        await bench.hosts["mainpc"].shell.close(drain_s=0)
        await bench.until("mainpc", "unreachable")
        await until(lambda: bench.hub._links.show()[0].verdict == "unreachable")
        health = await bench.health()
        (between,) = health.links
        assert not between.sides[0].up
        gone = next(one for one in health.services if one.host == "mainpc")
        assert (gone.verdict, gone.because) == ("unreachable", "mainpc")
        assert bench.verdict("pc2") == "healthy"
        await until(lambda: any("supervisor is not heard" in lack for lack in bench.hub.shell.report().lacks))


async def test_figures_and_vitals_become_history(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, agents):
        bench.registry.say("registered", "a", port=agents["a"].shell.port)
        await until(lambda: bench.hub._scraping.figures(api.GetFigures(name="a")))
        figures = await bench.client.call(HUB, api.GET_FIGURES, api.GetFigures(name="a"))
        assert {verb.verb for verb in figures.processes[0].verbs} >= {"stats"}
        everyone = await bench.client.call(HUB, api.GET_FIGURES, api.GetFigures())
        assert {one.name for one in everyone.processes} >= {"a", "supervisor"}
        asked = api.QueryMetrics(
            name="tandem_verb_requests_total", agent="a", labels={"verb": "stats"}, aggregate="max"
        )
        history = await bench.client.call(HUB, api.QUERY_METRICS, asked)
        assert history.series[0].labels == {"host": "pc2", "verb": "stats"}
        bench.hosts["pc2"].say_vitals(cpu_pct=50.0)
        await until(lambda: any(key.name == "tandem_host_cpu_ratio" for key in bench.hub._recording.table._series))


async def test_a_verb_that_is_stuck_degrades_a_process_that_answers_every_ping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc2.observability_hub.work.STUCK_S", 0.4)
    monkeypatch.setattr("pc2.observability_hub.scraping.SCRAPE_S", 0.2)
    async with running(tmp_path, "a") as (bench, agents):
        bench.registry.say("registered", "a", port=agents["a"].shell.port)
        await bench.until("pc2/a", "healthy")
        meter = agents["a"].shell.meters.of("think")
        meter.begin()
        await bench.until("pc2/a", "degraded")
        assert "think is stuck: 1 calls under way" in (await bench.health()).agents[0].reason
        meter.end(1.0)
        await bench.until("pc2/a", "healthy")


async def test_a_hub_whose_loop_stood_still_suspects_nobody_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, "a", "b") as (bench, _):
        await bench.settled()
        seen = bench.hub.shell.publisher.cursor(api.HEALTH_CHANGED.name)
        _stand_still(1.0)
        await until(lambda: bench.hub.shell.report().status == "degraded")
        assert "the hub itself was" in (await bench.health()).doubt
        await until(lambda: bench.hub.shell.report().status == "ok")
        assert bench.hub.shell.publisher.cursor(api.HEALTH_CHANGED.name) == seen


def _stand_still(seconds: float) -> None:
    import time

    time.sleep(seconds)


def points(*values: float, name: str = "load", **fields: Any) -> list[api.MetricPoint]:
    return [api.MetricPoint(name=name, value=value, **fields) for value in values]


async def test_points_are_taken_once_and_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        push = api.PushMetrics(agent="a", points=points(1.0, 3.0, labels={"gpu": "0"}), sender="a@pc2", epoch=1, seq=1)
        assert (await bench.client.call(HUB, api.PUSH_METRICS, push)).taken == 2
        assert (await bench.client.call(HUB, api.PUSH_METRICS, push)).repeated
        odd = await bench.client.call(HUB, api.PUSH_METRICS, api.PushMetrics(agent="a", points=points(float("inf"))))
        assert (odd.taken, odd.dropped, odd.reason) == (0, 1, "not a finite number")
        await bench.hub._recording.write()
        later = api.PushMetrics(agent="a", points=points(5.0, labels={"gpu": "0"}), sender="a@pc2", epoch=1, seq=2)
        await bench.client.call(HUB, api.PUSH_METRICS, later)
        now = datetime.now(UTC)
        asked = api.QueryMetrics(
            name="load", start=now - timedelta(seconds=50), end=now + timedelta(seconds=9), step_s=60
        )
        for aggregate, value in (("count", 3.0), ("max", 5.0), ("avg", 3.0)):
            found = await bench.client.call(HUB, api.QUERY_METRICS, _with(asked, aggregate))
            told = [point.value for point in found.series[0].points]
            assert (max(told) if aggregate != "count" else sum(told)) == value or len(told) > 1
        with pytest.raises(BadRequest):
            await bench.client.call(HUB, api.QUERY_METRICS, api.QueryMetrics(name="load", start=now, end=now))


def _with(asked: api.QueryMetrics, aggregate: Any) -> api.QueryMetrics:
    import msgspec

    return msgspec.structs.replace(asked, aggregate=aggregate)


async def test_history_and_verdicts_outlive_a_restart_and_nobody_is_told_twice(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, _):
        await bench.until("pc2/a", "healthy")
        push = api.PushMetrics(agent="a", points=points(7.0), sender="a@pc2", epoch=1, seq=4)
        await bench.client.call(HUB, api.PUSH_METRICS, push)
        await bench.settled()
        since = (await bench.health()).agents[0].since
        await bench.close()
        bench.hub = bench.new_hub()
        await bench.open()
        await bench.until("pc2/a", "healthy")
        await until(lambda: bench.hub._probing.done > 3)
        assert (await bench.health()).agents[0].since == since
        assert (await bench.client.call(HUB, api.PUSH_METRICS, push)).repeated
        found = await bench.client.call(HUB, api.QUERY_METRICS, api.QueryMetrics(name="load", aggregate="last"))
        assert [point.value for point in found.series[0].points] == [7.0]
        await bench.settled()
        assert bench.hub.shell.publisher.cursor(api.HEALTH_CHANGED.name).seq == 0


async def test_a_disk_that_takes_no_history_is_a_problem_and_points_wait_for_it(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        recording = bench.hub._recording
        path = tmp_path / "metrics.db"
        await asyncio.to_thread(recording._history.close)
        path.unlink()
        path.mkdir()
        await bench.client.call(HUB, api.PUSH_METRICS, api.PushMetrics(agent="a", points=points(1.0)))
        await recording.write()
        assert "history of metrics cannot be kept" in bench.hub.shell.report().reasons[0]
        found = await bench.client.call(HUB, api.QUERY_METRICS, api.QueryMetrics(name="load"))
        assert found.series[0].points[0].value == 1.0
        path.rmdir()
        await recording.write()
        assert bench.hub.shell.report().status == "ok"
        assert recording._waiting == []


async def test_a_store_that_takes_nothing_keeps_no_verdict_from_being_told(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, _):
        await bench.settled()
        bench.store.full = True
        seen = bench.hub.shell.publisher.cursor(api.HEALTH_CHANGED.name).seq
        bench.hosts["pc2"].say(process("a", "crash-looping", last_exit="exit 1"))
        await bench.until("pc2/a", "unhealthy")
        assert bench.hub.shell.publisher.cursor(api.HEALTH_CHANGED.name).seq == seen + 1
        await until(lambda: bench.hub.shell.journal.failures)
        bench.store.full = False
        await until(lambda: b"unhealthy" in dict(bench.store.load("health")).get("pc2/a", b""))


async def test_the_exposition_shows_verdicts_vitals_and_links(tmp_path: Path) -> None:
    async with running(tmp_path, "a") as (bench, _):
        await bench.until("pc2/a", "healthy")
        await until(bench.hub._links.show)
        await until(lambda: bench.hub._ward.hosts["pc2"].vitals)
        text = bench.hub.shell.metrics.exposition().decode()
        assert 'tandem_process_verdict{because="",host="pc2",kind="agent",name="a"} 0.0' in text
        assert 'tandem_host_verdict{host="pc2"} 0.0' in text
        assert 'tandem_link_up{host="pc2",peer="mainpc",seen_from="ObservabilityHub"} 1.0' in text
        assert 'tandem_host_disk_free_bytes{host="pc2"} 90.0' in text
        assert 'tandem_process_crash_looping{host="pc2",name="a"} 0.0' in text


@pytest.mark.parametrize(
    ("answer", "weight", "reason"),
    [
        ({"status": "ok", "ready": True}, Weight.WELL, ""),
        ({"status": "success"}, Weight.WELL, ""),
        ({"status": "degraded", "ready": True, "reasons": ["disk"]}, Weight.WEAK, "disk"),
        ({"status": "odd", "ready": True}, Weight.WEAK, "it says odd"),
        ({"status": "unhealthy", "ready": True}, Weight.UNWELL, "it says that it is unhealthy"),
        ({"status": "ok", "ready": False}, Weight.UNWELL, "it says ok, not ready"),
        ({"status": "error"}, Weight.UNWELL, "it says error, not ready"),
    ],
)
def test_a_health_answer_is_weighed_by_what_it_says(answer: dict[str, Any], weight: Weight, reason: str) -> None:
    assert weigh(answer) == (weight, reason)


async def test_many_are_probed_in_parallel(tmp_path: Path) -> None:
    names = [f"agent{number}" for number in range(40)]
    async with running(tmp_path, *names[:8]) as (bench, agents):
        ports = [one.shell.health_port for one in agents.values()]
        for number, name in enumerate(names[8:]):
            bench.hosts["pc2"].say(process(name, health_check_port=ports[number % 8]))
        for name in names:
            await bench.until(f"pc2/{name}", "healthy")
        done = bench.hub._probing.done
        await until(lambda: bench.hub._probing.done - done >= len(names))
