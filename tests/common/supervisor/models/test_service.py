"""Managed models on a real supervisor: engines as processes on simulated cards, leases through its own line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api.models import Model as Shown
from common.config.models import Idle, ModelHealth
from common.config.units import Duration, Size
from common.errors import BadRequest, Cancelled, Interrupted, NoCapacity, NotFound, StaleFence, Unavailable
from common.supervisor.leasing import files
from common.supervisor.models.managed import DISABLED
from tests.common.supervisor.host import ask
from tests.common.supervisor.lives import ended, until
from tests.common.supervisor.models.lab import GIB, Lab, lab, model
from tests.lab.engines import ModelServer, start
from tests.lab.fabric import free_ports

pytestmark = pytest.mark.usefixtures("wrappers")


async def test_a_model_is_loaded_for_whoever_asks_shared_and_gives_way_when_idle(tmp_path: Path) -> None:
    models = [model("small", 4, aliases=["tiny"], slots=2, listed=False), model("big", 9)]
    async with lab(tmp_path, models) as it:
        assert await it.states() == {"small": "absent", "big": "absent"}
        with pytest.raises(NoCapacity, match="small on h: it is not loaded"):
            await it.use("small", wait_s=0)
        (told, first), joined = await asyncio.gather(it.told("tiny"), it.use("small"))
        assert told[0].phase == "queued"
        assert first.loaded
        assert first.lease.shares == joined.lease.shares
        assert it.gib("small") == 4
        shown = (await it.models())["small"]
        assert (shown["users"], shown["state"], shown["upstream"]) == (2, "ready", "small")
        assert not shown["listed"]
        with pytest.raises(NoCapacity, match="all 2 slots"):
            await it.use("small", wait_s=0)
        with pytest.raises(NoCapacity):
            await it.use("big", wait_s=1.0)
        assert (await it.states())["small"] == "ready", "nobody who is used goes"
        await it.back(first)
        again = await it.use("small", wait_s=0)
        assert not again.loaded
        for each in (joined, again):
            await it.back(each)
        big = await it.use("big")
        assert await it.states() == {"small": "absent", "big": "ready"}
        assert ended(shown["pid"])
        assert (await it.decisions("small"))[-2:] == ["expiring", "evicted"]
        metrics = it.host.supervisor.shell.metrics.exposition().decode()
        assert 'tandem_models_loads_total{model="small"} 1.0' in metrics
        await it.back(big)


async def test_others_go_for_a_caller_by_what_it_and_the_models_entry_say(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("dear", 9, priority=70), model("plain", 9)]) as it:
        await it.back(await it.use("dear"))
        with pytest.raises(NoCapacity):
            await it.use("plain", wait_s=1.0, priority=60)
        assert await it.states() == {"dear": "ready", "plain": "absent"}
        meek = asyncio.create_task(it.use("plain", priority=40))
        await until(lambda: it.waiting() == 1)
        urgent = await it.use("plain", priority=70)
        leases = {
            lease["model"]: lease for lease in (await it.host.ask("list_leases"))["leases"] if not lease["shares"]
        }
        assert leases["plain"]["priority"] == 50, "once loaded it weighs with its own"
        await it.back(urgent)
        await it.back(await meek)
        await it.back(await it.use("dear"))
        assert (await it.states())["plain"] == "absent"


async def test_what_is_asked_wrongly_is_refused_at_once(tmp_path: Path) -> None:
    missing = model("lacking", files=["/nowhere/at/all.gguf"])
    models = [model("llama", 4), missing, model("huge", 40)]
    async with lab(tmp_path, models) as it:
        with pytest.raises(NotFound, match="did you mean llama"):
            await it.use("lama")
        with pytest.raises(BadRequest, match="llama serves chat"):
            await it.use("llama", capability="images")
        with pytest.raises(Unavailable, match=r"/nowhere/at/all\.gguf"):
            await it.use("lacking")
        with pytest.raises(NoCapacity, match="huge needs 40"):
            await it.use("huge")
        with pytest.raises(NotFound, match="this is h's supervisor"):
            await it.use("llama", host="other")
        stopped = await it.host.ask("stop_model", model="llama")
        assert (stopped["state"], stopped["returned_bytes"]) == ("absent", 0)
        assert (await it.models())["lacking"]["problem"]


async def test_a_folder_that_does_not_answer_keeps_no_supervisor_from_starting_and_no_other_model_from_being_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, absent = threading.Event(), files.absent

    def hangs(paths: Sequence[str]) -> list[str]:
        if "/far/model.gguf" in paths:
            answers.wait(60)
        return absent(paths)

    monkeypatch.setattr(files, "absent", hangs)
    monkeypatch.setattr(files, "LOOK_S", 0.2)
    try:
        models = [model("far", 4, files=["/far/model.gguf"]), model("near", 4, files=["/proc/version"])]
        async with asyncio.timeout(50), lab(tmp_path, models) as it:
            await it.back(await it.use("near"))
            with pytest.raises(Unavailable, match=r"/far/model\.gguf: no word within 0\.2 s"):
                await it.use("far")
    finally:
        answers.set()


async def test_an_engine_that_never_becomes_ready_or_crashes_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    mute = model(
        "mute", env={"STAND_IN_LIES": "never_ready"}, health=ModelHealth(ready_within_s=Duration(2.0)), term_s=1
    )
    crashing = model("crashing", env={"STAND_IN_LIES": "crashes_at_load", "STAND_IN_LOAD_S": "0.2"})
    broken = model("broken", command=["sh", "-c", "echo no such tensor >&2; exit 3; {port}"])
    absent = model("absent", command=["/no/such/program", "{port}"])
    async with lab(tmp_path, [mute, crashing, broken, absent], [24]) as it:
        reasons = {
            "mute": "not ready within 2 s: GET /health answered 503",
            "crashing": "its engine ended before it was ready: exit 1",
            "broken": "exit 3: no such tensor",
            "absent": "there is no program '/no/such/program'",
        }
        outcomes = await asyncio.gather(*(it.use(name) for name in reasons), return_exceptions=True)
        for outcome, reason in zip(outcomes, reasons.values(), strict=True):
            assert isinstance(outcome, Unavailable)
            assert reason in outcome.message
        assert set((await it.states()).values()) == {"failed"}
        await until(lambda: it.held() == 0)
        assert (await it.host.ask("list_leases"))["leases"] == []
        health = await it.host.ask("health_check")
        assert health["status"] == "degraded"
        assert any("no such tensor" in reason for reason in health["reasons"])
        log = await it.host.ask("read_log", agent_name="broken", offset=0)
        assert "no such tensor" in log["text"]


async def test_an_engine_that_dies_while_it_is_used_is_loaded_again_for_the_next(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("a")]) as it:
        await it.use("a")
        first = (await it.models())["a"]["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: it.state("a") == "failed" and "signal 9" in it.managed("a").problem)
        await it.use("a")
        shown = (await it.models())["a"]
        assert shown["pid"] != first
        assert (shown["state"], shown["users"], shown["problem"]) == ("ready", 1, "")


async def test_a_sleeper_is_woken_and_one_that_does_not_wake_is_loaded_anew(tmp_path: Path) -> None:
    env = {"VLLM_SERVER_DEV_MODE": "1", "STAND_IN_RESIDUAL": "128MiB"}
    sleeper = model("sleeper", 1.25, "--enable-sleep-mode", engine="vllm", env=env)
    async with lab(tmp_path, [sleeper, model("other", 1.25)], [3]) as it:
        await it.back(await it.use("sleeper"))
        pid = (await it.models())["sleeper"]["pid"]
        other = await it.use("other")
        assert (await it.states())["sleeper"] == "parked"
        assert (await it.models())["sleeper"]["pid"] == pid
        await it.back(other)
        await it.back(await it.use("sleeper"))
        shown = await it.models()
        assert (shown["sleeper"]["state"], shown["sleeper"]["pid"], shown["other"]["state"]) == ("ready", pid, "absent")
        assert "unparked" in await it.decisions("sleeper")

        await it.back(await it.use("other"))
        assert it.state("sleeper") == "parked"
        it.tell("sleeper", lies=["wake_leaks"])
        ready = await it.use("sleeper")
        shown = await it.models()
        assert (shown["sleeper"]["state"], shown["sleeper"]["problem"]) == ("ready", "")
        assert shown["sleeper"]["pid"] != pid
        assert ended(pid)
        await it.back(ready)
        await until(lambda: it.measured("sleeper") > GIB)
        stopped = await it.host.ask("stop_model", model="sleeper")
        assert stopped["state"] == "absent"
        assert stopped["returned_bytes"] >= GIB


@contextmanager
def ollama(port: int, it: Lab, **models: str) -> Iterator[ModelServer]:
    with start("ollama", cards=it.cards, models=models, env={"OLLAMA_HOST": f"127.0.0.1:{port}"}) as server:
        yield server


async def test_an_ollama_that_runs_already_is_used_by_model_and_never_ended(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    fields: dict[str, Any] = {"engine": "ollama", "url": url, "command": [], "cwd": "", "env": {}}
    models = [model("one", 2, **fields), model("two", 2, **fields)]
    async with lab(tmp_path, models, [4]) as it:
        with pytest.raises(Unavailable, match=rf"ollama is not running at {url}: start it \(`ollama serve`"):
            await it.use("one")
        assert "not running" in (await it.models())["one"]["problem"]
        assert it.state("one") == "absent", "nothing was tried"
        with ollama(port, it, one="2GiB", two="2GiB") as server:
            first = await it.use("one")
            assert (first.url, first.upstream) == (url, "one:latest")
            shown = (await it.models())["one"]
            assert (shown["pid"], shown["adopted"]) == (server.pid, True)
            await it.back(first)
            second = await it.use("two")
            assert await it.states() == {"one": "absent", "two": "ready"}
            assert list(server.told()["parts"]) == ["two:latest"]
            await until(lambda: it.measured("two") == 2 * GIB)
            stopped = await it.host.ask("stop_model", model="two")
            assert (stopped["state"], stopped["returned_bytes"]) == ("absent", 2 * GIB)
            with pytest.raises(NotFound):
                await it.asked(second, "GET", "/api/version")
            await it.chat(url, "one")  # by a client that knows nothing of Tandem
            await until(lambda: it.state("one") == "ready")
            leased = (await it.host.ask("list_leases"))["leases"]
            assert [lease["owner"]["pid"] for lease in leased] == [server.pid]
            await it.host.supervisor._models.close()
            assert server.returncode() is None
            assert server.held() == 2 * GIB


async def test_an_engine_that_runs_on_through_a_restart_keeps_its_lease_and_its_users(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    fields: dict[str, Any] = {
        "engine": "ollama",
        "url": f"http://127.0.0.1:{port}",
        "command": [],
        "cwd": "",
        "env": {},
    }
    models = [model("one", 2, **fields)]
    async with AsyncExitStack() as stack:
        async with lab(tmp_path, models, [4]) as it:
            server = stack.enter_context(ollama(port, it, one="2GiB"))
            first = await it.use("one", ttl_s=600)
        async with lab(tmp_path, models, [4]) as it:
            shown = (await it.models())["one"]
            assert (shown["state"], shown["lease_id"], shown["users"]) == ("ready", first.lease.shares, 1)
            await it.back(first)
            server.tell(lies=[])
            await it.unload(first.url, "one")  # by a client that knows nothing of Tandem
            await until(lambda: it.state("one") == "absent")
            await it.use("one")
            server.kill()
            await until(lambda: it.state("one") == "absent")
            assert (await it.host.ask("list_leases"))["leases"] == []


async def test_a_model_that_needs_no_card_is_served_and_sees_none(tmp_path: Path) -> None:
    bare = model(
        "bare",
        0,
        engine="openai",
        command=["{python}", "-m", "tests.lab.engines.openai_server", "--model", "bare", "--port", "{port}"],
        vram=Size(0),
        health=ModelHealth(how="tcp", ready_within_s=Duration(60)),
    )
    at_once = model(
        "at-once", 0, vram=Size(0), command=["sh", "-c", "exec sleep 1000; {port}"], health=ModelHealth("none")
    )
    async with lab(tmp_path, [bare, at_once]) as it:
        ready = await it.use("bare")
        assert (ready.engine, ready.lease.bytes) == ("openai", 0)
        assert it.held() == 0
        await it.back(ready)
        await it.use("at-once")
        stopped = await it.host.ask("stop_model", model="at-once")
        assert stopped["state"] == "absent"


async def test_a_model_on_several_cards_is_leased_on_all_of_them_and_an_exclusive_one_alone(tmp_path: Path) -> None:
    models = [model("pair", 3, cards=2), model("alone", 3, exclusive=True)]
    async with lab(tmp_path, models, [12, 12]) as it:
        ready = await it.use("pair")
        assert it.held() == 6 * GIB
        (lease,) = [each for each in (await it.host.ask("list_leases"))["leases"] if not each["shares"]]
        assert len(lease["card_uuids"]) == 2
        await it.back(ready)
        ready = await it.use("alone")
        assert await it.states() == {"pair": "absent", "alone": "ready"}
        await it.back(ready)


async def test_what_a_failed_commit_undid_is_noticed(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("a", slots=2)]) as it:
        ready = await it.use("a")
        managed = it.managed("a")
        managed.users.add("lease-never-committed")
        await until(lambda: managed.users == {ready.lease.lease_id})
        pid = (await it.models())["a"]["pid"]
        held = managed.held
        assert held is not None
        managed.held = msgspec.structs.replace(held, lease_id="lease-never-committed")
        await until(lambda: it.state("a") == "absent" and ended(pid))


async def test_room_that_nobody_waits_for_any_more_is_not_waited_for(tmp_path: Path) -> None:
    deaf = model("deaf", 8, env={"STAND_IN_LIES": "ignores_term"}, term_s=2)
    async with lab(tmp_path, [deaf, model("a", 8)]) as it:
        await it.back(await it.use("deaf"))
        waiting = asyncio.ensure_future(it.use("a"))
        await until(lambda: it.state("deaf") == "expiring")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: it.state("a") == "absent")
        await until(lambda: it.state("deaf") == "absent")
        assert [each["model"] for each in (await it.host.ask("list_leases"))["leases"]] == []
        assert it.waiting() == 0


async def test_requests_of_other_hosts_are_passed_on_under_a_live_share_and_no_other(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("a", 4, env={"STAND_IN_TOKEN_S": "0.01"})]) as it:
        ready = await it.use("a")
        body = json.dumps({"model": "a", "stream": True, "messages": [{"role": "user", "content": "say it"}]}).encode()
        status, data = await it.asked(ready, "POST", "/v1/chat/completions", body)
        assert status == 200
        assert data.count(b"data:") > 2
        assert data.rstrip().endswith(b"data: [DONE]")
        status, data = await it.asked(ready, "GET", "/nothing")
        assert status == 404
        with pytest.raises(BadRequest, match="no path"):
            await it.asked(ready, "GET", "nothing")
        port, lease_id, token = it.host.supervisor.shell.port, ready.lease.lease_id, ready.lease.fencing_token
        whole = await ask(port, "ask_model", lease_id=lease_id, fencing_token=token, method="GET", path="/health")
        assert whole["http_status"] == 200, "who takes no parts gets the whole at once"
        with pytest.raises(StaleFence, match="under another fencing token"):
            await it.asked_under(lease_id, token + 1, "/health")
        parent = ready.lease.shares
        with pytest.raises(NotFound, match="is no share of a model"):
            await it.asked_under(parent, token, "/health")
        it.tell("a", lies=["truncated"])
        with pytest.raises(Interrupted, match="the engine went away midway"):
            await it.asked(ready, "GET", "/health")
        await it.back(ready)
        with pytest.raises(NotFound):
            await it.asked(ready, "GET", "/health")


async def test_prompt_caches_are_saved_before_a_stop_and_restored_after(tmp_path: Path) -> None:
    slots = tmp_path / "slots"
    slots.mkdir()
    async with lab(tmp_path, [model("a", 4, "--slot-save-path", str(slots)), model("b", 9)]) as it:
        ready = await it.use("a")
        body = json.dumps({"prompt": "one two three", "max_tokens": 2}).encode()
        await it.asked(ready, "POST", "/v1/completions", body)
        await it.back(ready)
        await it.back(await it.use("b"))
        assert [each.name for each in slots.iterdir()] == ["a-0.bin"]
        ready = await it.use("a")
        acts = await it.acts(ready)
        assert acts == ["restore slot 0"]


async def test_models_are_preloaded_and_put_away_when_idle_as_their_entries_say(tmp_path: Path) -> None:
    idle = Idle(after_s=Duration(0.5))
    async with lab(tmp_path, [model("early", 2, preload=True), model("brief", 2, idle=idle)]) as it:
        await until(lambda: it.state("early") == "ready")
        await it.back(await it.use("brief"))
        await until(lambda: it.state("brief") == "absent")
        assert it.state("early") == "ready"
        assert it.gib("early") == 2


async def test_a_stop_in_the_middle_of_a_load_ends_it_and_tells_who_waited(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("slow", 4, env={"STAND_IN_LOAD_S": "100"})]) as it:
        waiting = asyncio.ensure_future(it.use("slow"))
        await until(lambda: it.state("slow") == "loading")
        stopped = await it.host.ask("stop_model", model="slow")
        assert stopped["state"] == "absent"
        with pytest.raises(Cancelled, match="slow was stopped"):
            await waiting
        assert it.held() == 0
        assert (await it.host.ask("list_leases"))["leases"] == []


async def test_a_reload_takes_in_what_the_startup_file_has_now(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("a")]) as it:
        ready = await it.use("a")
        it.write([model("a", 5), model("b", 2)])
        reloaded = await it.host.ask("reload_models")
        assert [each["name"] for each in reloaded["models"]] == ["a", "b"]
        assert it.state("a") == "ready"
        await it.use("b")
        it.write([], version=7)
        refused = await it.host.ask("reload_models")
        assert refused["code"] == "bad_request"
        assert "version" in refused["error"]
        await it.back(ready)


async def test_what_a_reload_newly_declares_to_be_preloaded_is_and_what_it_disables_is_said_to_be(
    tmp_path: Path,
) -> None:
    off = model("off", 2, enabled=False, preload=True, aliases=["o"])
    async with lab(tmp_path, [model("a", 2), off]) as it:
        shown = (await it.models())["off"]
        assert (shown["enabled"], shown["state"], shown["problem"]) == (False, "absent", DISABLED)
        for name in ("off", "o"):
            with pytest.raises(NotFound, match="off is disabled on h") as refused:
                await it.use(name)
            assert "enabled: true" in refused.value.details["mend"]
        it.write([model("a", 2, preload=True), model("off", 2, preload=True), model("early", 2, preload=True)])
        await it.host.ask("reload_models")
        await until(lambda: {it.state(name) for name in ("a", "off", "early")} == {"ready"})
        stopped = await it.host.ask("stop_model", model="early")
        assert stopped["state"] == "absent"
        await it.host.ask("reload_models")
        assert it.waiting() == 0, "what was to be preloaded before is not preloaded again"
        it.write([model("a", 2)])
        assert sorted(await it.states()) == ["a", "early", "off"]


async def test_with_its_supervisor_stopped_no_engine_runs_on(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("a", slots=4)]) as it:
        await it.use("a")
        pid = (await it.models())["a"]["pid"]
        late = asyncio.ensure_future(it.use("a", capability="chat"))
        await late
    assert ended(pid)


def test_the_list_shows_every_field_that_resource_manager_chooses_by() -> None:
    assert {"state", "users", "slots", "load_s", "footprint_bytes", "problem"} <= set(Shown.__struct_fields__)


async def test_a_caller_that_leaves_while_it_waits_leaves_the_line(tmp_path: Path) -> None:
    async with lab(tmp_path, [model("a", slots=1)]) as it:
        ready = await it.use("a")
        waiting = asyncio.ensure_future(it.use("a"))
        await until(lambda: it.waiting() == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await it.back(ready)
        ready = await it.use("a")
        await it.back(ready)
