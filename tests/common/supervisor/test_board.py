from __future__ import annotations

import io
import re
import threading

import msgspec
import pytest

from common.api.supervisor import Process
from common.supervisor import board
from common.supervisor.board import Board, JsonFace, LineFace, LiveFace, Progress, State, open_board

ESCAPES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def plain(self) -> str:
        return ESCAPES.sub("", self.getvalue())


def process(name: str, phase: str = "starting", waiting_for: str = "", last_exit: str = "") -> Process:
    return Process(
        name=name, kind="agent", phase=phase, waiting_for=waiting_for, pid=0, start_time=0, restarts=0, uptime_s=0.0,
        rss_bytes=0, cpu_pct=0.0, port=0, health_check_port=0, capabilities=[], last_exit=last_exit, stderr_tail=[],
        since="2026-01-31T12:00:00.000Z",
    )  # type: ignore[arg-type]  # fmt: skip


def progress(*processes: Process, state: State = "starting", host: str = "h") -> Progress:
    return Progress(host=host, state=state, elapsed_s=1.0, processes=list(processes))


def test_lines_tell_of_each_change_once_and_not_of_seconds_that_go_on() -> None:
    out = io.StringIO()
    face = LineFace(out)
    face.progress(progress(process("a", waiting_for="restart 1 of 2 in 0.2 s after exit 1")))
    face.progress(progress(process("a", waiting_for="restart 1 of 2 in 0.1 s after exit 1")))
    face.tick()
    face.progress(
        progress(process("a", "ready", last_exit="exit 1"), process("b", "crash-looping", last_exit="exit 3"))
    )
    face.end()
    lines = [line.split(maxsplit=1)[1].split() for line in out.getvalue().splitlines()]
    assert lines == [
        ["h/a", "starting", *["restart", "1", "of", "2", "in", "0.2", "s", "after", "exit", "1"]],
        ["h/a", "ready"],
        ["h/b", "crash-looping", "exit", "3"],
    ]


def test_a_host_that_has_not_joined_is_told_of_once_and_stands_in_the_table() -> None:
    lone = Progress(
        host="h", state="starting", elapsed_s=1.0, processes=[], unjoined={"pc2": "run `tandem invite pc2`"}
    )
    lines, table = io.StringIO(), Terminal()
    for face in (LineFace(lines), LiveFace(["h"], table)):
        face.progress(lone)
        face.progress(lone)
        face.end()
    assert [line.split(maxsplit=1)[1] for line in lines.getvalue().splitlines()] == ["h: run `tandem invite pc2`"]
    assert "link to pc2" in table.plain
    assert "not joined" in table.plain


def test_json_is_one_progress_a_line_and_no_sentence() -> None:
    out = io.StringIO()
    face = JsonFace(out)
    told = [progress(process("a")), progress(process("a", "ready"), state="ready")]
    for one in told:
        face.progress(one)
    face.say("ready")
    face.tick()
    face.end()
    assert [msgspec.json.decode(line, type=Progress) for line in out.getvalue().splitlines()] == told


def test_a_terminal_shows_one_table_of_all_hosts_until_every_start_is_over() -> None:
    out = Terminal()
    face = LiveFace(["h", "other"], out)
    face.progress(progress(process("a", waiting_for="other/b (other was not heard of)")))
    assert "its ports" in out.plain
    face.say("above")
    face.progress(progress(process("b", "ready"), host="other", state="ready"))
    face.progress(progress(process("a", "ready"), state="ready"))
    table = out.plain
    assert "above" in table
    assert "other was not heard of" in table
    face.progress(progress(process("a", "ready"), state="ready"))
    face.tick()
    face.say("below")
    assert out.plain[len(table) :] == "below\n", "what the table showed is not told again"
    face.progress(progress(process("a", "stopped", last_exit="exit 0")))
    assert out.plain.split()[-4:] == ["h/a", "stopped", "exit", "0"]
    face.end()


def test_the_face_follows_from_where_it_goes() -> None:
    for out, as_json, face in (
        (Terminal(), False, LiveFace),
        (io.StringIO(), False, LineFace),
        (Terminal(), True, JsonFace),
    ):
        opened = open_board(["h"], as_json=as_json, out=out)
        assert isinstance(opened._face, face)
        opened.say("x")
        opened.close()


@pytest.mark.parametrize(("told", "erased"), [([], True), ([progress(process("a", waiting_for="b"))], False)])
def test_a_table_that_no_supervisor_told_anything_of_is_taken_away(told: list[Progress], erased: bool) -> None:
    out = Terminal()
    face = LiveFace(["h"], out)
    for each in told:
        face.progress(each)
    face.end()
    assert out.getvalue().endswith("\x1b[1A\x1b[2K") is erased


def test_a_terminal_that_is_held_holds_nobody() -> None:
    held, taken = threading.Event(), []

    class Held(LineFace):
        def progress(self, progress: Progress) -> None:
            held.wait(60)
            taken.append(progress)

    board_ = Board(Held(io.StringIO()))
    for _ in range(board.KEPT + 100):
        board_.show(progress())
    held.set()
    board_.close()
    assert board.KEPT <= len(taken) <= board.KEPT + 1, "what is too much is not shown"


def test_a_reader_that_went_away_ends_the_showing_and_nothing_else() -> None:
    out = io.StringIO()
    out.close()
    gone = Board(LineFace(out))
    gone.say("hello")
    gone.close()
    assert not gone._thread.is_alive()


def test_a_board_lets_the_seconds_go_on() -> None:
    ticked = threading.Event()

    class Ticking(LineFace):
        def tick(self) -> None:
            ticked.set()

    ticking = Board(Ticking(io.StringIO()))
    assert ticked.wait(60)
    ticking.close()
