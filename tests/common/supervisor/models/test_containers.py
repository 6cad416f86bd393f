"""Engines whose command runs a container, with a stand-in for docker and its daemon."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from common.config.models import Model, ModelHealth
from common.config.schema import Entry
from common.config.settings import MARK
from common.errors import Unavailable
from common.gpu import cgroups, container
from common.gpu.process_identity import identify, start_time
from common.gpu.simulated import GIB, use_bytes
from common.supervisor.models.containers import END_FILE, ContainerGuard, EngineContainers, LeftContainer
from tests.common.service.lab import until
from tests.common.supervisor.models.lab import lab, model
from tests.lab.docker import Docker

CARD = "GPU-a"


def entry(*words: str) -> Entry:
    return Entry(name="a", command=["docker", "run", *words])


def boxed_model(docker: Docker, *words: str) -> Model:
    env = {"STAND_IN_DOCKER": str(docker.home)}
    return model("boxed", 4, command=["docker", "run", "img", *words], env=env, health=ModelHealth(how="none"))


def test_a_container_is_shown_the_leased_cards_and_writes_its_id_into_a_folder_of_its_own(tmp_path: Path) -> None:
    containers = EngineContainers(tmp_path / "containers")
    prepared, container = containers.prepared(entry("--rm", "img", "serve"), "lease-1", [CARD])
    cidfile = tmp_path / "containers" / "a@lease-1" / "cid"
    label = "--label=tandem.lease=lease-1"
    assert prepared.command[2:5] == [label, f"--cidfile={cidfile}", "--gpus"]
    assert prepared.command[5:] == [f"device={CARD}", "--rm", "img", "serve"]
    assert container is not None
    cidfile.write_text("left over")
    containers.prepared(entry("img"), "lease-1", [CARD])
    assert not cidfile.exists(), "docker starts nothing over a file that is there"


def test_an_engine_that_starts_while_the_one_before_is_being_ended_leaves_that_its_id(tmp_path: Path) -> None:
    containers = EngineContainers(tmp_path)
    _, first = containers.prepared(entry("img"), "lease-1", [CARD])
    assert first is not None
    Path(first.last_words[0]).write_text("1" * 64)
    _, second = containers.prepared(entry("img"), "lease-2", [CARD])
    assert second is not None
    assert Path(first.last_words[0]).read_text() == "1" * 64
    Path(second.last_words[0]).write_text("2" * 64)
    first.close()
    assert [(each.name, each.container_id) for each in containers.left()] == [("a", "2" * 64)]


def test_a_command_that_runs_no_container_is_left_as_it_is(tmp_path: Path) -> None:
    plain = Entry(name="a", command=["llama-server"])
    assert EngineContainers(tmp_path / "containers").prepared(plain, "l", [CARD]) == (plain, None)
    assert not (tmp_path / "containers").exists()


def test_a_model_without_a_card_is_shown_none(tmp_path: Path) -> None:
    prepared, _ = EngineContainers(tmp_path).prepared(entry("img"), "l", [])
    assert "--gpus" not in prepared.command


def test_a_detached_container_and_a_folder_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="leave -d out"):
        EngineContainers(tmp_path).prepared(entry("-d", "img"), "l", [CARD])
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="nothing can be written"):
        EngineContainers(tmp_path / "file").prepared(entry("img"), "l", [CARD])


def test_folders_of_which_no_container_came_are_forgotten(tmp_path: Path) -> None:
    for name, told in (("empty", None), ("early", ["/nowhere/cid", "docker", "kill"]), ("broken", "no list")):
        (tmp_path / "containers" / name).mkdir(parents=True)
        if told is not None:
            (tmp_path / "containers" / name / END_FILE).write_bytes(msgspec.json.encode(told))
    containers = EngineContainers(tmp_path / "containers")
    assert containers.left() == []
    assert list((tmp_path / "containers").iterdir()) == []
    assert EngineContainers(tmp_path / "none").left() == []


def counting(tmp_path: Path) -> list[str]:
    """A container engine that writes down what it was told, in `told`; its last words for a container `abc`."""
    (tmp_path / "cid").write_text("abc")
    engine = tmp_path / "docker"
    engine.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path / "told"}\n')
    engine.chmod(0o755)
    return [str(tmp_path / "cid"), str(engine), "kill"]


def marked(pid: int) -> bool:
    return MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_container_is_ended_when_its_supervisor_is_gone_and_not_when_its_guard_was_dismissed(
    tmp_path: Path,
) -> None:
    words = counting(tmp_path)
    dismissed = ContainerGuard(words, {"PATH": os.environ["PATH"], MARK: "boot/1"})
    await dismissed.dismiss()
    assert dismissed._process.returncode == 0
    assert not (tmp_path / "told").exists()
    left = ContainerGuard(words, {"PATH": os.environ["PATH"], MARK: "boot/1"})
    assert not marked(left._process.pid), "the watchdog would end it before it could do anything"
    assert left._process.stdin is not None
    left._process.stdin.close()
    await asyncio.to_thread(left._process.wait, 60)
    assert (tmp_path / "told").read_text() == "kill abc\n"


def test_where_no_guard_can_be_had_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing_left(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    containers = EngineContainers(tmp_path)
    _, container = containers.prepared(entry("img"), "l", [CARD])
    assert container is not None
    monkeypatch.setattr(subprocess, "Popen", nothing_left)
    assert containers.guarded(container, {}) is None
    assert "would outlive this supervisor" in caplog.text


@pytest.mark.usefixtures("wrappers")
async def test_what_an_engines_container_holds_is_its_leases_and_it_ends_with_the_engine(
    tmp_path: Path, docker: Docker
) -> None:
    boxed = boxed_model(docker, "serve")
    async with lab(tmp_path, [boxed, model("big", 9)]) as it:
        ready = await it.use("boxed")
        container = identify(await docker.pid())
        assert container is not None
        use_bytes(it.cards / "0", 4 * GIB, container)
        await until(lambda: it.measured("boxed") == 4 * GIB)
        (card,) = (await it.host.ask("get_gpus"))["cards"]
        assert card["strangers"] == []
        assert docker.words[1] == f"--label=tandem.lease={ready.lease.shares}"
        assert docker.words[3:] == ["--gpus", f"device={card['card_uuid']}", "img", "serve"]
        await it.back(ready)
        await it.back(await it.use("big"))
        assert start_time(container.pid) is None
        assert it.state("boxed") == "absent"


@pytest.mark.usefixtures("wrappers")
async def test_a_container_that_goes_on_without_its_client_is_ended(tmp_path: Path, docker: Docker) -> None:
    boxed = boxed_model(docker)
    async with lab(tmp_path, [boxed]) as it:
        await it.use("boxed")
        pid = await docker.pid()
        (docker.home / "leave").touch()
        await until(lambda: start_time(pid) is None)
        assert docker.ended == [f"stop -t 5 {docker.id}"]
        await until(lambda: it.state("boxed") != "ready")


@pytest.mark.usefixtures("wrappers")
async def test_a_container_that_an_earlier_life_left_is_ended_by_the_next(tmp_path: Path, docker: Docker) -> None:
    command = ["docker", "run", f"--cidfile={tmp_path / 'cid'}", "img"]
    left = await asyncio.create_subprocess_exec(*command)
    pid = await docker.pid()
    left.kill()
    await left.wait()
    folder = tmp_path / "h" / "containers" / "boxed"
    folder.mkdir(parents=True)
    (folder / END_FILE).write_bytes(msgspec.json.encode([str(tmp_path / "cid"), "docker", "kill"]))
    async with lab(tmp_path, [model("boxed", 4)]):
        await until(lambda: start_time(pid) is None)
    assert docker.ended == [f"kill {docker.id}"]


@pytest.mark.parametrize(
    ("runs_on", "told"),
    [(False, "had been left running, and was ended"), (True, "was left running, and could not be ended")],
)
async def test_whether_a_container_that_was_left_has_ended_is_seen_and_one_that_has_not_is_the_next_lifes_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runs_on: bool, told: str
) -> None:
    words = counting(tmp_path)
    over = tmp_path / "told"
    monkeypatch.setattr(cgroups, "members", lambda _: [1] if runs_on or not over.exists() else [])
    monkeypatch.setattr(container, "STOP_S", 0.05)
    containers = EngineContainers(tmp_path / "containers")
    folder = tmp_path / "containers" / "boxed@lease-1"
    folder.mkdir(parents=True)
    (folder / END_FILE).write_bytes(msgspec.json.encode(words))
    left = containers.left()
    assert left == containers.left() == [LeftContainer("boxed", "abc", words[1:], folder)], "it may be killed by now"
    await containers.end(left)
    assert over.read_text() == "kill abc\n"
    assert f"the container of boxed {told}" in caplog.text
    assert containers.left() == (left if runs_on else [])
