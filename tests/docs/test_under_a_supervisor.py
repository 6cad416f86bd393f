"""What the documents show of a whole fabric, in one that `tandem start` runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.docs.documents import ROOT, Block, blocks, having
from tests.lab.fabric import Fabric, running, until

(ENTRIES,) = [found["agents"] for block in blocks("yaml") if "agents" in (found := yaml.safe_load(block.text))]


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory, needs: Callable[[str], str]) -> Iterator[Fabric]:
    needs("json_pp")
    with running(tmp_path_factory.mktemp("fabric"), {"mainpc": ENTRIES}) as up:
        yield up


def registered(fabric: Fabric) -> dict[str, dict[str, Any]]:
    answer = fabric.ask("core", {"action": "find_agents", "capability": "count_words"})
    assert answer is not None
    return {agent["agent_name"]: agent for agent in answer["agents"]}


def test_the_three_agents_register_under_their_names_and_those_proven_alive_come_first(fabric: Fabric) -> None:
    names = {entry["name"] for entry in ENTRIES}
    until(lambda: registered(fabric).keys() == names, 20, "three registered agents")
    agents = registered(fabric)
    assert {agent["location"] for agent in agents.values()} == {"mainpc"}
    wish = {"action": "submit_request", "capability": "count_words", "data": "one two three"}
    answers = [fabric.ask("core", wish) or {} for _ in range(3 * len(names))]
    assert all(answer["result"] == {"words": 3} for answer in answers)
    alive = {name for name, agent in agents.items() if agent["liveness"] == "alive"}
    assert {answer["agent_name"] for answer in answers} == alive
    assert names - alive == {"perl-counter"}


def test_each_agent_is_restarted_by_its_supervisor(fabric: Fabric) -> None:
    for entry in ENTRIES:
        name = entry["name"]
        before = fabric.processes("mainpc")[name]["pid"]
        shown = {"_token": fabric.token("mainpc")}
        fabric.ask("mainpc", {"action": "restart_agent", "agent_name": name, **shown})
        until(lambda name=name, before=before: fabric.processes("mainpc")[name]["pid"] not in (0, before), 20, name)
    until(fabric.is_ready, 20, "every agent ready again")


@pytest.mark.parametrize("block", having("tandem run"), ids=str)
def test_a_run_gets_its_card(block: Block, fabric: Fabric) -> None:
    words = [sys.executable if word == ".venv/bin/python" else word for word in shlex.split(block.text)]
    assert words[:2] == [".venv/bin/tandem", "run"]
    assert words[-1] == "5", "the seconds it holds the card"
    command = [sys.executable, "-m", "tandem", *words[1:-1], "0.1"]
    done = subprocess.run(
        command, cwd=ROOT, env=fabric.environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("holding 10737418240 bytes on")
