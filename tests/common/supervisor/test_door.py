"""`python -m main_pc` as people and scripts meet it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.config.schema import Ports
from common.errors import Unavailable
from common.gpu.cards import open_cards
from common.supervisor.board import Progress
from common.supervisor.launching import choose_ports
from tests.common.supervisor.lives import gone, pinned, wait_until
from tests.common.supervisor.startup_files import Program, entry, processes, write_startup

pytestmark = pytest.mark.usefixtures("wrappers")


def program(
    folder: Path, *agents: dict[str, Any], options: tuple[str, ...] = (), ports: Ports | None = None
) -> Program:
    file = write_startup(folder / "startup.yaml", "h", ports or choose_ports(Ports()), *agents)
    return Program(folder, ["-m", "main_pc", "--config", str(file), *options])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_says_when_all_is_ready_and_ends_with_0_when_told_to(tmp_path: Path, number: int) -> None:
    with program(tmp_path, entry("top", depends_on=["base"]), entry("base")) as door:
        door.until_says("h: ready in ")
        assert "h/top" in door.said
        assert door.stop(number) == 0
    assert door.complained == ""
    assert '"base went from starting to ready ' in (tmp_path / "var/h/logs/supervisor.log").read_text()


def test_it_says_why_there_are_no_cards(tmp_path: Path) -> None:
    try:
        open_cards("h").close()
    except Unavailable as refusal:
        reason = refusal.message
    else:
        pytest.skip("needs a machine without an NVIDIA card")
    with program(tmp_path, entry("a")) as door:
        door.until_says(f"h: no cards to lease: {reason}\n")
        assert door.stop() == 0


def test_a_second_start_is_told_who_holds_the_home_and_disturbs_nobody(tmp_path: Path) -> None:
    ports = choose_ports(Ports())
    with program(tmp_path, entry("a"), ports=ports) as door:
        door.until_says("h: ready in ")
        before = processes(ports.port)["a"]["pid"]
        with program(tmp_path, entry("a"), ports=ports) as second:
            assert second.ends() == 1
        assert (
            f"nothing was started: h's home {tmp_path}/var/h is held by pid {door.process.pid} since"
            in second.complained
        )
        assert processes(ports.port)["a"]["pid"] == before


def test_a_taken_port_and_a_home_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    ports = choose_ports(Ports())
    with program(tmp_path, entry("a"), ports=ports) as door:
        door.until_says("h: ready in ")
        file = write_startup(tmp_path / "other.yaml", "other", ports)
        with Program(tmp_path, ["-m", "pc2", "--config", str(file)]) as second:
            assert second.ends() == 1
        assert f"other: 127.0.0.1:{ports.port} is taken by another process" in second.complained
    (tmp_path / "file").touch()
    with Program(tmp_path, ["-m", "pc2", "--config", str(file)], home=tmp_path / "file") as third:
        assert third.ends() == 1
    assert "cannot be written: Not a directory" in third.complained


def test_every_problem_of_a_file_is_told_and_nothing_is_started(tmp_path: Path) -> None:
    wrong = [
        entry("a", depends_on=["b", "zero"]),
        entry("b", depends_on=["a"]),
        entry("c", command=["no-such"], prot=1),
    ]
    with program(tmp_path, *wrong) as door:
        assert door.ends() == 1
    assert [word in door.complained for word in ("a -> b -> a", "'zero'", "'no-such'", "did you mean port?")] == [
        True
    ] * 4
    assert door.complained.endswith("nothing was started: 4 problems to mend\n")
    assert not (tmp_path / "var").exists()


def test_a_partial_start_says_what_failed_stops_the_rest_and_exits_1(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    fine = entry("fine", f"trap 'echo stopped > {mark}; exit' TERM; while :; do sleep 0.01; done")
    broken = entry("broken", "echo no model here >&2; exit 3", health={"how": "tcp"}, depends_on=["fine"])
    with program(tmp_path, fine, broken, entry("top", depends_on=["broken"])) as door:
        assert door.ends() == 1
    assert "h/broken did not become ready: crash-looping exit 3; ended 3 times within 60 s" in door.complained
    assert "    | no model here" in door.complained
    assert "h/top did not become ready: waiting for broken (crash-looping)" in door.complained
    assert mark.read_text() == "stopped\n"


def test_it_stays_with_what_is_ready_where_it_is_to_keep_going(tmp_path: Path) -> None:
    ports = choose_ports(Ports())
    broken = entry("broken", "exit 3", health={"how": "tcp"})
    with program(tmp_path, entry("fine"), broken, options=("--keep-going", "--json"), ports=ports) as door:
        door.until_says('"state":"failed"')
        assert processes(ports.port)["fine"]["phase"] == "ready"
        last = msgspec.json.decode(door.said.splitlines()[-1], type=Progress)
        assert {process.name: process.phase for process in last.processes} == {
            "fine": "ready",
            "broken": "crash-looping",
        }
        assert door.stop() == 0


def test_a_killed_process_comes_back_and_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    ports = choose_ports(Ports())
    with program(tmp_path, entry("a"), ports=ports) as door:
        door.until_says("h: ready in ")
        first = processes(ports.port)["a"]
        os.kill(first["pid"], signal.SIGKILL)
        wait_until(lambda: processes(ports.port)["a"]["pid"] not in (0, first["pid"]))
        second = processes(ports.port)["a"]
        assert (second["restarts"], second["last_exit"]) == (1, "killed by signal 9")
        orphan = pinned(second["pid"])
        assert door.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: gone(orphan))
    with program(tmp_path, entry("a"), ports=ports) as door:
        door.until_says("h: ready in ")


def test_an_odd_switch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SIMULATE_CARDS", "maybe")
    with program(tmp_path, entry("a")) as door:
        assert door.ends() == 1
    assert "TANDEM_SIMULATE_CARDS is 0, 1 or always, not 'maybe'" in door.complained


def test_no_cards_are_simulated_unless_it_is_asked_to(tmp_path: Path) -> None:
    ports = choose_ports(Ports())
    with program(tmp_path, ports=ports) as door:
        door.until_says("h: ready in ")
        assert processes(ports.port) == {}
    assert not (tmp_path / "var/h/cards").exists()
