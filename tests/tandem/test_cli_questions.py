from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from common.api import core_orchestrator
from common.api.basic import BreakerStats
from common.api.decisions import LeasePlan
from common.api.gpus import Gpus
from common.api.leases import Owner
from common.errors import Conflict, Forbidden, NoCapacity
from tandem.exits import Exit
from tests.tandem.conftest import Tandem, document
from tests.tandem.fabric import GIB, Fabric, agent, process, receipt


async def lease(fabric: Fabric, tandem: Tandem, host: str = "mainpc") -> None:
    request = f'{{"model": "m", "bytes": {10 * GIB}, "host": "{host}"}}'
    code, _, _ = await tandem("call", "acquire_lease", request)
    assert code == Exit.OK


# status


async def test_status_is_well_when_all_is(fabric: Fabric, tandem: Tandem) -> None:
    await lease(fabric, tandem)
    code, out, _ = await tandem("status")
    assert code == Exit.OK
    for told in (
        "mainpc  reachable",
        "Supervisor/pc2",
        "whisper",
        "alive",
        "24.0 GiB",
        "simulated",
        "leases 1 (10.0 GiB)",
    ):
        assert told in out
    assert out.endswith("all is well\n")


async def test_status_has_a_stable_document(fabric: Fabric, tandem: Tandem) -> None:
    code, out, err = await tandem("status", "--json")
    assert (code, err) == (Exit.OK, "")
    found = msgspec.json.decode(out)
    assert list(found) == [
        *("ok", "problems", "hosts", "services", "agents", "cards", "leases", "requests"),
        *("tasks", "errors", "links", "breakers"),
    ]
    assert list(found["hosts"][0]) == ["host", "reachable", "reason", "heard_s", "vitals"]
    assert list(found["services"][0]) == ["service", "host", "address", "status", "ready", "uptime_s", "reasons"]
    assert list(found["agents"][0]) == [
        *("agent_name", "host", "phase", "liveness", "reason", "restarts", "capabilities"),
    ]
    assert found["leases"].keys() == {"count", "bytes"}
    assert found["requests"].keys() == {"queued", "running"}


async def test_status_says_which_host_is_away_and_since_when(fabric: Fabric, tandem: Tandem) -> None:
    vitals = core_orchestrator.Field(value={}, source="supervisor@pc2", age_s=42.0)
    queued = core_orchestrator.Field(value={"state": "queued"}, source="core", age_s=1.0)
    fabric.facts = {"hosts": {"pc2/vitals": vitals}, "requests": {"req-1/status": queued}}
    await fabric.stop("Supervisor/pc2")
    code, out, _ = await tandem("status")
    assert code == Exit.BAD_ANSWER
    assert "unreachable, last heard 42 s ago" in out
    assert "not ok: host pc2 is unreachable: nobody listens at " in out
    assert "1 queued" in out
    assert "all is well" not in out


async def test_status_names_everything_that_is_not_ready(fabric: Fabric, tandem: Tandem) -> None:
    fabric.shells["ResourceManager"].problems["disk"] = "its disk is full"
    fabric.shells["CoreOrchestrator"].lacks["registry"] = "nothing"
    fabric.breakers = [
        BreakerStats(endpoint="tcp://a:1", state="open", calls=9, failures=9, slow=0, opened=1),
        BreakerStats(endpoint="tcp://a:2", state="closed", calls=9, failures=0, slow=0, opened=0),
    ]
    fabric.processes["mainpc"] += [
        process("llm", phase="starting", waiting_for="pc2/resource_manager is not ready"),
        process("console", kind="service", phase="crash-looping", last_exit="exit 3"),
        process("hub", kind="service", phase="starting", port=1),
    ]
    fabric.agents = [agent("whisper", liveness="suspect"), agent("stray", location="pc2", liveness="expired")]
    code, out, _ = await tandem("status", "--json")
    assert code == Exit.BAD_ANSWER
    problems = msgspec.json.decode(out)["problems"]
    assert problems[0].startswith("ResourceManager is degraded: its disk is full")
    assert "console is unhealthy and not ready: crash-looping; exit 3" in problems
    assert any(each.startswith("hub is unreachable: ") for each in problems)
    assert "agent llm on mainpc is starting: pc2/resource_manager is not ready" in problems
    assert "agent stray on pc2 is expired" in problems
    assert "agent whisper on mainpc is suspect" in problems
    assert "CoreOrchestrator's breaker of tcp://a:1 is open" in problems


async def test_status_with_nobody_there_still_answers(fabric: Fabric, tandem: Tandem) -> None:
    for name in fabric.shells:
        await fabric.stop(name)
    code, out, err = await tandem("status")
    assert (code, err) == (Exit.BAD_ANSWER, "")
    assert out.count("unreachable") >= 6


# agents, gpus, leases


async def test_agents_are_listed(fabric: Fabric, tandem: Tandem) -> None:
    fabric.agents.append(agent("reader", location="pc2", capabilities=["read", "see"]))
    code, out, _ = await tandem("agents")
    assert code == Exit.OK
    assert out.splitlines()[0].split() == [
        "AGENT",
        "HOST",
        "LIVENESS",
        "HEARD",
        "IN",
        "FLIGHT",
        "ADDRESS",
        "CAPABILITIES",
    ]
    assert "reader" in out
    assert "3 s" in out
    _, out, _ = await tandem("agents", "--host", "pc2", "--json")
    found = msgspec.json.decode(out)
    assert list(found) == ["agents", "as_of"]
    assert [each["agent_name"] for each in found["agents"]] == ["reader"]
    fabric.agents = []
    code, out, _ = await tandem("agents", "--host", "mainpc")
    assert (code, out) == (Exit.OK, "no agents are registered on mainpc\n")
    code, out, err = await tandem("agents", "--host", "attic")
    assert (code, out) == (Exit.BAD_ANSWER, "")
    assert "no host 'attic' is known here; known: mainpc, pc2" in err


async def test_gpus_are_listed_with_their_strangers(fabric: Fabric, tandem: Tandem) -> None:
    code, out, _ = await tandem("gpus")
    assert code == Exit.OK
    assert "mainpc:0" in out
    assert "24.0 GiB" in out
    assert "pc2:0: game" in out
    assert "\x1b" not in out
    _, out, _ = await tandem("gpus", "--json", "--host", "pc2")
    found = msgspec.json.decode(out)
    assert tuple(found) == Gpus.__struct_fields__
    assert [each["host"] for each in found["cards"]] == ["pc2"]


async def test_without_resource_manager_each_host_answers_for_itself(fabric: Fabric, tandem: Tandem) -> None:
    await lease(fabric, tandem)
    fabric.receipts = [receipt("lease-1", "m")]
    await fabric.stop("ResourceManager")
    await fabric.stop("Supervisor/pc2")
    for words in (["gpus"], ["leases"]):
        code, out, err = await tandem(*words)
        assert code == Exit.OK
        assert "mainpc:0" in out
        assert "ResourceManager is away" in err
        assert " of pc2 are missing: nobody listens" in err
    code, out, _ = await tandem("plan", "--vram", "10GiB")
    assert code == Exit.OK
    assert "would be granted on mainpc" in out
    code, out, _ = await tandem("why", "lease-1")
    assert code == Exit.OK
    assert "the tightest fit" in out
    await fabric.stop("Supervisor/mainpc")
    code, _, err = await tandem("gpus")
    assert code == Exit.UNAVAILABLE
    assert "neither ResourceManager nor a supervisor answers" in err


async def test_a_host_that_nobody_knows_is_said_to_be_unknown(fabric: Fabric, tandem: Tandem) -> None:
    code, _, err = await tandem("logs", "whisper", "--host", "attic")
    assert code == Exit.BAD_ANSWER
    assert "no host 'attic' is known here; known: mainpc, pc2" in err


async def test_leases_are_listed(fabric: Fabric, tandem: Tandem) -> None:
    code, out, _ = await tandem("leases")
    assert (code, out) == (Exit.OK, "no leases\n")
    await lease(fabric, tandem)
    fabric.measured["m"] = 9 * GIB
    code, out, _ = await tandem("leases")
    assert out.splitlines()[1].split() == [
        *("lease-1", "m", "mainpc:0", "10.0", "GiB", "9.0", "GiB", "in", "use", "50", "1m", "00s", "local@mainpc"),
    ]
    fabric.hidden = True
    fabric.leases["lease-1"] = msgspec.structs.replace(
        fabric.leases["lease-1"], owner=Owner(agent_name="whisper", host="mainpc", pid=12, start_time=3)
    )
    _, out, _ = await tandem("leases")
    assert "unverified" in out
    assert "with owner  whisper 12" in out
    _, out, _ = await tandem("leases", "--json")
    assert list(msgspec.json.decode(out)) == ["leases", "as_of", "missing"]


# why, plan


async def test_why_tells_the_receipts_newest_first(fabric: Fabric, tandem: Tandem) -> None:
    fabric.receipts = [
        receipt("lease-1", "m"),
        receipt("lease-1", "m", at="2026-01-02T03:05:00.000Z", decision="released", reason="its holder gave it back"),
    ]
    code, out, _ = await tandem("why", "lease-1")
    assert code == Exit.OK
    lines = out.splitlines()
    assert "released on mainpc" in lines[0]
    assert "granted on mainpc" in lines[2]
    assert lines[3] == "    mainpc:0  fits, 2.0 GiB grantable"
    _, out, _ = await tandem("why", "m", "--json", "--limit", "1")
    assert [each["decision"] for each in msgspec.json.decode(out)["receipts"]] == ["granted"]


async def test_why_of_nothing_known_is_a_bad_answer(fabric: Fabric, tandem: Tandem) -> None:
    code, out, _ = await tandem("why", "lease-9")
    assert (code, out) == (Exit.BAD_ANSWER, "nothing is remembered about lease-9\n")
    code, _, err = await tandem("why", "x" * 200)
    assert code == Exit.USAGE
    assert "1 to 128 characters" in err


@pytest.mark.parametrize(
    ("vram", "code", "told"),
    [
        ("10GiB", Exit.OK, "would be granted on mainpc"),
        ("10 B", Exit.OK, "would be granted on mainpc"),
        ("100GiB", Exit.BAD_REQUEST, "can never be granted (100.0 GiB needed): it does not fit"),
    ],
)
async def test_plan_ends_as_the_request_would(vram: str, code: Exit, told: str, fabric: Fabric, tandem: Tandem) -> None:
    ended, out, _ = await tandem("plan", "--vram", vram)
    assert ended == code
    assert out.startswith(told)


async def test_plan_of_what_would_wait_says_try_later(fabric: Fabric, tandem: Tandem) -> None:
    await lease(fabric, tandem)
    code, out, _ = await tandem("plan", "--vram", "20GiB", "--host", "mainpc", "--json")
    assert code == Exit.TRY_LATER
    assert tuple(msgspec.json.decode(out)) == LeasePlan.__struct_fields__


async def test_plan_asks_resource_manager_for_host_ram_too_and_the_hosts_where_it_is_away(
    fabric: Fabric, tandem: Tandem
) -> None:
    await lease(fabric, tandem, "pc2")
    code, out, err = await tandem("plan", "--vram", "10GiB", "--ram", "4GiB", "--json")
    assert (code, err, msgspec.json.decode(out)["host"]) == (Exit.OK, "", "mainpc")
    assert fabric.planned[-1].ram_bytes == 4 * GIB
    await fabric.stop("ResourceManager")
    await fabric.stop("Supervisor/mainpc")
    code, _, _ = await tandem("plan", "--vram", "10GiB", "--ram", "4GiB")
    assert code == Exit.TRY_LATER, "one host that answers is enough"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--vram", "10G"], "may mean 10GiB or 10GB"),
        (["--vram", "0"], "is nothing"),
        (["--vram", "10"], "'10' has no unit; write 10GiB, or 10B for bytes"),
        (["--vram", "-1GiB"], "not a size"),
        (["--vram", "1GiB", "--cards", "2", "--card", "0"], "--card names one card; leave it out for several"),
        (["--vram", "1GiB", "--share", "--exclusive"], "--share and --exclusive contradict each other"),
        (["--vram", "1GiB", "--ram", "0"], "is nothing"),
        (["--vram", "1GiB", "--priority", "101"], "101 is not in the range"),
        ([], "Missing option '--vram'"),
        (["--vram", "1GiB", "extra"], "unexpected extra argument"),
    ],
)
async def test_plan_refuses_what_it_cannot_read(words: list[str], told: str, tandem: Tandem) -> None:
    code, _, err = await tandem("plan", *words)
    assert code == Exit.USAGE
    assert told in err


# logs, agent


async def test_logs_shows_the_last_lines(fabric: Fabric, tandem: Tandem) -> None:
    fabric.log = "".join(f"line {number}\n" for number in range(100))
    code, out, _ = await tandem("logs", "whisper", "-n", "2")
    assert (code, out) == (Exit.OK, "line 98\nline 99\n")
    _, out, _ = await tandem("logs", "whisper", "--json", "-n", "1")
    assert document(out) == {
        "agent_name": "whisper",
        "host": "mainpc",
        "text": "line 99\n",
        "next_offset": len(fabric.log),
        "rotated": False,
    }
    _, out, _ = await tandem("logs", "whisper", "-n", "0")
    assert out == ""


async def test_an_empty_log_is_told(fabric: Fabric, tandem: Tandem) -> None:
    code, out, err = await tandem("logs", "whisper")
    assert (code, out, err) == (Exit.OK, "", "tandem: whisper has logged nothing yet\n")
    _, _, err = await tandem("logs", "whisper", "--json")
    assert err == ""


async def test_logs_follows_over_rotation_and_a_supervisors_absence(
    fabric: Fabric, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabric.log = "one\n"
    acts = iter(["grow", "away", "", "back", "rotate"])

    def nap(_: float) -> None:
        match next(acts, None):
            case "grow":
                fabric.log += "two\n"
            case "away" | "back" as now:
                fabric.log_is_away = now == "away"
            case "rotate":
                fabric.log = "new\n"
            case None:
                raise KeyboardInterrupt

    monkeypatch.setattr("tandem.commands.logs.time", SimpleNamespace(sleep=nap))
    code, out, err = await tandem("logs", "-f", "whisper")
    assert code == Exit.INTERRUPTED
    assert out == "one\ntwo\nnew\n"
    assert "the supervisor of mainpc is away (gone); waiting for it" in err
    assert "the log of whisper was rotated" in err


async def test_an_agent_that_no_supervisor_started_is_told_from_one_that_is_not_there(
    fabric: Fabric, tandem: Tandem
) -> None:
    code, _, err = await tandem("agent", "stop", "by-hand")
    assert code == Exit.BAD_ANSWER
    assert "no startup file of mainpc, pc2 has a process 'by-hand'" in err
    assert "one that was started by hand is stopped by hand" in err


async def test_a_process_is_found_on_its_host_and_operated(fabric: Fabric, tandem: Tandem) -> None:
    fabric.processes["pc2"] = [process("reader")]
    for word in ("start", "stop", "restart"):
        code, out, _ = await tandem("agent", word, "reader")
        assert code == Exit.OK
        assert out.startswith(f"{word} of reader on pc2 has begun (op-")
    assert fabric.operations == [("pc2", word, "reader") for word in ("start", "stop", "restart")]
    _, out, _ = await tandem("agent", "restart", "reader", "--json")
    assert document(out) == {"agent_name": "reader", "host": "pc2", "operation_id": "op-4", "phase": "starting"}


async def test_a_process_of_two_hosts_or_of_none_is_an_error(fabric: Fabric, tandem: Tandem) -> None:
    fabric.processes["pc2"] = [process("whisper")]
    code, _, err = await tandem("agent", "stop", "whisper")
    assert code == Exit.BAD_ANSWER
    assert "whisper runs on mainpc and pc2; say which with --host" in err
    code, _, _ = await tandem("agent", "stop", "whisper", "--host", "pc2")
    assert code == Exit.OK
    await fabric.stop("Supervisor/pc2")
    code, _, err = await tandem("agent", "stop", "ghost")
    assert code == Exit.BAD_ANSWER
    assert "no startup file of mainpc has a process 'ghost'; pc2 could not be asked" in err
    await fabric.stop("Supervisor/mainpc")
    code, _, _ = await tandem("agent", "stop", "ghost")
    assert code == Exit.UNAVAILABLE


# check


async def test_check_passes_what_the_repository_ships(repository: Path, tandem: Tandem) -> None:
    files = [str(repository / "config" / name) for name in ("startup_main.yaml", "startup_pc2.yaml")]
    code, out, _ = await tandem("check", *files)
    assert code == Exit.OK
    assert out.count(": ok (") == 2
    assert "(mainpc: 2 services, 0 agents)" in out
    assert "(pc2: 4 services, 0 agents)" in out
    _, out, _ = await tandem("check", "--json", files[0])
    assert document(out) == {"files": files[:1], "problems": []}


async def test_check_tells_every_problem_with_its_line(tmp_path: Path, tandem: Tandem) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "version: 1\nhost: here\nsupervisor: {port: 99999}\nagents:\n  - name: a\n    command: [nowhere]\n"
    )
    code, out, err = await tandem("check", str(wrong))
    assert code == Exit.BAD_ANSWER
    assert f"{wrong}:3: supervisor.port: " in out
    assert f"{wrong}:6: agents[0].command" in out
    assert "2 problems; nothing would be started" in err
    code, out, _ = await tandem("check", "--json", str(wrong))
    assert code == Exit.BAD_ANSWER
    found = msgspec.json.decode(out)
    assert list(found["problems"][0]) == ["file", "line", "place", "message", "mend"]
    code, out, _ = await tandem("check", str(tmp_path / "absent.yaml"))
    assert code == Exit.BAD_ANSWER
    assert "absent.yaml:1: cannot be read" in out


# call


async def test_call_finds_the_service_of_a_verb(fabric: Fabric, tandem: Tandem) -> None:
    code, out, _ = await tandem("call", "get_gpus", '{"host": "pc2"}', "--json")
    assert code == Exit.OK
    assert out.count("\n") == 1
    assert [each["host"] for each in msgspec.json.decode(out)["cards"]] == ["pc2"]
    code, out, _ = await tandem("call", "ResourceManager", "list_leases")
    assert code == Exit.OK
    assert '\n  "leases": []' in out
    code, out, _ = await tandem("call", "list_processes")
    assert msgspec.json.decode(out)["host"] == "mainpc"
    code, out, _ = await tandem("call", "list_processes", '{"host": "pc2"}')
    assert msgspec.json.decode(out)["host"] == "pc2"
    code, out, _ = await tandem("call", f"tcp://127.0.0.1:{fabric.shells['ResourceManager'].port}", "ping")
    assert msgspec.json.decode(out)["service"] == "ResourceManager"


async def test_call_reads_a_file_and_stdin(
    fabric: Fabric, tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked.json").write_text('{"host": "pc2"}')
    code, out, _ = await tandem("call", "get_gpus", f"@{tmp_path / 'asked.json'}")
    assert code == Exit.OK
    assert len(msgspec.json.decode(out)["cards"]) == 1
    with (tmp_path / "asked.json").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        code, out, _ = await tandem("call", "get_gpus", "-")
    assert len(msgspec.json.decode(out)["cards"]) == 1


async def test_call_streams_each_part_on_a_line(fabric: Fabric, tandem: Tandem) -> None:
    await lease(fabric, tandem)
    asked = f'{{"model": "n", "bytes": {20 * GIB}, "host": "mainpc", "wait_s": 30}}'
    waiting = asyncio.create_task(tandem("call", "acquire_lease", asked, "--stream"))
    while len(fabric.asked) < 2:
        await asyncio.sleep(0.01)
    fabric.end("lease-1")
    code, out, _ = await waiting
    assert code == Exit.OK
    part, final = (msgspec.json.decode(line) for line in out.splitlines())
    assert part["position"] == 1
    assert final["lease_id"] == "lease-2"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list_leases", "{nope"], "not JSON"),
        (["list_leases", "[1]"], "a request is a JSON object"),
        (["list_leases", "@/no/such/file"], "/no/such/file cannot be read: No such file"),
        (["A", "list_leases", "rubbish"], "'rubbish' is not a JSON object"),
        (["list_leases", "rubbish"], "list_leases is a verb, and 'rubbish' is not a JSON object"),
        (["", "b", "{}"], "call takes [TARGET] VERB [JSON]"),
        (["{}"], "call takes [TARGET] VERB [JSON]"),
        (["ping"], "everyone answers ping"),
        (["list_lease"], "did you mean list_leases?"),
        (["frobnicate"], "for an agent's verb name the agent"),
        (["list_leases", "--timeout", "0"], "is nothing"),
        (["list_leases", "--timeout", "5x"], "no unit of time"),
    ],
)
async def test_call_refuses_what_it_cannot_send(words: list[str], told: str, fabric: Fabric, tandem: Tandem) -> None:
    code, _, err = await tandem("call", *words)
    assert code == Exit.USAGE
    assert told in err


async def test_a_supervisors_verb_needs_a_host(fabric: Fabric, tandem: Tandem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_HOST")
    code, _, err = await tandem("call", "list_processes")
    assert code == Exit.USAGE
    assert "say which: Supervisor/mainpc or Supervisor/pc2" in err


async def test_a_refused_call_exits_by_its_code(fabric: Fabric, tandem: Tandem) -> None:
    for refusal, code in ((NoCapacity("full"), 75), (Conflict("odd"), 1), (Forbidden("not you"), 77)):
        fabric.refusal = refusal
        ended, out, err = await tandem("call", "acquire_lease", '{"model": "m", "bytes": 1}', "--json")
        assert ended == code
        assert msgspec.json.decode(out)["error"]["code"] == refusal.code.value
        assert err.startswith(f"tandem: {refusal.message}")
    ended, _, err = await tandem("call", "acquire_lease", '{"model": "m", "bytes": -1}')
    assert ended == Exit.BAD_REQUEST
    ended, _, err = await tandem("call", "ResourceManager", "aquire_lease")
    assert ended == Exit.BAD_REQUEST
    assert "acquire_lease" in err


@pytest.mark.parametrize(
    ("state", "code", "ends"),
    [
        ("done", "", Exit.OK),
        ("queued", "", Exit.OK),
        ("running", "", Exit.OK),
        ("failed", "no_provider", Exit.UNAVAILABLE),
        ("failed", "internal", Exit.INTERNAL),
        ("failed", "a_code_of_its_own", Exit.BAD_ANSWER),
        ("expired", "deadline_exceeded", Exit.DEADLINE),
        ("cancelled", "cancelled", Exit.BAD_ANSWER),
    ],
)
async def test_a_call_that_asks_for_work_ends_as_the_work_did(
    state: core_orchestrator.State, code: str, ends: Exit, fabric: Fabric, tandem: Tandem
) -> None:
    status = core_orchestrator.RequestStatus("req-1", state, "read", code=code, error="no page" if code else "")
    core = fabric.shells["CoreOrchestrator"]
    core.handle(core_orchestrator.SUBMIT_REQUEST, lambda _asked, _call: status)
    core.handle(core_orchestrator.GET_REQUEST, lambda _asked, _call: status)
    for more in ((), ("--stream",)):
        ended, out, err = await tandem("call", "submit_request", '{"capability": "read"}', *more)
        assert ended == ends
        assert msgspec.json.decode(out)["state"] == state
        assert err == (f"tandem: req-1 {state}: no page\n" if code else "")
    ended, _, err = await tandem("call", "get_request", '{"request_id": "req-1"}')
    assert (ended, err) == (Exit.OK, ""), "the question was answered"


async def test_a_call_without_an_answer_in_time_is_124(fabric: Fabric, tandem: Tandem) -> None:
    await lease(fabric, tandem)
    asked = f'{{"model": "n", "bytes": {20 * GIB}, "host": "mainpc", "wait_s": 60}}'
    code, _, err = await tandem("call", "acquire_lease", asked, "--timeout", "300ms")
    assert code in (Exit.DEADLINE, Exit.TRY_LATER)
    assert "Traceback" not in err


async def test_a_wrong_services_variable_is_told(tandem: Tandem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SERVICES", "rubbish")
    code, _, err = await tandem("gpus")
    assert code == Exit.BAD_REQUEST
    assert "TANDEM_SERVICES: 'rubbish' is not" in err
