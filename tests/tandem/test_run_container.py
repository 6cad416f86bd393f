from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from common.api import leases
from common.errors import Unavailable
from common.gpu import cgroups, container
from common.gpu.container import Container
from common.gpu.container_words import container_run
from common.gpu.process_identity import start_time, this_process
from common.gpu.simulated import card_uuid
from common.service.call import Call
from tandem.exits import Exit
from tests.lab.docker import Docker, docker_on_path
from tests.tandem.conftest import Tandem
from tests.tandem.fabric import GIB, Fabric
from tests.tandem.test_run import done, pid_in, running, until


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    with docker_on_path(tmp_path, monkeypatch) as found:
        yield found


async def test_a_container_gets_the_card_and_its_cgroup_becomes_the_leases(fabric: Fabric, docker: Docker) -> None:
    async with running(fabric, "--vram", "1GiB", "--", "docker", "run", "--rm", "img", "serve") as process:
        pid = await docker.pid()
        await until(lambda: len(fabric.marks) > 0)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 143
    assert start_time(pid) is None
    assert docker.words[1] == "--label=tandem.lease=lease-1"
    assert docker.words[3:] == ["--gpus", f"device={card_uuid('mainpc', 0)}", "--rm", "img", "serve"]
    (mark,) = fabric.marks
    assert (mark.lease_id, mark.fencing_token, mark.in_use) == ("lease-1", 1, None)
    assert mark.cgroup is not None
    assert mark.cgroup.endswith(docker.cgroup.name)
    assert docker.ended == []
    assert not os.path.exists(docker.words[2].removeprefix("--cidfile="))  # noqa: ASYNC240


async def test_a_mark_that_fails_is_made_again(fabric: Fabric, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, seen = fabric.mark, []

    def refuse_once(asked: leases.MarkLease, call: Call) -> leases.LeaseMarked:
        seen.append(asked)
        if len(seen) == 1:
            raise Unavailable("not now")
        return mark(asked, call)

    monkeypatch.setattr(fabric, "mark", refuse_once)
    await fabric.stop("Supervisor/mainpc")
    await fabric.start("Supervisor/mainpc")
    async with running(fabric, "--vram", "1GiB", "--", "docker", "run", "img") as process:
        await until(lambda: len(fabric.marks) > 0)
        process.terminate()
        await asyncio.wait_for(process.communicate(), 60)


async def test_a_container_that_goes_on_without_its_command_is_ended_before_the_lease(
    fabric: Fabric, docker: Docker
) -> None:
    async with running(fabric, "--vram", "1GiB", "--", "docker", "run", "img") as process:
        pid = await docker.pid()
        (docker.home / "leave").touch()
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 3
    assert "the container goes on without its command" in err.decode()
    assert docker.ended == [f"stop -t 5 {docker.id}"]
    assert start_time(pid) is None
    assert not fabric.leases


async def test_kill_9_of_the_holder_ends_the_container_too(fabric: Fabric, docker: Docker) -> None:
    words = ["--vram", "1GiB", "--", "docker", "run", "img"]
    async with running(fabric, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL) as process:
        pid = await docker.pid()
        process.kill()
        await until(lambda: start_time(pid) is None)
    assert docker.ended == [f"kill {docker.id}"]


def test_the_folders_of_runs_that_were_killed_leave_with_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cgroups, "members", lambda found: [1] if found == "lives" else [])
    mine, space = this_process(), os.stat("/proc/self/ns/pid").st_ino
    killed = f"tandem-run-{mine.pid}-{mine.start_time + 1}-{space}"
    named = {
        f"{killed}-early": "",
        f"{killed}-over": "ended",
        f"{killed}-on": "lives",
        f"tandem-run-{mine.pid}-{mine.start_time}-{space}-own": "",
        f"tandem-run-{mine.pid}-{mine.start_time + 1}-{space + 1}-elsewhere": "",
        "tandem-run-abc": "",
    }
    for name, cid in named.items():
        (tmp_path / name).mkdir()
        if cid:
            (tmp_path / name / "cid").write_text(cid)
    found = container_run(["docker", "run", "img"])
    assert found is not None
    run = Container(found, print)
    left = {each.name for each in tmp_path.iterdir()}
    own = Path(run.last_words[0]).parent.name
    assert left == {own, *named} - {f"{killed}-early", f"{killed}-over"}
    run.close()
    assert {each.name for each in tmp_path.iterdir()} == left - {own}


async def test_a_container_that_the_engine_cannot_end_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(container, "STOP_S", 0.05)
    monkeypatch.setattr(container, "END_S", 0.05)
    monkeypatch.setattr(cgroups, "members", lambda _: [1])
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\nexec sleep 1000\n")
    engine.chmod(0o755)
    for program in (str(engine), "/nowhere/docker"):
        found = container_run([program, "run", "img"])
        assert found is not None
        told: list[str] = []
        left = Container(found, told.append)
        await asyncio.wait_for(left.end(), 60)
        left.close()
        assert told[-1].endswith("could not be stopped; its memory is nobody's lease from now on")


async def test_a_container_that_runs_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(container, "UNSEEN_S", 0.2)
    found = container_run(["docker", "run", f"--cidfile={tmp_path / 'cid'}", "img"])
    assert found is not None
    told: list[str] = []
    elsewhere = Container(found, told.append)
    (tmp_path / "cid").write_text("f" * 64)

    async def never(cgroup: str) -> bool:
        raise AssertionError(cgroup)

    following = asyncio.create_task(elsewhere.follow(never))
    await until(lambda: bool(told))
    following.cancel()
    elsewhere.close()
    assert told == [
        "the container's processes are not seen on this machine: what it holds is not counted as the lease's"
    ]
    assert (tmp_path / "cid").exists()


def test_what_the_user_shows_the_container_is_told_where_it_is_not_the_lease() -> None:
    granted = leases.LeaseGranted(
        lease_id="l", host="h", card=0, card_uuid="GPU-a", fencing_token=1, expires_in_s=60, bytes=1
    )
    told: list[str] = []
    for said in ("device=GPU-a", "all"):
        found = container_run(["docker", "run", "--gpus", said, "img"])
        assert found is not None
        shown = Container(found, told.append)
        assert shown.words(granted.card_uuids or [granted.card_uuid], granted.lease_id)[-3:] == ["--gpus", said, "img"]
        shown.close()
    assert told == ["the container is shown all, as the command says; leased is GPU-a"]


async def test_the_kinds_of_lease_reach_the_request(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["--config", "ctx=8k", "--cards", "2", "--ram", "4GiB", "--exclusive", "--preemptible"]
    grant = fabric.grant

    def on_two(asked: leases.AcquireLease, host: str) -> leases.LeaseGranted:
        return msgspec.structs.replace(grant(asked, host), card_uuids=["GPU-a", "GPU-b"], shares="lease-0")

    monkeypatch.setattr(fabric, "grant", on_two)
    code, out, err = await done(fabric, "--vram", "1GiB", *kinds, "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert (code, out) == (0, "GPU-a,GPU-b\n")
    assert "1.0 GiB on mainpc:0 and on 1 more of its cards, lease lease-1, shared with lease-0" in err
    asked = fabric.asked[0]
    assert (asked.config, asked.cards, asked.ram_bytes) == ("ctx=8k", 2, 4 * GIB)
    assert (asked.exclusive, asked.in_use, asked.pinned, asked.share) == (True, False, False, False)
    await done(fabric, "--vram", "1GiB", "--share", "--pinned", "-q", "--", "true")
    assert (fabric.asked[1].share, fabric.asked[1].pinned, fabric.asked[1].in_use) == (True, True, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pinned", "--preemptible", "--", "true"], "contradict each other"),
        (["--share", "--exclusive", "--", "true"], "contradict each other"),
        (["--cards", "2", "--card", "GPU-a", "--", "true"], "leave it out for several"),
        (["--cards", "17", "--", "true"], "not in the range"),
        (["--", "docker", "run", "-d", "img"], "a detached container would outlive its lease"),
    ],
)
async def test_what_contradicts_itself_is_refused(words: list[str], told: str, fabric: Fabric, tandem: Tandem) -> None:
    code, _, err = await tandem("run", "--vram", "1GiB", *words)
    assert code == Exit.USAGE
    assert told in err
    assert not fabric.asked


async def test_a_command_that_is_ended_by_an_eviction_says_so_and_may_be_run_again(
    fabric: Fabric, tmp_path: Path
) -> None:
    words = ["--vram", "1GiB", "--preemptible", "--", "sh", "-c", f"echo $$ > {tmp_path / 'up'}; exec sleep 60"]
    async with running(fabric, *words) as process:
        await pid_in(tmp_path / "up")
        lease = fabric.leases["lease-1"]
        fabric.leases["lease-1"] = msgspec.structs.replace(lease, state="expiring", reason="qwen needs its room")
        process.terminate()
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == Exit.TRY_LATER
    assert "the lease was taken back while the command ran: qwen needs its room" in err.decode()


async def test_what_is_seen_only_at_the_end_is_reported(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = fabric.list

    def once_it_ended(asked: leases.ListLeases, call: Call) -> leases.Leases:
        fabric.measured["touch"] = GIB if (tmp_path / "ran").exists() else 0
        return listed(asked, call)

    monkeypatch.setattr(fabric, "list", once_it_ended)
    _, _, err = await done(fabric, "--vram", "1GiB", "--", "touch", str(tmp_path / "ran"))
    assert "most held: 1.0 GiB" in err


async def test_a_command_too_short_to_be_seen_is_not_said_to_have_held_nothing(fabric: Fabric) -> None:
    _, _, err = await done(fabric, "--vram", "1GiB", "--", "true")
    assert "most held: not measured" in err
