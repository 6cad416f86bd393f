from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api import decisions, leases
from common.errors import BadRequest, NoCapacity, Unavailable
from common.gpu.process_identity import MACHINE, start_time, this_machine
from common.gpu.simulated import card_uuid, cards_folder
from common.service.call import Call
from tandem.exits import Exit
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import GIB, Fabric

PATIENCE_S = 60.0


@asynccontextmanager
async def running(fabric: Fabric, *words: str, **changes: Any) -> AsyncIterator[Process]:
    """`tandem run` in a process of its own; killed at the end if it is still there."""
    streams: dict[str, Any] = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE} | changes
    environ = os.environ | fabric.environ()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tandem", "run", *words, env=environ, **streams
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def done(fabric: Fabric, *words: str, said: bytes | None = None) -> tuple[int, str, str]:
    """A `tandem run` to its end: (exit code, stdout, stderr)."""
    async with running(fabric, *words, **({} if said is None else {"stdin": PIPE})) as process:
        out, err = await asyncio.wait_for(process.communicate(said), PATIENCE_S)
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


async def asked(fabric: Fabric, times: int) -> None:
    """Wait until it was asked for leases so many times."""
    await until(lambda: len(fabric.asked) == times)


async def said_by(process: Process, words: bytes) -> None:
    """Wait until it has said this on stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while words not in (line := await process.stderr.readline()):
            assert line, "it ended"


async def until(true: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.02)


async def pid_in(file: Path) -> int:
    """The pid that a command wrote."""
    await until(lambda: file.exists() and file.read_text().strip() != "")
    return int(file.read_text())  # noqa: ASYNC240


# the lease and the command


async def test_the_command_sees_its_card_and_the_lease_comes_back(fabric: Fabric, tmp_path: Path) -> None:
    names = "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $TANDEM_LEASE_ID $TANDEM_FENCING_TOKEN $TANDEM_SIMULATED_CARDS"
    code, out, err = await done(fabric, "--vram", "10GiB", "--", "sh", "-c", f"echo {names}")
    assert code == 0
    assert out.split() == [card_uuid("mainpc", 0), "PCI_BUS_ID", "lease-1", "1", str(tmp_path / "mainpc" / "cards")]
    assert "10.0 GiB on mainpc:0 (simulated), lease lease-1" in err
    assert "returned 10.0 GiB on mainpc:0" in err
    assert not fabric.leases
    asked = fabric.asked[0]
    assert (asked.model, asked.bytes, asked.host, asked.wait_s) == ("sh", 10 * GIB, "mainpc", pytest.approx(60, abs=5))
    assert asked.owner is not None
    assert asked.owner.start_time > 0


async def test_the_options_reach_the_request(fabric: Fabric) -> None:
    words = ["--model", "llm", "--priority", "70", "--ttl", "30s", "--wait", "0", "--card", "pc2:0"]
    code, _, err = await done(fabric, "--vram", "1GiB", *words, "--host", "pc2", "-q", "--", "true")
    assert (code, err) == (0, "")
    asked = fabric.asked[0]
    assert (asked.model, asked.priority, asked.ttl_s, asked.wait_s) == ("llm", 70, 30.0, 0.0)
    assert (asked.host, asked.card_uuid) == ("pc2", card_uuid("pc2", 0))
    code, _, err = await done(fabric, "--vram", "1GiB", "--card", "pc2:0", "--", "true")
    assert (code, len(fabric.asked)) == (1, 1)
    assert f"no card 'pc2:0'; there are mainpc:0 {card_uuid('mainpc', 0)}" in err


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
async def test_it_exits_as_the_command_does(script: str, code: int, fabric: Fabric) -> None:
    assert (await done(fabric, "--vram", "1GiB", "--", "sh", "-c", script))[0] == code
    assert not fabric.leases


async def test_a_signal_that_comes_when_all_is_done_does_not_change_how_it_ends(fabric: Fabric) -> None:
    late = """if True:
        import asyncio.unix_events, os, signal
        from tandem.cli import main

        class Loop(asyncio.unix_events.SelectorEventLoop):
            def close(self):
                super().close()
                os.kill(os.getpid(), signal.SIGTERM)

        asyncio.unix_events._UnixDefaultEventLoopPolicy._loop_factory = Loop
        main()
    """
    words = ("run", "--vram", "1GiB", "--", "sh", "-c", "exit 3")
    environ = os.environ | fabric.environ()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", late, *words, env=environ, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 3, err.decode()


async def test_a_command_that_cannot_run_takes_no_lease(fabric: Fabric, tandem: Tandem, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    for program, code in (("no-such-program", 127), (str(tmp_path / "nowhere"), 127), (str(plain), 126)):
        ended, _, err = await tandem("run", "--vram", "1GiB", "--", program)
        assert ended == code
        assert err.startswith(f"tandem: {program}: not ")
    assert not fabric.asked


async def test_stdin_and_the_options_of_the_command_are_its_own(fabric: Fabric) -> None:
    code, out, _ = await done(fabric, "--vram", "1GiB", "--", "grep", "--count", "a", said=b"a\nb\na\n")
    assert (code, out) == (0, "2\n")
    code, out, _ = await done(fabric, "--vram", "1GiB", "echo", "--json", "--vram")
    assert (code, out) == (0, "--json --vram\n")


async def test_a_report_says_peak_and_lease(fabric: Fabric, tmp_path: Path) -> None:
    fabric.measured["sh"] = 11 * GIB
    report = tmp_path / "report.json"
    words = ["--vram", "10GiB", "--report", str(report), "--", "sh", "-c", "sleep 1.2; exit 4"]
    code, _, err = await done(fabric, *words)
    assert code == 4
    assert err.count("the command holds more VRAM than its lease: 11.0 GiB held, 10.0 GiB leased on mainpc:0") == 1
    assert "most held: 11.0 GiB" in err
    found = msgspec.json.decode(report.read_bytes())
    assert list(found) == [
        *("command", "exit_code", "lease", "leased_bytes", "peak_bytes", "waited_s", "ran_s", "error"),
    ]
    assert (found["exit_code"], found["peak_bytes"], found["leased_bytes"]) == (4, 11 * GIB, 10 * GIB)


async def test_what_is_not_measured_at_once_is_measured_soon(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = fabric.list
    seen: list[str] = []

    def hidden_once(asked: leases.ListLeases, call: Call) -> leases.Leases:
        fabric.hidden = not seen
        seen.append(asked.host)
        return listed(asked, call)

    monkeypatch.setattr(fabric, "list", hidden_once)
    fabric.measured["sleep"] = GIB
    _, _, err = await done(fabric, "--vram", "1GiB", "--", "sleep", "1.8")
    assert "most held: 1.0 GiB" in err


async def test_what_holds_nothing_at_first_is_looked_at_again_soon(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = fabric.list
    seen: list[str] = []

    def nothing_once(asked: leases.ListLeases, call: Call) -> leases.Leases:
        fabric.measured["sleep"] = GIB if seen else 0
        seen.append(asked.host)
        return listed(asked, call)

    monkeypatch.setattr(fabric, "list", nothing_once)
    _, _, err = await done(fabric, "--vram", "1GiB", "--", "sleep", "1.8")
    assert "most held: 1.0 GiB" in err


async def test_with_json_stderr_has_one_event_a_line(fabric: Fabric) -> None:
    fabric.hidden = True
    code, out, err = await done(fabric, "--vram", "1GiB", "--json", "--", "sh", "-c", "echo hello; sleep 0.8")
    assert (code, out) == (0, "hello\n")
    events = [msgspec.json.decode(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["granted", "ended"]
    assert events[0]["granted"]["lease_id"] == "lease-1"
    assert events[1]["ended"]["peak_bytes"] is None


async def test_a_card_whose_folder_is_not_here_is_told(fabric: Fabric, tmp_path: Path) -> None:
    fabric.home = str(tmp_path / "elsewhere")
    code, _, err = await done(fabric, "--vram", "1GiB", "--", "true")
    assert code == 0
    assert "set TANDEM_HOME to the fabric's home" in err
    _, _, err = await done(fabric, "--vram", "1GiB", "--json", "--", "true")
    assert '"event":"warning","message":"the card is simulated, but ' in err
    fabric.simulated = False
    _, out, _ = await done(fabric, "--vram", "1GiB", "--", "sh", "-c", "echo [$TANDEM_SIMULATED_CARDS]")
    assert out == "[]\n"


async def test_a_simulated_card_is_known_where_its_supervisor_has_no_time_to_say_so(fabric: Fabric) -> None:
    fabric.cards_are_away = True
    code, out, err = await done(fabric, "--vram", "1GiB", "--", "sh", "-c", "echo [$TANDEM_SIMULATED_CARDS]")
    assert (code, out) == (0, f"[{cards_folder(Path(fabric.home), 'mainpc')}]\n")
    assert "(simulated), lease lease-1" in err


# waiting


async def test_it_waits_says_so_and_then_runs(fabric: Fabric) -> None:
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60") as holder:
        await until(lambda: len(fabric.leases) == 1)
        async with running(fabric, "--vram", "20GiB", "--wait", "30s", "--", "echo", "ran") as waiter:
            assert waiter.stderr is not None
            line = (await asyncio.wait_for(waiter.stderr.readline(), PATIENCE_S)).decode()
            assert line.startswith("tandem: waiting: place 1; needs 20.0 GiB, 4.0 GiB free (full on mainpc:0)")
            holder.terminate()
            assert await holder.wait() == 143
            out, _ = await asyncio.wait_for(waiter.communicate(), PATIENCE_S)
    assert (waiter.returncode, out) == (0, b"ran\n")
    assert not fabric.leases


async def test_it_gives_up_with_need_free_position_and_reason(fabric: Fabric, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60"):
        await until(lambda: len(fabric.leases) == 1)
        words = ["--vram", "20GiB", "--wait", "300ms", "--report", str(report), "--", "touch", str(tmp_path / "ran")]
        code, out, err = await done(fabric, *words)
    assert (code, out) == (Exit.TRY_LATER, "")
    assert "gave up after 3" in err
    assert "at place 1: needs 20.0 GiB, 4.0 GiB free (every card is full on mainpc:0)" in err
    told = msgspec.json.decode(report.read_bytes())["error"]
    assert told["code"] == "no_capacity"
    assert told["details"]["waited_s"] >= 0.3
    details = {key: told["details"][key] for key in ("need_bytes", "free_bytes", "position", "reason")}
    assert details == {
        "need_bytes": 20 * GIB,
        "free_bytes": 4 * GIB,
        "position": 1,
        "reason": "every card is full on mainpc:0",
    }
    assert not (tmp_path / "ran").exists()


async def test_what_no_card_can_hold_is_refused_at_once(fabric: Fabric) -> None:
    code, _, err = await done(fabric, "--vram", "100GiB", "--json", "--", "true")
    assert code == Exit.BAD_REQUEST
    failed = msgspec.json.decode(err)
    assert (failed["event"], failed["failed"]["code"]) == ("failed", "too_large")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_ends_the_wait_and_withdraws(number: signal.Signals, code: int, fabric: Fabric) -> None:
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60"):
        await until(lambda: len(fabric.leases) == 1)
        async with running(fabric, "--vram", "20GiB", "--", "true") as waiter:
            await until(lambda: len(fabric.asked) == 2)
            await asyncio.sleep(0.1)
            waiter.send_signal(number)
            assert await asyncio.wait_for(waiter.wait(), PATIENCE_S) == code
        await until(lambda: fabric.withdrawn == 1)


# signals and deaths


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "WINCH"])
async def test_signals_reach_the_command(name: str, fabric: Fabric, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f'trap "echo got {name}; exit 5" {name}; echo $$ > {ready}; while :; do sleep 0.05; done'
    async with running(fabric, "--vram", "1GiB", "--", "bash", "-c", script) as process:
        await pid_in(ready)
        process.send_signal(getattr(signal, f"SIG{name}"))
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, out.decode()) == (5, f"got {name}\n")


async def test_kill_9_of_the_holder_ends_the_whole_command_and_frees_the_bytes(fabric: Fabric, tmp_path: Path) -> None:
    root, child = tmp_path / "root", tmp_path / "child"
    script = f"echo $$ > {root}; sh -c 'echo $$ > {child}; exec sleep 60' & wait"
    async with running(fabric, "--vram", "1GiB", "--", "sh", "-c", script, stdout=DEVNULL, stderr=DEVNULL) as process:
        pids = [await pid_in(root), await pid_in(child)]
        process.kill()
        await until(lambda: all(start_time(pid) is None for pid in pids))
        await until(lambda: not fabric.leases)


async def test_what_the_command_left_running_is_ended_before_the_lease_is_returned(
    fabric: Fabric, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    script = f"sleep 60 & echo $! > {left}; exit 6"
    code, _, err = await done(fabric, "--vram", "1GiB", "--", "bash", "-c", script)
    assert code == 6
    assert "left processes running" in err
    assert start_time(int(left.read_text())) is None


async def test_a_lost_lease_ends_the_command(fabric: Fabric, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    words = ["--vram", "1GiB", "--ttl", "300ms", "--", "sh", "-c", f"echo $$ > {ready}; sleep 60"]
    async with running(fabric, *words) as process:
        pid = await pid_in(ready)
        await until(lambda: fabric.renewals > 0)
        fabric.end("lease-1")
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == Exit.TRY_LATER
    assert "the lease was lost (no lease lease-1); the command is being ended" in err.decode()
    assert start_time(pid) is None


# services that go away


async def test_without_resource_manager_the_own_supervisor_is_asked(fabric: Fabric) -> None:
    await fabric.stop("ResourceManager")
    code, out, err = await done(fabric, "--vram", "1GiB", "--", "echo", "ran")
    assert (code, out) == (0, "ran\n")
    assert "ResourceManager is away (nobody listens" in err
    assert "asking the supervisor of mainpc alone" in err
    await fabric.stop("Supervisor/mainpc")
    code, _, err = await done(fabric, "--vram", "1GiB", "--", "echo", "ran")
    assert code == Exit.UNAVAILABLE
    assert "`make start` starts it" in err


async def test_a_refusal_before_its_time_is_told_as_what_no_wait_would_change(fabric: Fabric) -> None:
    await fabric.stop("ResourceManager")
    fabric.refusal = NoCapacity("echo needs 1.0 GiB; mainpc: mainpc has no cards", need_bytes=GIB, free_bytes=0)
    code, _, err = await done(fabric, "--vram", "1GiB", "--wait", "90s", "--", "echo", "ran")
    assert code == Exit.TRY_LATER
    assert (
        "not waited for, since waiting would bring nothing: needs 1.0 GiB, 0 B free (echo needs 1.0 GiB; mainpc: "
        in err
    )


async def test_a_supervisor_that_goes_away_meanwhile_ends_nothing(fabric: Fabric, tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f"echo $$ > {ready}; while [ ! -e {go} ]; do sleep 0.05; done; exit 7"
    words = ["--vram", "1GiB", "--ttl", "300ms", "--", "sh", "-c", script]
    async with running(fabric, *words) as process:
        await pid_in(ready)
        await fabric.stop("Supervisor/mainpc")
        await asyncio.sleep(0.5)
        go.touch()
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 7
    assert "the lease was not released" in err.decode()
    await until(lambda: not fabric.leases)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_resource_manager_that_goes_away_midway_is_asked_again_or_done_without(
    comes_back: bool, fabric: Fabric
) -> None:
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60") as holder:
        await until(lambda: len(fabric.leases) == 1)
        async with running(fabric, "--vram", "20GiB", "--", "echo", "ran") as waiter:
            await until(lambda: len(fabric.asked) == 2)
            await fabric.stop("ResourceManager")
            if comes_back:
                await fabric.start("ResourceManager")
            await until(lambda: len(fabric.asked) == 3)
            assert (fabric.asked[2].idempotency_key == fabric.asked[1].idempotency_key) is comes_back
            holder.terminate()
            out, err = await asyncio.wait_for(waiter.communicate(), PATIENCE_S)
    assert (waiter.returncode, out) == (0, b"ran\n")
    assert (b"ResourceManager is away" in err) is not comes_back


async def test_who_waits_in_line_outlasts_a_restart_of_the_only_supervisor_that_could_grant_it(
    fabric: Fabric,
) -> None:
    await fabric.stop("ResourceManager")
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60") as holder:
        await until(lambda: len(fabric.leases) == 1)
        async with running(fabric, "--vram", "20GiB", "--", "echo", "ran") as waiter:
            for times in (2, 3):
                await asked(fabric, times)
                await fabric.stop("Supervisor/mainpc")
                await said_by(waiter, b"Supervisor/mainpc is away (")
                await fabric.start("Supervisor/mainpc")
            await asked(fabric, 4)
            assert len({each.idempotency_key for each in fabric.asked[1:]}) == 1
            holder.terminate()
            out, _ = await asyncio.wait_for(waiter.communicate(), PATIENCE_S)
    assert (waiter.returncode, out) == (0, b"ran\n")


async def test_a_supervisor_that_stays_away_is_waited_for_no_longer_than_for_room(fabric: Fabric) -> None:
    await fabric.stop("ResourceManager")
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60"):
        await until(lambda: len(fabric.leases) == 1)
        async with running(fabric, "--vram", "20GiB", "--wait", "3s", "--", "echo", "ran") as waiter:
            await until(lambda: len(fabric.asked) == 2)
            await fabric.stop("Supervisor/mainpc")
            out, err = await asyncio.wait_for(waiter.communicate(), PATIENCE_S)
    assert (waiter.returncode, out) == (Exit.UNAVAILABLE, b"")
    assert b"it is asked again until the wait is over" in err
    assert err.endswith(b"`make start` starts it)\n")


# where the command runs


async def test_hosts_on_another_machine_are_not_taken_for_this_one(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    mainpc, pc2 = (fabric.shells[f"Supervisor/{host}"].settings.metadata for host in ("mainpc", "pc2"))
    mainpc[MACHINE] = pc2[MACHINE] = "another"
    monkeypatch.setattr(fabric, "environ", lambda: {**Fabric.environ(fabric), "TANDEM_HOST": ""})
    code, _, err = await done(fabric, "--vram", "1GiB", "--", "true")
    assert code == Exit.UNAVAILABLE
    assert "no supervisor runs on this machine (mainpc: it runs on another machine; pc2: " in err
    mainpc[MACHINE] = this_machine()
    code, _, _ = await done(fabric, "--vram", "1GiB", "--", "true")
    assert (code, fabric.asked[-1].host) == (0, "mainpc")
    pc2[MACHINE] = this_machine()
    await done(fabric, "--vram", "1GiB", "--", "true")
    assert fabric.asked[-1].host == ""
    assert fabric.asked[-1].owner is not None
    assert fabric.asked[-1].owner.host == ""
    await fabric.stop("ResourceManager")
    fabric.grant(msgspec.structs.replace(fabric.asked[0], owner=None), "mainpc")
    code, _, err = await done(fabric, "--vram", "24GiB", "--wait", "0", "--", "true")
    assert code == Exit.TRY_LATER
    assert "asking the supervisor of mainpc alone" in err
    await fabric.stop("Supervisor/pc2")
    code, _, _ = await done(fabric, "--vram", "1GiB", "--", "true")
    assert (code, fabric.asked[-1].host) == (0, "mainpc")


async def test_a_host_where_nobody_listens_is_told_from_one_that_is_busy(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fabric, "environ", lambda: {**Fabric.environ(fabric), "TANDEM_HOST": ""})
    await fabric.stop("Supervisor/pc2")
    asked = asyncio.Event()
    heard = fabric.shells["Supervisor/mainpc"].port
    await fabric.stop("Supervisor/mainpc")

    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A port that takes connections and says nothing, as a supervisor that gets no time does."""
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(busy, "127.0.0.1", heard)
    async with running(fabric, "--vram", "1GiB", "--", "echo", "ran") as waiter:
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        server.close()
        await fabric.start("Supervisor/mainpc")
        out, err = await asyncio.wait_for(waiter.communicate(), PATIENCE_S)
    assert (waiter.returncode, out) == (0, b"ran\n"), err
    await fabric.stop("Supervisor/mainpc")
    code, _, told = await done(fabric, "--vram", "1GiB", "--", "true")
    assert code == Exit.UNAVAILABLE
    assert f"nobody listens at tcp://127.0.0.1:{heard}: Connection refused" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--", "true"], "Missing option '--vram'"),
        (["--vram", "10G", "--", "true"], "may mean 10GiB or 10GB"),
        (["--vram", "0", "--", "true"], "is nothing"),
        (["--vram", "9999999TiB", "--", "true"], "more than the largest size"),
        (["--vram", "1GiB"], "Missing argument"),
        (["--vram", "1GiB", "--wait", "soon", "--", "true"], "not a duration"),
        (["--vram", "1GiB", "--ttl", "0", "--", "true"], "is nothing"),
        (["--vram", "1GiB", "--priority", "101", "--", "true"], "not in the range"),
        (["--vram", "1GiB", "--model", "a\nb", "--", "true"], "is no name"),
        (["--vram", "1GiB", "--host", "attic", "--", "true"], "no host 'attic'; known: mainpc, pc2"),
        (["--vram", "1GiB", "--report", "/no/such/file", "--", "true"], "/no/such/file cannot be written"),
    ],
)
async def test_it_refuses_what_it_cannot_read(words: list[str], told: str, fabric: Fabric, tandem: Tandem) -> None:
    code, _, err = await tandem("run", *words)
    assert code == Exit.USAGE
    assert told in err
    assert not fabric.asked


async def test_a_refused_request_ends_by_its_code(fabric: Fabric) -> None:
    fabric.refusal = BadRequest("no such model")
    code, _, err = await done(fabric, "--vram", "1GiB", "--", "true")
    assert code == Exit.BAD_REQUEST
    assert err == "tandem: no such model\n"


# the terminal


class Typist:
    """A terminal with a job-control shell in it, and someone who types."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environ | {"PS1": "", "TERM": "dumb"})
        os.set_blocking(self._fd, False)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    async def sees(self, text: str) -> None:
        """Wait until the screen shows `text`, then forget what came before."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.screen:
                try:
                    self.screen += os.read(self._fd, 65_536).decode(errors="replace")
                except BlockingIOError:
                    await asyncio.sleep(0.02)
        self.screen = self.screen.partition(text)[2]

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
async def typist(fabric: Fabric) -> AsyncIterator[Typist]:
    made = Typist(os.environ | fabric.environ())
    yield made
    made.close()


async def goes_on_in_front(fabric: Fabric, typist: Typist, word: str, answer: str) -> None:
    """The command that stopped is brought to the front, reads a word, and ends well with its lease."""
    typist.type("fg\n")
    await typist.sees("tandem run")
    typist.type(f"{word}\n")
    await typist.sees(answer)
    await until(lambda: not fabric.leases)
    typist.type("echo co''de=$?\n")
    await typist.sees("code=0")


async def test_the_command_reads_from_the_terminal_stops_and_goes_on(fabric: Fabric, typist: Typist) -> None:
    run = f"{sys.executable} -m tandem run -q --vram 1GiB --"
    typist.type(f'{run} sh -c \'read line; echo "<$line>"; read line; echo "[$line]"\'; echo code=$?\n')
    await until(lambda: len(fabric.leases) == 1)
    typist.type("first\n")
    await typist.sees("<first>")
    typist.type("\x1a")
    await typist.sees("Stopped")
    typist.type("echo in the sh''ell\n")
    await typist.sees("in the shell")
    await goes_on_in_front(fabric, typist, "second", "[second]")


async def test_ctrl_c_ends_the_command_once(fabric: Fabric, typist: Typist) -> None:
    run = f"{sys.executable} -m tandem run -q --vram 1GiB --"
    script = 'trap "echo interrupted; exit 9" INT; echo up; while :; do sleep 0.05; done'
    typist.type(f"{run} bash -c '{script}'; echo code=$?\n")
    await typist.sees("\nup")
    typist.type("\x03")
    await typist.sees("interrupted")
    await typist.sees("code=9")


async def test_a_command_in_the_background_stops_when_it_reads_and_goes_on_in_front(
    fabric: Fabric, typist: Typist
) -> None:
    typist.type(f"{sys.executable} -m tandem run -q --vram 1GiB -- sh -c 'read line; echo \"<$line>\"' &\n")
    await until(lambda: len(fabric.leases) == 1)
    typist.type("sleep 1; jobs\n")
    await typist.sees("Stopped")
    await goes_on_in_front(fabric, typist, "word", "<word>")


async def test_a_terminal_shows_one_live_line_while_it_waits(fabric: Fabric, typist: Typist) -> None:
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60") as holder:
        await until(lambda: len(fabric.leases) == 1)
        typist.type(f"{sys.executable} -m tandem run --vram 20GiB -- echo ra''n; echo co''de=$?\n")
        await typist.sees("\r\x1b[Ktandem: waiting: place 1; needs 20.0 GiB, 4.0 GiB free (full on mainpc:0)")
        holder.terminate()
        await typist.sees("\r\x1b[Ktandem: 20.0 GiB on mainpc:0")
        await typist.sees("ran")
        await typist.sees("code=0")


async def test_a_wait_that_is_broken_off_leaves_the_prompt_a_line_of_its_own(fabric: Fabric, typist: Typist) -> None:
    async with running(fabric, "--vram", "20GiB", "--", "sleep", "60"):
        await until(lambda: len(fabric.leases) == 1)
        typist.type(f"{sys.executable} -m tandem run --vram 20GiB -- true; echo co''de=$?\n")
        await typist.sees("(full on mainpc:0)")
        typist.type("\x03")
        await typist.sees("^C\r\ncode=130")


async def test_who_goes_to_the_supervisor_alone_asks_under_another_key(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = asyncio.Event()

    async def acquire(asked: leases.AcquireLease, call: Call, own: str = "") -> leases.LeaseGranted:
        if not own:
            fabric.asked.append(asked)
            await silent.wait()
        return await Fabric.acquire(fabric, asked, call, own)

    monkeypatch.setattr(fabric, "acquire", acquire)
    code, _, err = await done(fabric, "--vram", "1GiB", "--host", "mainpc", "--", "true")
    assert code == Exit.OK
    assert "it said nothing within 0.7 s" in err
    first, second = fabric.asked
    assert first.idempotency_key != second.idempotency_key
    assert (first.model, first.bytes, first.owner) == (second.model, second.bytes, second.owner)


async def test_a_host_that_did_not_say_what_it_would_do_is_asked_before_one_that_never_could(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(asked: decisions.PlanLease, own: str = "") -> decisions.LeasePlan:
        if own == "mainpc":
            raise Unavailable("not now")
        return Fabric.plan(fabric, asked, own)

    monkeypatch.setattr(fabric, "plan", plan)
    monkeypatch.setattr(fabric, "environ", lambda: {**Fabric.environ(fabric), "TANDEM_HOST": ""})
    await fabric.stop("ResourceManager")
    code, _, err = await done(fabric, "--vram", "20GiB", "--", "true")
    assert code == Exit.OK, err
    assert "asking the supervisor of mainpc alone" in err
