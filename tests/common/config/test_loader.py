from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import loader
from common.config.document import Document, Problem, render
from common.config.loader import load, load_together, read, runnable
from common.config.schema import Agent, Ports, Startup

HEAD = "version: 1\nhost: h\nsupervisor: {port: 0}\n"
ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str | bytes, name: str = "f.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def told(folder: Path, text: str | bytes) -> str:
    found = load(write(folder, text))
    assert isinstance(found, list)
    return render(found).replace(f"{folder}/", "")


def test_the_two_startup_files_of_the_repository_fit_together() -> None:
    startups, problems = load_together([ROOT / "config/startup_main.yaml", ROOT / "config/startup_pc2.yaml"])
    assert render(problems) == ""
    assert [startup.host for startup in startups] == ["mainpc", "pc2"]
    assert [entry.port for startup in startups for entry in startup.entries] == [7000, 0, 7001, 7002, 7003, 7005]


def test_every_problem_comes_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = "version: 1\nhost: h\nlisten: ['*']\nsupervisor: {port: x}\nagents:\n- name: a\n  depends_on: [b]\n  comand: [ls]\n"
    assert told(tmp_path, text).splitlines() == [
        "f.yaml:3: listen[0]: * would listen everywhere (list each address explicitly)",
        "f.yaml:4: supervisor.port: expected int, got str",
        "f.yaml:6: agents[0]: command is missing (add command: to it)",
        "f.yaml:7: agents[0].depends_on[0]: h has no process 'b' (add it, or take this out)",
        "f.yaml:8: agents[0].comand: unknown key (did you mean command?)",
    ]


def test_anchors_aliases_and_merges_are_plain_data(tmp_path: Path) -> None:
    text = HEAD + (
        "agents:\n"
        "- &a {name: a, command: &c [sh, -c, 'true'], port: 9001}\n"
        "- {<<: *a, name: b, port: 9002}\n"
        "- {<<: [{port: 9003, name: x}, *a], name: c, command: *c}\n"
    )
    startup = load(write(tmp_path, text))
    assert isinstance(startup, Startup)
    assert [(agent.name, agent.port, agent.command[0]) for agent in startup.agents] == [
        ("a", 9001, "sh"),
        ("b", 9002, "sh"),
        ("c", 9003, "sh"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "host: h\n", "f.yaml:4: host: the key is there twice (keep one)"),
        (HEAD + "\tx: 1\n", "tabs"),
        (HEAD + "x: [1\n", "is not YAML"),
        (
            HEAD + "x: !!python/object/apply:os.system [ls]\n",
            "f.yaml:4: x: tag 'tag:yaml.org,2002:python/object/apply:os",
        ),
        (HEAD + "x: !foo 1\n", "f.yaml:4: x: tag '!foo' is not plain data"),
        (HEAD + "1: 2\n", "f.yaml:4: a key is not a text"),
        (HEAD + "? [a]\n: 2\n", "a key is not a text"),
        (HEAD + "<<: 5\n", "`<<` takes a mapping"),
        (HEAD + "x: 2024-99-99\n", "cannot be read: month must be"),
        (HEAD + "x: &x [*x]\n", "is nested deeper than 40 levels"),
        (HEAD + "x: " + "[" * 5_000, "is nested deeper than 40 levels"),
        (HEAD + "x: " + "[" * 60 + "]" * 60, "is nested deeper than 40 levels"),
        (b"version: 1\nhost: \xff\n", "f.yaml:2: is not UTF-8"),
        (HEAD + "x: \x01\n", "is not YAML: special characters are not allowed"),
        (HEAD + "--- \nx: 1\n", "is not YAML: but found another document"),
        ("", "f.yaml:1: expected a mapping, got nothing"),
        ("5", "expected a mapping, got a number"),
        ("#" * (512 * 1024 + 1), "is larger than 524288 bytes"),
    ],
)
def test_a_file_that_is_not_plain_data_says_why(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in told(tmp_path, text)


def test_keys_that_are_there_twice_are_told_all_at_once_with_everything_else(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + "host: h\nagents: []\n1: 2\nagents: []\nzzz: 1\n", "f.yaml")
    found = load(file)
    assert isinstance(found, list)
    texts = [str(problem) for problem in found]
    assert sum("the key is there twice" in text for text in texts) == 2
    assert sum("a key is not a text" in text for text in texts) == 1
    assert any("zzz" in text for text in texts)


def test_aliases_cannot_blow_a_small_file_up(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)
    ]
    assert "holds more than 50000 values" in told(tmp_path, "\n".join(rows))
    rows = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    assert "holds more than 50000 values" in told(tmp_path, "\n".join(rows))


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    found = load(tmp_path / "none.yaml")
    assert isinstance(found, list)
    assert "cannot be read: No such file or directory" in str(found[0])


def test_problems_of_several_files_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    first = write(tmp_path, HEAD + "zzz: 1\n", "b.yaml")
    second = write(tmp_path, "[", "a.yaml")
    startups, problems = load_together([first, second])
    assert startups == []
    assert [Path(problem.file).name for problem in problems] == ["b.yaml", "a.yaml"]


def test_a_program_is_looked_for_where_it_will_be_run(tmp_path: Path) -> None:
    startup = Startup(version=1, host="h", supervisor=Ports())
    program = write(tmp_path, "#!/bin/sh\n", "tool")
    assert not runnable(startup, Agent(name="a", command=["./tool"], cwd=str(tmp_path)))
    program.chmod(0o700)
    assert runnable(startup, Agent(name="a", command=["./tool"], cwd=str(tmp_path)))
    assert runnable(startup, Agent(name="a", command=["tool"], env={"PATH": str(tmp_path)}))
    assert runnable(startup, Agent(name="a", command=["{python}"]))
    assert not runnable(startup, Agent(name="a", command=["no-such-program-anywhere"]))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_problem(raw: bytes) -> None:
    fd = os.memfd_create("startup")
    try:
        os.write(fd, raw)
        assert isinstance(read(Path(f"/proc/self/fd/{fd}")), (Document, Problem))
    finally:
        os.close(fd)


def test_the_bounds_leave_room_for_a_large_fabric(tmp_path: Path) -> None:
    agents = "".join(f"- {{name: a{i}, command: ['{sys.executable}']}}\n" for i in range(300))
    startup = load(write(tmp_path, HEAD + "agents:\n" + agents))
    assert isinstance(startup, Startup)
    assert len(startup.agents) == 300
    assert loader.MAX_VALUES > 300 * 20
