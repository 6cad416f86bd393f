from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from common.config.schema import Agent, Limits, Logs, Ports, Startup, Stop
from common.config.units import Duration, Size
from common.errors import Internal
from common.supervisor import processes as module
from common.supervisor import watchdog
from common.supervisor.guard import Guard
from common.supervisor.home import HostHome
from common.supervisor.instructions import Exited, Launched
from common.supervisor.logs import read_log
from common.supervisor.processes import Processes
from common.supervisor.sessions import Session, load, save
from common.supervisor.watchdog import Process
from common.telemetry.system_clock import SystemClock
from tests.common.supervisor.lives import ended, gone, pid_in, pinned, stubborn, until

pytestmark = pytest.mark.usefixtures("wrappers")
BOOT = f"boot-{os.getpid()}"
"""A supervisor's life of its own for each run: a mark that two runs shared would have each end the other's processes."""
SHELL_ENVIRON = {"PATH": os.environ["PATH"]}


def agent(name: str, *command: str, **fields: object) -> Agent:
    return Agent(name=name, command=list(command), **fields)  # type: ignore[arg-type]


class Host:
    """A supervisor's processes without the supervisor."""

    def __init__(self, folder: Path, *agents: Agent, boot: str = BOOT) -> None:
        self.exits: list[Exited] = []
        self.home = HostHome(folder, "h")
        self.home.claim(SystemClock())
        startup = Startup(version=1, host="h", supervisor=Ports(), agents=list(agents))
        self.processes = Processes(startup, self.home, boot, SystemClock(), self.exits.append, SHELL_ENVIRON)

    def launch(self, name: str, life: int = 1) -> Process:
        launched = self.processes.launch(name, life)
        assert isinstance(launched, Launched), launched
        return Process(launched.pid, launched.start_time)

    async def exit(self, number: int = 1) -> Exited:
        await until(lambda: len(self.exits) >= number)
        return self.exits[number - 1]

    def log(self, name: str) -> str:
        return read_log(self.processes.log_file(name), 0, 1_000_000).text


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(*agents: Agent) -> Host:
        made.append(Host(tmp_path, *agents))
        return made[-1]

    yield make
    for one in made:
        await one.processes.close()
        one.home.release()


async def test_an_end_is_told_with_code_log_and_last_error_lines(host: Callable[..., Host]) -> None:
    one = host(agent("a", "sh", "-c", "echo out; echo one >&2; printf two >&2; exit 3"))
    await one.processes.open()
    launched = one.launch("a")
    assert load(one.home.sessions_file)[0].process == launched
    exited = await one.exit()
    assert (exited.name, exited.life, exited.code, exited.stderr_tail) == ("a", 1, 3, ("one", "two"))
    assert sorted(one.log("a").splitlines()) == ["one", "out", "two"]
    assert load(one.home.sessions_file) == []
    assert one.processes.session("a") is None


async def test_a_child_leads_its_own_session_under_its_limits(host: Callable[..., Host]) -> None:
    limits = Limits(nice=7, cpus=[0], memory_bytes=Size(512 * 2**20), open_files=77)
    script = "import os, resource as r; print(os.getsid(0) == os.getpid(), os.nice(0), os.sched_getaffinity(0), "
    script += "r.getrlimit(r.RLIMIT_DATA), r.getrlimit(r.RLIMIT_NOFILE), os.environ['TANDEM_AGENT_NAME'])"
    one = host(agent("a", "{python}", "-c", script, limits=limits))
    await one.processes.open()
    one.launch("a")
    await one.exit()
    assert one.log("a") == f"True {os.nice(0) + 7} {{0}} (536870912, 536870912) (77, 77) a\n"


async def test_a_program_or_folder_that_is_not_there_is_an_end_without_a_code(host: Callable[..., Host]) -> None:
    one = host(agent("a", "no-such-program"), agent("b", "true", cwd="/no/such/folder"))
    await one.processes.open()
    missing, lost = one.processes.launch("a", 1), one.processes.launch("b", 4)
    assert isinstance(missing, Exited)
    assert (missing.code, missing.reason) == (None, "there is no program 'no-such-program' to run")
    assert isinstance(lost, Exited)
    assert lost.life == 4
    assert "could not be launched: " in lost.reason


async def test_terminate_is_polite_to_the_whole_session_and_waits_for_all_of_it(host: Callable[..., Host]) -> None:
    child = "trap 'echo child; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    one = host(agent("a", "sh", "-c", f'trap "exit 5" TERM; sh -c "{child}" & while :; do sleep 0.05; done'))
    await one.processes.open()
    one.launch("a")
    await until(lambda: "up" in one.log("a"))
    one.processes.terminate("a")
    exited = await one.exit()
    assert exited.code == 5
    assert "child" in one.log("a")


async def test_a_leader_is_told_to_stop_before_the_others_are_looked_for(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(agent("a", "sleep", "60"))
    await one.processes.open()
    leader, looks = one.launch("a"), threading.Event()
    find = Session.members

    def finding(session: Session) -> set[Process]:
        assert looks.wait(60)
        return find(session)

    monkeypatch.setattr(Session, "members", finding)
    one.processes.terminate("a")
    await until(lambda: gone(leader))
    assert one.exits == [], "whether others are left has to be looked for"
    looks.set()
    assert (await one.exit()).code == -signal.SIGTERM


async def test_who_comes_after_a_life_hears_no_signal_that_was_meant_for_it(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(agent("a", "sleep", "60"))
    await one.processes.open()
    one.launch("a")
    find, first, late = Session.members, [True], threading.Event()

    def finding(session: Session) -> set[Process]:
        if first and threading.current_thread() is not threading.main_thread():
            first.clear()
            assert late.wait(60)
        return find(session)

    monkeypatch.setattr(Session, "members", finding)
    one.processes.terminate("a")
    await one.exit()
    second = one.launch("a", 2)
    late.set()
    await until(lambda: not one.processes._ending)
    assert not gone(second)


async def test_the_stop_signal_is_the_entrys_own(host: Callable[..., Host]) -> None:
    one = host(
        agent("a", "sh", "-c", "trap 'exit 9' INT; echo up; while :; do sleep 0.05; done", stop=Stop(signal="INT"))
    )
    await one.processes.open()
    one.launch("a")
    await until(lambda: "up" in one.log("a"))
    one.processes.terminate("a")
    assert (await one.exit()).code == 9


async def test_kill_reaches_what_ignores_term_in_and_out_of_the_session(
    host: Callable[..., Host], tmp_path: Path
) -> None:
    one = host(agent("a", *stubborn(tmp_path / "in")), agent("b", *stubborn(tmp_path / "out", leaves_session=True)))
    await one.processes.open()
    leaders = [one.launch("a"), one.launch("b")]
    await until(lambda: (tmp_path / "in").exists() and (tmp_path / "out").exists())
    grandchildren = [pid_in(tmp_path / "in"), pid_in(tmp_path / "out")]
    for name in ("a", "b"):
        one.processes.terminate(name)
        one.processes.kill(name)
    await one.exit(2)
    assert {exited.code for exited in one.exits} == {-signal.SIGKILL}
    assert gone(*leaders, *grandchildren)


async def test_what_a_crashed_process_leaves_behind_is_gone_before_its_end_is_told(
    host: Callable[..., Host], tmp_path: Path
) -> None:
    then = f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.01)\nsys.exit(4)"
    one = host(agent("a", *stubborn(tmp_path / "pid", then=then)))
    await one.processes.open()
    one.launch("a")
    exited = await one.exit()
    assert exited.code == 4
    assert ended(int((tmp_path / "pid").read_text()))


async def test_a_session_stuck_in_the_kernel_is_told_of_all_the_same(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(agent("a", "true"))
    await one.processes.open()
    stuck = {pinned(os.getppid())}
    monkeypatch.setattr(Session, "members", lambda self: stuck)
    monkeypatch.setattr(watchdog, "send", lambda process, number: None)
    monkeypatch.setattr(module, "STUCK_AFTER_S", 0.05)
    one.launch("a")
    exited = await one.exit()
    assert exited.reason == "1 of its processes cannot be killed"


async def test_a_log_is_rotated_while_its_process_writes(host: Callable[..., Host]) -> None:
    one = host(agent("a", "sh", "-c", "seq 1 20000", logs=Logs(max_bytes=Size(10_000), keep=2)))
    await one.processes.open()
    one.launch("a")
    await one.exit()
    files = list(one.processes.log_file("a").parent.iterdir())
    assert len(files) == 3
    assert all(file.stat().st_size <= 10_000 for file in files)
    assert one.log("a").endswith("\n20000\n")


async def test_a_process_that_writes_fast_is_heard_to_its_last_byte(host: Callable[..., Host]) -> None:
    one = host(agent("a", "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"))
    await one.processes.open()
    one.launch("a")
    await one.exit()
    assert one.processes.log_file("a").stat().st_size == 1_000_000


async def test_what_a_stray_writes_without_end_holds_nobody_up(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def read_behind_the_writer(pipe: int, limit: int) -> bytes:
        select.select([pipe], [], [], 1.0)
        return read(pipe, limit)

    monkeypatch.setattr(module.os, "read", read_behind_the_writer)
    stray = "env -i PATH=$PATH setsid yes & sleep 0.3"
    one = host(agent("a", "sh", "-c", stray, logs=Logs(max_bytes=Size(100_000), keep=1)))
    await one.processes.open()
    one.launch("a")
    assert (await one.exit()).code == 0


async def test_an_end_is_told_though_its_last_lines_cannot_be_read(host: Callable[..., Host], tmp_path: Path) -> None:
    log = tmp_path / "h" / "logs" / "a.log"
    one = host(agent("a", "sh", "-c", f"rm {log}; mkdir {log}; exit 3", survive_supervisor=True))
    await one.processes.open()
    one.launch("a")
    exited = await one.exit()
    assert (exited.code, exited.stderr_tail) == (3, ())


async def test_only_the_last_error_lines_are_kept_and_each_only_so_long(host: Callable[..., Host]) -> None:
    one = host(agent("a", "sh", "-c", "seq 1 100 >&2; head -c 5000 /dev/zero | tr '\\0' x >&2"))
    await one.processes.open()
    one.launch("a")
    tail = (await one.exit()).stderr_tail
    assert len(tail) == module.TAIL_LINES
    assert tail[0] == "82"
    assert len(tail[-1]) <= module.TAIL_LINE_BYTES


async def test_signals_to_nobody_and_a_full_disk_are_harmless(host: Callable[..., Host], tmp_path: Path) -> None:
    one = host(agent("a", "sleep", "60"))
    await one.processes.open()
    one.processes.terminate("a")
    one.processes.kill("a")
    one.home.sessions_file.with_suffix(".new").mkdir()
    one.launch("a")
    one.processes.kill("a")
    assert (await one.exit()).code == -signal.SIGKILL


async def test_close_ends_everything(host: Callable[..., Host], tmp_path: Path) -> None:
    one = host(agent("a", *stubborn(tmp_path / "pid")), agent("b", "sleep", "60"))
    await one.processes.open()
    launched = [one.launch("a"), one.launch("b")]
    await until((tmp_path / "pid").exists)
    grandchild = pid_in(tmp_path / "pid")
    dog = pinned(one.processes._guard.pid)
    await one.processes.close()
    assert gone(*launched, grandchild, dog)
    assert len(one.exits) == 2
    assert one.processes._guard.pid == 0


async def test_a_process_that_cannot_be_watched_is_not_left_running(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(agent("a", "sleep", "60"))
    await one.processes.open()

    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "pidfd_open", refuse)
        exited = one.processes.launch("a", 1)
    assert isinstance(exited, Exited)
    assert exited.reason == "could not be watched: [Errno 24] Too many open files"
    assert one.processes.session("a") is None


async def test_a_watchdog_that_dies_is_started_anew_and_knows_every_session(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.guard.RESPAWN_S", 0.02)
    one = host(agent("a", "sleep", "60"), agent("b", "sleep", "60"))
    await one.processes.open()
    launched = one.launch("a")
    first = one.processes._guard.pid
    os.kill(first, signal.SIGKILL)
    one.launch("b")
    with monkeypatch.context() as patched:
        patched.setattr(
            subprocess, "Popen", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no more processes"))
        )
        await until(lambda: one.processes._guard.pid == 0)
        await asyncio.sleep(0.05)
    await until(lambda: one.processes._guard.pid not in (0, first))
    await one.processes._guard.close()
    await one.exit(2)
    assert gone(launched)


async def test_a_watchdog_that_does_not_listen_is_replaced_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.supervisor.guard.RESPAWN_S", 0.02)
    guard = Guard("mark-of-nobody/")
    guard.open()
    first = guard.pid
    os.kill(first, signal.SIGSTOP)
    for sid in range(1, 5_001):
        guard.watch(Session("a", 2**22 + sid, 1, ""))
    for sid in range(1, 5_001):
        guard.forget(Session("a", 2**22 + sid, 1, ""))
    await until(lambda: guard.pid not in (0, first))
    await guard.close()


async def test_a_watchdog_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.supervisor.guard.CLOSE_S", 0.1)
    guard = Guard("mark-of-nobody/")
    guard.open()
    dog = pinned(guard.pid)
    os.kill(dog.pid, signal.SIGSTOP)
    await guard.close()
    assert gone(dog)


async def test_a_guard_closes_while_its_watchdog_is_away() -> None:
    guard = Guard("mark/")
    guard.open()
    os.kill(guard.pid, signal.SIGKILL)
    await until(lambda: guard.pid == 0)
    guard.watch(Session("a", 1, 1, ""))
    guard.forget(Session("b", 2, 1, ""))
    await guard.close()


def test_processes_are_launched_from_the_main_thread_alone(tmp_path: Path) -> None:
    told: list[str] = []

    def elsewhere() -> None:
        one = Host(tmp_path)
        try:
            asyncio.run(one.processes.open())
        except Internal as error:
            told.append(error.message)
        one.home.release()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread alone" in told[0]


SUPERVISOR = """
import asyncio, sys
sys.path[:0] = [{root!r}]
from pathlib import Path
from tests.common.supervisor.test_processes import BOOT, Host, agents_of
async def main():
    one = Host(Path({folder!r}), *agents_of(Path({folder!r})), boot=BOOT + "-dead")
    await one.processes.open()
    for name in ("stubborn", "stray", "plain", "survivor"):
        print(one.launch(name).pid, flush=True)
    print(one.processes._guard.pid, flush=True)
    await asyncio.sleep(120)
asyncio.run(main())
"""


def agents_of(folder: Path) -> list[Agent]:
    return [
        agent("stubborn", *stubborn(folder / "in")),
        agent("stray", *stubborn(folder / "out", leaves_session=True)),
        agent("plain", "sh", "-c", "while :; do echo noise; sleep 0.01; done"),
        agent("survivor", "sh", "-c", "echo alive >&2; sleep 120; exit 7", survive_supervisor=True, port=9_123),
    ]


def killed_supervisor(folder: Path, *, watchdog_too: bool = False) -> list[Process]:
    """Starts a supervisor's processes in a program of its own, kills it with -9, and tells who they were."""
    code = SUPERVISOR.format(root=str(Path(__file__).parents[3]), folder=str(folder))
    popen = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    pids = [int(popen.stdout.readline()) for _ in range(5)]
    asyncio.run(until(lambda: (folder / "in").exists() and (folder / "out").exists()))
    everyone = [pinned(pid) for pid in pids] + [pid_in(folder / "in"), pid_in(folder / "out")]
    if watchdog_too:
        os.kill(pids[4], signal.SIGKILL)
    popen.kill()
    popen.communicate()
    return everyone


def test_when_the_supervisor_is_killed_only_the_survivor_stays_and_is_adopted(tmp_path: Path) -> None:
    stubborn_one, stray, plain, survivor, dog, *grandchildren = killed_supervisor(tmp_path)
    asyncio.run(until(lambda: gone(stubborn_one, stray, plain, dog, *grandchildren)))
    assert not gone(survivor)

    async def next_supervisor() -> None:
        one = Host(tmp_path, *agents_of(tmp_path), boot=f"{BOOT}-next")
        adopted = await one.processes.open()
        assert [(launched.name, launched.pid, launched.port) for launched in adopted] == [
            ("survivor", survivor.pid, 9_123)
        ]
        one.processes.kill("survivor")
        exited = await one.exit()
        assert (exited.code, exited.stderr_tail[0]) == (None, "alive")
        assert gone(survivor)
        await one.processes.close()
        one.home.release()

    asyncio.run(next_supervisor())


def test_when_the_watchdog_is_killed_too_the_next_supervisor_ends_what_is_left(tmp_path: Path) -> None:
    *_, survivor, _, inside, outside = everyone = killed_supervisor(tmp_path, watchdog_too=True)
    asyncio.run(until(lambda: gone(*everyone[:3])))
    assert not gone(survivor, inside, outside)

    async def next_supervisor() -> None:
        one = Host(tmp_path, boot=f"{BOOT}-next")
        assert await one.processes.open() == []
        await one.processes.close()
        one.home.release()

    asyncio.run(next_supervisor())
    assert gone(*everyone)


def test_ends_and_logs_are_seen_under_uvloop_too(tmp_path: Path) -> None:
    async def life() -> None:
        one = Host(tmp_path, agent("a", "sh", "-c", "echo out; echo bad >&2; sleep 60"))
        await one.processes.open()
        one.launch("a")
        await until(lambda: "out" in one.log("a") and "bad" in one.log("a"))
        one.processes.terminate("a")
        assert (await one.exit()).stderr_tail[0] == "bad"
        await one.processes.close()
        one.home.release()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())


async def test_a_survivor_that_dies_before_it_is_adopted_is_passed_over(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(agent("a", "sleep", "60", survive_supervisor=True, stop=Stop(term_s=Duration(1))))
    save(one.home.sessions_file, [Session("a", 2**22 + 1, 1, "survivor/boot-0/a", survives=True)])
    monkeypatch.setattr(module.sessions, "alive", lambda session: True)
    assert await one.processes.open() == []
