from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.gpu import cgroups
from common.vram.cards import ProcessId

ID = "4f2d9c" + "0" * 58
ONE, TWO = ProcessId(100, 1), ProcessId(200, 2)
Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """A /proc of our own, into which a test writes who is in which cgroup."""
    monkeypatch.setattr(cgroups, "_PROC", tmp_path)
    (tmp_path / "self").mkdir()

    def put(pid: int, lines: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(lines)

    return put


@pytest.fixture
def real_cgroup() -> Iterator[Path]:
    """A cgroup of the unified hierarchy, made and removed here."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroups of version 2 are mounted here")
    made = root / f"docker-{ID[:48]}{os.getpid():016d}.scope"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    yield made
    made.rmdir()


def test_a_process_has_the_cgroups_of_all_hierarchies_once_and_without_the_roots(
    proc: Callable[[int, str], None],
) -> None:
    proc(7, f"9:pids:/docker/{ID}\n8:memory:/docker/{ID}\n1:name=systemd:/\n0::/system.slice/x:y.service\n")
    assert cgroups.paths(7) == (f"/docker/{ID}", "/system.slice/x:y.service")
    assert cgroups.paths(8) == ()


@pytest.mark.parametrize(
    ("path", "cgroup", "within"),
    [
        ("/docker/a", "/docker/a", True),
        ("/docker/a/init", "/docker/a", True),
        ("/docker/a/init", "/docker/a/", True),
        ("/docker/ab", "/docker/a", False),
        ("/docker", "/docker/a", False),
        ("/docker/a", "/", False),
        ("/docker/a", "", False),
    ],
)
def test_within_is_the_cgroup_itself_and_what_is_below_it(path: str, cgroup: str, within: bool) -> None:
    assert cgroups.is_within(path, cgroup) == within


def test_the_innermost_cgroups_owner_has_the_process(proc: Callable[[int, str], None]) -> None:
    proc(7, "0::/outer/inner/leaf\n")
    proc(8, "0::/elsewhere\n")
    owners = {"/outer": ONE, "/outer/inner": TWO}
    assert cgroups.owner_of(7, owners) == TWO
    assert cgroups.owner_of(8, owners) is None
    assert cgroups.owner_of(7, {}) is None


def test_no_cgroup_around_the_supervisor_can_be_claimed(proc: Callable[[int, str], None]) -> None:
    proc(7, "0::/user.slice/session.scope\n")
    owners = {"/user.slice": ONE, "/": ONE, "/user.slice/session.scope": ONE, "/user.slice/session.scope/box": TWO}
    assert cgroups.claimable(owners, 7) == {"/": ONE, "/user.slice/session.scope/box": TWO}
    assert cgroups.owner_of(7, {"/": ONE}) is None


@pytest.mark.parametrize(
    ("path", "cgroup"),
    [
        (f"/docker/{ID}", f"/docker/{ID}"),
        (f"/system.slice/docker-{ID}.scope", f"/system.slice/docker-{ID}.scope"),
        (f"/system.slice/docker-{ID}.scope/init/deep", f"/system.slice/docker-{ID}.scope"),
        (f"/user.slice/user-1.slice/libpod-{ID}.scope/container", f"/user.slice/user-1.slice/libpod-{ID}.scope"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", ""),
        ("/docker/other", ""),
    ],
)
def test_a_containers_cgroup_is_found_by_its_id(path: str, cgroup: str, proc: Callable[[int, str], None]) -> None:
    proc(7, f"0::{path}\n")
    assert cgroups.container_cgroup(ID) == cgroup
    assert cgroups.members(ID) == ([7] if cgroup else [])


def test_no_id_names_no_container(proc: Callable[[int, str], None]) -> None:
    proc(7, "0::/docker/x\n")
    assert cgroups.container_cgroup("") == ""


def test_a_process_in_a_real_cgroup_is_found_and_gone_with_its_end(real_cgroup: Path, start: Program) -> None:
    process = start("sleep", "1000")
    container = real_cgroup.name.removeprefix("docker-").removesuffix(".scope")
    assert cgroups.container_cgroup(container) == ""
    (real_cgroup / "cgroup.procs").write_text(str(process.pid))
    found = cgroups.container_cgroup(container)
    assert found.endswith(real_cgroup.name)
    assert cgroups.owner_of(process.pid, {found: ONE}) == ONE
    assert cgroups.members(container) == [process.pid]
    process.kill()
    process.wait()
    assert cgroups.members(container) == []
