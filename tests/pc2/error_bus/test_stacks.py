from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.error_bus import StackFrame
from pc2.error_bus.stacks import END_CHARS, END_FRAMES, PLACES, Place, own_places, text_of

PYTHON = """Traceback (most recent call last):
  File "/srv/agents/reader/main.py", line 12, in <module>
    run()
    ~~~^^
  File "/usr/lib/python3.11/asyncio/runners.py", line 190, in run
    return runner.run(main)
  File "/opt/venv/lib/python3.11/site-packages/torch/nn.py", line 7, in forward
    x
  File "/opt/checkout/common/service/onion.py", line 3, in _run
    y
  File "<frozen importlib._bootstrap>", line 1, in _find
  File "/srv/agents/reader/model.py", line 99, in load
    raise MemoryError("no room")
MemoryError: no room
"""
OWN = [Place("reader/main.py", "<module>"), Place("reader/model.py", "load")]


def failing(depth: int) -> None:
    if depth == 0:
        raise ValueError("x")
    failing(depth - 1)


def stack_of(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception:
        return traceback.format_exc()
    raise AssertionError("it did not fail")


def test_of_a_python_traceback_the_agents_own_frames_count() -> None:
    assert own_places(PYTHON) == OWN


def test_a_line_moved_by_an_edit_is_the_same_place() -> None:
    assert own_places(PYTHON.replace("line 99", "line 101")) == OWN


def test_where_the_code_is_installed_does_not_matter() -> None:
    assert own_places(PYTHON.replace("/srv/agents", "/home/me/tmpab12cd_9")) == OWN
    assert own_places(PYTHON.replace("/srv/agents/", "C:\\agents\\").replace("reader/m", "reader\\m")) == OWN


@pytest.mark.parametrize(
    ("one", "other"), [("/srv/tmpab12cd_9/x.py", "/srv/tmpzz00yy11/x.py"), ("/srv/v1.2.3/x.py", "/srv/v1.2.10/x.py")]
)
def test_a_folder_that_changes_with_every_start_or_release_does_not_matter(one: str, other: str) -> None:
    assert own_places([StackFrame(file=one)]) == own_places([StackFrame(file=other)])


@pytest.mark.parametrize(
    "file",
    [
        "/opt/checkout/common/agent/agent.py",
        "/home/me/tandem/common/supervisor/relay/table.py",
        "pc2/resource_manager/tasks/queue.py",
        "main_pc/core_orchestrator/service.py",
        "/opt/checkout/tandem/__main__.py",
        "/opt/checkout/tandem/commands/run.py",
        "C:\\tandem\\common\\wire\\codec.py",
        "/usr/lib/python3.11/json/decoder.py",
        "/venv/lib64/python3.12/site-packages/zmq/sugar.py",
        "/srv/node_modules/zeromq/lib.js",
        "/root/.cargo/registry/src/zmq.rs",
        "/root/go/pkg/mod/zmq/zmq.go",
    ],
)
def test_libraries_and_tandem_are_not_the_agents_own(file: str) -> None:
    assert own_places([StackFrame(file=file), StackFrame(file="/srv/common/mine.py")]) == [Place("common/mine.py", "")]


def test_what_lies_in_a_folder_called_tandem_is_not_tandems_for_that() -> None:
    mine = StackFrame(file="/home/me/tandem/my_agents/reader.py")
    assert own_places([StackFrame(file="common/wire/codec.py"), mine]) == [Place("my_agents/reader.py", "")]


def test_with_no_frame_of_its_own_all_frames_count() -> None:
    lines = [line for line in PYTHON.splitlines() if "/srv/" not in line]
    assert own_places("\n".join(lines))[0] == Place("asyncio/runners.py", "run")


def test_own_code_is_what_lies_under_the_paths_told() -> None:
    own = own_places(PYTHON, ["/opt/checkout/common/", "", "/srv/agents/reader/main.py", "/srv/agents/read"])
    assert own == [Place("reader/main.py", "<module>"), Place("service/onion.py", "_run")]


def test_what_a_frame_says_of_itself_goes_first() -> None:
    frames = [StackFrame(file="/srv/a.py", own=False), StackFrame(file="/x/site-packages/b.py", function="f", own=True)]
    assert own_places(frames) == [Place("site-packages/b.py", "f")]


def test_lines_in_a_list_are_read_as_text_and_mixed_with_frames() -> None:
    lines: list[str | StackFrame] = [*PYTHON.splitlines(keepends=True), StackFrame(file="/srv/agents/x/y.py", line=3)]
    assert own_places(lines) == [*OWN, Place("x/y.py", "?")]


def test_the_depth_of_a_recursion_does_not_matter() -> None:
    assert own_places(stack_of(lambda: failing(2))) == own_places(stack_of(lambda: failing(400)))


def chained() -> None:
    try:
        failing(1)
    except ValueError as error:
        raise KeyError("y") from error


def grouped() -> None:
    try:
        failing(1)
    except ValueError as error:
        raise ExceptionGroup("all", [error, KeyError("y")]) from None


def test_of_chained_errors_the_last_counts_and_of_a_group_the_group() -> None:
    assert [place.function for place in own_places(stack_of(chained))] == ["stack_of", "chained"]
    assert [place.function for place in own_places(stack_of(grouped))] == ["stack_of", "grouped"]


@pytest.mark.parametrize(
    ("stack", "places"),
    [
        (
            "Error: no\n    at read (/srv/app/reader.js:12:5)\n    at async main (file:///srv/app/index.mjs:1:2)\n"
            "    at Module.load (node:internal/modules:3:4)\n    at x (/srv/node_modules/y/z.js:1:1)\n    at /srv/app/a.js:3:4",
            [Place("app/reader.js", "read"), Place("app/index.mjs", "main"), Place("app/a.js", "")],
        ),
        ("java.lang.X: no\n\tat org.Reader.read(Reader.java:12)", [Place("Reader.java", "org.Reader.read")]),
        ("panic: no\n\nmain.read(0xc0001)\n\t/srv/app/reader.go:12 +0x1d", [Place("app/reader.go", "")]),
        ("   3: reader::load\n             at ./src/main.rs:4:5", [Place("src/main.rs", "")]),
        ("no frame at all, at 12:30", []),
        ("", []),
    ],
)
def test_stacks_of_other_languages_are_read_by_their_files(stack: str, places: list[Place]) -> None:
    assert own_places(stack) == places


def test_of_very_many_frames_those_at_the_ends_are_read_and_the_innermost_places_kept() -> None:
    frames = [StackFrame(file=f"{chr(97 + i % 26)}.py", function="f" * (i // 26)) for i in range(4 * END_FRAMES)]
    assert own_places(frames) == own_places([*frames[:END_FRAMES], *frames[-END_FRAMES:]])
    assert len(own_places(frames)) == PLACES


def test_of_a_very_long_text_whole_lines_at_the_ends_are_read() -> None:
    line = '  File "/srv/a/b.py", line 1, in f\n'
    long = f'  File "/srv/a/first.py", line 1, in f\n{line * (END_CHARS // 10)}  File "/srv/a/last.py", line 1, in f'
    assert own_places(long) == [Place("a/first.py", "f"), Place("a/b.py", "f"), Place("a/last.py", "f")]


def test_a_stack_is_shown_as_a_traceback() -> None:
    assert text_of(PYTHON) == PYTHON
    assert text_of(["a\n", "b"]) == "a\nb"
    shown = text_of([StackFrame(file="/a.py", line=3, function="f"), StackFrame(file="/b.py")])
    assert shown == '  File "/a.py", line 3, in f\n  File "/b.py", line 0, in ?'


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='File ",line123in at(a.js:|+-)\n\\/', max_size=2_000))
def test_any_text_is_read_and_gives_few_places(stack: str) -> None:
    assert len(own_places(stack)) <= PLACES
