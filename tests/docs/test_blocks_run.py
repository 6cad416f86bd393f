"""What the documents show to be typed or run, is run."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.docs.conftest import Fabric
from tests.docs.documents import ROOT, Block, blocks, having


def ran(line: str, fabric: Fabric) -> str:
    """The output of one line, with this interpreter's own programs and the fabric of the test."""
    words = [sys.executable if word == ".venv/bin/python" else word for word in shlex.split(line)]
    if words[0] == ".venv/bin/tandem":
        words[:1] = [sys.executable, "-m", "tandem"]
    for shown, meant in (("7000", fabric.port), ("8000", fabric.health_port)):
        words = [word.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{meant}") for word in words]
    return subprocess.run(
        words, cwd=ROOT, env=fabric.environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.parametrize("block", [block for block in blocks("python") if not block.of], ids=str)
def test_a_python_block_runs(block: Block, fabric: Fabric) -> None:
    source = block.text.replace("127.0.0.1:7000", f"127.0.0.1:{fabric.port}")
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=120)
    assert "'status': 'success'" in done.stdout


@pytest.mark.parametrize("block", having("curl"), ids=str)
def test_curl_reads_the_health_port(block: Block, fabric: Fabric, needs: Callable[[str], str]) -> None:
    needs("curl")
    for line in block.text.splitlines():
        told = ran(line, fabric)
        if line.endswith("/health"):
            assert json.loads(told)["service"] == "CoreOrchestrator"
        else:
            assert "tandem_service_ready 1.0" in told


@pytest.mark.parametrize("block", having("tandem call"), ids=str)
def test_a_call_is_answered_by_the_agent_above_it(block: Block, fabric: Fabric) -> None:
    (above,) = [other for other in having("library_agent.py") if other.document == block.document]
    program = [sys.executable if word == ".venv/bin/python" else word for word in shlex.split(above.text)]
    with fabric.agent(program):
        assert json.loads(ran(block.text, fabric))["result"] == {"words": 3}


def test_no_block_goes_unrun() -> None:
    """`tandem run` is run in a whole fabric, by its neighbour test_under_a_supervisor.py."""
    run = [block for word in ("curl", "library_agent.py", "tandem call", "tandem run") for block in having(word)]
    assert [str(block) for block in blocks("sh") if block not in run] == []
