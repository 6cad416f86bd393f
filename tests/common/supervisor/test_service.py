"""Supervisors on real processes, seen as a client that knows nothing of Tandem sees them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from common.config.schema import HealthProbe, Ports, SimulatedCard
from common.config.units import Duration, Size
from common.errors import Conflict
from common.supervisor.launching import choose_ports
from common.supervisor.listing import told
from tests.common.supervisor.host import Host, agent, peer, ready_when, running, startup
from tests.common.supervisor.lives import ended, gone, pid_in, until
from tests.lab.nowhere import only

pytestmark = pytest.mark.usefixtures("wrappers")


@pytest.mark.parametrize("first", ["a", "b"])
async def test_readiness_gates_hold_across_hosts_whichever_comes_up_first(tmp_path: Path, first: str) -> None:
    ports = {name: choose_ports(Ports()) for name in "ab"}
    script, health = ready_when(tmp_path / "go")
    hosts = {
        "a": startup("a", agent("top", "exec sleep 100", "b/base"), ports=ports["a"], peers={"b": peer(ports["b"])}),
        "b": startup("b", agent("base", script, health=health), ports=ports["b"], peers={"a": peer(ports["a"])}),
    }
    order = sorted(hosts, reverse=first == "b")
    async with running(tmp_path, *(hosts[name] for name in order)) as opened:
        a, b = sorted(opened, key=lambda host: host.startup.host)
        await until(lambda: b.pid("base"))
        listed = await a.ask("list_processes")
        (top,) = listed["processes"]
        assert (top["phase"], top["pid"]) == ("starting", 0)
        await until(lambda: a.process("top").waiting_for == "b/base (starting)")
        (tmp_path / "go").touch()
        assert await asyncio.wait_for(a.supervisor.started(), 60) == "ready"
        assert a.phases() == {"top": "ready"}

        top_pid = a.pid("top")
        os.kill(b.pid("base"), signal.SIGKILL)
        await until(lambda: b.phases()["base"] == "ready" and b.process("base").restarts == 1)
        assert a.pid("top") == top_pid, "the later death of a dependency restarts nobody"


async def test_a_peer_that_goes_is_lost_and_heard_again_when_it_is_back(tmp_path: Path) -> None:
    ports = {name: choose_ports(Ports()) for name in "ab"}
    late = agent("late", "exec sleep 100", "b/base", enabled=False)
    one = startup("a", late, ports=ports["a"], peers={"b": peer(ports["b"])})
    other = startup("b", agent("base"), ports=ports["b"])
    async with running(tmp_path, one) as (a,):
        async with running(tmp_path, other):
            await until(lambda: "peer b" not in a.supervisor.shell.lacks)
        await until(lambda: "peer b" in a.supervisor.shell.lacks)
        assert "b's supervisor is not heard" in a.supervisor.shell.lacks["peer b"]
        await a.ask("start_agent", agent_name="late")
        await until(lambda: a.process("late").waiting_for == "b/base (b was not heard of)")
        async with running(tmp_path, other):
            await until(lambda: a.phases() == {"late": "ready"})


async def test_a_process_that_is_called_like_a_problem_ends_none(tmp_path: Path) -> None:
    async with running(tmp_path, startup("h", agent("cards"))) as (host,):
        await until(lambda: host.phases() == {"cards": "ready"})
        first = host.pid("cards")
        host.supervisor.shell.problems["cards"] = "h:0 has fallen off the bus"
        os.kill(first, signal.SIGKILL)
        await until(lambda: host.phases() == {"cards": "ready"} and host.pid("cards") != first)
        assert host.supervisor.shell.problems["cards"] == "h:0 has fallen off the bus"


async def test_a_crash_loop_is_told_with_the_last_lines_of_standard_error(tmp_path: Path) -> None:
    broken = agent("broken", "echo no model >&2; exit 3", health=HealthProbe("tcp"))
    async with running(tmp_path, startup("h", agent("top", "exec sleep 9", "broken"), broken, agent("fine"))) as (
        host,
    ):
        assert await asyncio.wait_for(host.supervisor.started(), 60) == "failed"
        listed = {process["name"]: process for process in (await host.ask("list_processes"))["processes"]}
        assert listed["broken"]["phase"] == "crash-looping"
        assert listed["broken"]["stderr_tail"] == ["no model"]
        assert listed["broken"]["restarts"] == 2
        assert listed["fine"]["phase"] == "ready"
        text = told("h", host.supervisor.missing(), 1.0)
        assert "h/top did not become ready: waiting for broken (crash-looping)" in text
        assert "h/broken did not become ready: crash-looping exit 3; ended 3 times within 60 s\n    | no model" in text
        health = await host.ask("health_check")
        assert (health["status"], health["ready"]) == ("degraded", True)
        assert health["reasons"] == ["broken is crash-looping: exit 3; ended 3 times within 60 s"]


async def test_a_bare_client_starts_stops_and_restarts_processes(tmp_path: Path) -> None:
    async with running(tmp_path, startup("h", agent("a"), agent("spare", enabled=False))) as (host,):
        await host.supervisor.started()
        assert host.phases() == {"a": "ready", "spare": "stopped"}
        begun = await host.ask("start_agent", agent_name="spare")
        assert begun["status"] == "success"
        assert begun["operation_id"].startswith("op-")
        await until(lambda: host.phases()["spare"] == "ready")

        first = host.pid("a")
        assert (await host.ask("restart_agent", agent_name="a"))["phase"] == "draining"
        await until(lambda: host.pid("a") not in (0, first))
        assert ended(first)

        await host.ask("stop_agent", agent_name="a")
        await until(lambda: host.phases()["a"] == "stopped")
        refused = await host.ask("stop_agent", agent_name="b")
        assert (refused["code"], refused["error"]) == ("not_found", "no process 'b' in this host's startup file")


async def test_a_bare_client_reads_logs_vitals_and_cards(tmp_path: Path) -> None:
    file = startup("h", agent("a", "echo one; echo two >&2; exec sleep 100"))
    cards = [SimulatedCard(Size(8 * 2**30), "small")]
    async with running(tmp_path, msgspec.structs.replace(file, simulated_cards=cards)) as (host,):
        await host.supervisor.started()
        log = tmp_path / "h" / "logs" / "a.log"
        await until(lambda: log.exists() and len(log.read_bytes()) == 8)
        read = await host.ask("read_log", agent_name="a", offset=0)
        assert (sorted(read["text"].split()), read["next_offset"]) == (["one", "two"], 8)
        assert (await host.ask("read_log", agent_name="b"))["code"] == "not_found"
        assert (await host.ask("read_log", agent_name="supervisor"))["status"] == "success"
        vitals = await host.ask("get_vitals")
        assert vitals["memory_total_bytes"] > vitals["memory_used_bytes"] > 0
        assert vitals["processes"] > 1
        (card,) = (await host.ask("get_gpus"))["cards"]
        assert (card["name"], card["total_bytes"], card["simulated"]) == ("small", 8 * 2**30, True)
        host.supervisor._showing.sample()
        (process,) = (await host.ask("list_processes"))["processes"]
        assert process["rss_bytes"] > 0
        assert process["uptime_s"] > 0


async def test_children_find_the_fabric_and_use_compiled_bytecode(tmp_path: Path) -> None:
    told_to = "env > $TANDEM_HOME/env.new; mv $TANDEM_HOME/env.new $TANDEM_HOME/env; exec sleep 100"
    file = msgspec.structs.replace(startup("h", agent("a", told_to)), simulated_cards=[SimulatedCard(Size(2**30))])
    told = only("CoreOrchestrator=9@h", "ResourceManager=9:8@127.0.0.1")
    environ = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "TANDEM_SERVICES": told}
    host = Host(file, tmp_path, environ)
    await host.supervisor.open()
    await until((tmp_path / "env").exists)
    given = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    await host.stop()
    assert "PYTHONDONTWRITEBYTECODE" not in given
    assert given["TANDEM_SIMULATED_CARDS"] == str(tmp_path / "h" / "cards")
    places = given["TANDEM_SERVICES"].split(",")
    assert f"Supervisor/h={file.supervisor.port}:{file.supervisor.events_port}@127.0.0.1" in places
    assert "CoreOrchestrator=9@h" in places
    assert "ResourceManager=9:8@127.0.0.1" in places


async def test_everything_stops_in_reverse_order_and_nothing_is_started_meanwhile(tmp_path: Path) -> None:
    def traced(name: str) -> str:
        return f"trap 'echo {name} >> {tmp_path}/order; exit 0' TERM; echo > {tmp_path}/{name}; while :; do sleep 0.01; done"

    agents = [agent("base", traced("base")), agent("middle", traced("middle"), "base")]
    host = Host(startup("h", *agents, agent("top", traced("top"), after=["middle"])), tmp_path)
    await host.supervisor.open()
    await host.supervisor.started()
    await until(lambda: all((tmp_path / name).exists() for name in ("base", "middle", "top")))
    host.supervisor.stop()
    host.supervisor.stop()
    refused = await host.ask("start_agent", agent_name="base")
    assert (refused["code"], refused["error"]) == (
        "unavailable",
        "base cannot start: this host's supervisor is stopping",
    )
    await host.stop()
    assert (tmp_path / "order").read_text().split() == ["top", "middle", "base"]
    assert host.shown[-1].state == "stopping"


async def test_a_process_that_ignores_term_is_killed(tmp_path: Path) -> None:
    deaf = agent(
        "deaf", f"trap '' TERM; echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep 100", term_s=0.1
    )
    host = Host(startup("h", deaf), tmp_path)
    await host.supervisor.open()
    await until((tmp_path / "pid").exists)
    process = pid_in(tmp_path / "pid")
    await host.stop()
    assert gone(process)


async def test_a_taken_port_is_told_and_launches_nothing(tmp_path: Path) -> None:
    file = startup("h", agent("a"))
    async with running(tmp_path, file):
        second = Host(startup("other", agent("b"), ports=file.supervisor), tmp_path)
        with pytest.raises(Conflict, match=f"127.0.0.1:{file.supervisor.port} is taken"):
            await second.supervisor.open()
        await second.supervisor.close()
        assert second.shown == []


async def test_one_that_is_stopped_while_it_opens_starts_nothing(tmp_path: Path) -> None:
    host = Host(startup("h", agent("a")), tmp_path)
    host.supervisor.stop()
    refused = pytest.raises(Exception, match="this host's supervisor is starting")
    with refused:
        host.supervisor.ask("a", "start")
    await host.supervisor.open()
    assert await host.supervisor.started() == "starting"
    await host.supervisor.finished()
    assert host.phases() == {"a": "stopped"}
    await host.supervisor.close()


async def test_one_that_is_not_ready_in_time_is_a_failed_start(tmp_path: Path) -> None:
    mute = agent("mute", "exec sleep 100", health=HealthProbe("tcp", Duration(0.2), Duration(0.3)))
    async with running(tmp_path, startup("h", mute)) as (host,):
        assert await asyncio.wait_for(host.supervisor.started(), 60) == "failed"
        assert [one.entry.name for one in host.supervisor.missing()] == ["mute"]
