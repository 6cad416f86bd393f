from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.gpu.checkpoint import CudaCheckpoint, Outcome, find
from common.gpu.simulated import GIB, SimulatedCards, use_bytes
from tests.lab.engines.cuda_checkpoint import install

Lie = Callable[[str], None]
PID = os.getpid()
PATIENCE_S = 60.0


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Lie:
    """Has the tool lie so from now on."""
    return lambda words: monkeypatch.setenv("CUDA_CHECKPOINT_LIES", words)


@pytest.fixture
def installed(tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tool on PATH, and 10 GiB on the first card in this process's name."""
    program = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TANDEM_SIMULATED_CARDS", str(cards))
    use_bytes(cards / "0", 10 * GIB)
    return program


@pytest.fixture
def used(cards: Path) -> Callable[[], int]:
    return lambda: SimulatedCards("mainpc", cards).sample(0.0)[0].used_bytes


async def tool() -> CudaCheckpoint:
    found = await find(PATIENCE_S)
    assert found is not None
    return found


async def test_without_the_tool_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await find() is None


@pytest.mark.parametrize("content", ["#!/bin/sh\necho hello\n", "#!/no/such/interpreter\n"])
async def test_a_program_of_that_name_that_is_not_the_tool_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    program = tmp_path / "cuda-checkpoint"
    program.write_text(content)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await find(PATIENCE_S) is None


async def test_version_and_means_are_probed(installed: Path, lie: Lie) -> None:
    assert await tool() == CudaCheckpoint(str(installed), "570.86.10", steps=True)
    lie("toggles_only")
    assert await tool() == CudaCheckpoint(str(installed), "550.54.09", steps=False)


@pytest.mark.parametrize("lies", ["", "toggles_only"])
async def test_a_process_goes_off_the_card_and_comes_back(
    installed: Path, lie: Lie, used: Callable[[], int], lies: str
) -> None:
    lie(lies)
    checkpoint = await tool()
    away = await checkpoint.checkpoint(PID, PATIENCE_S)
    assert (away.ok, away.state) == (True, "checkpointed")
    assert used() == 0
    back = await checkpoint.restore(PID, PATIENCE_S)
    assert (back.ok, back.state) == (True, "running")
    assert used() == 10 * GIB


async def test_what_the_tool_says_is_a_claim_and_the_card_knows_better(
    installed: Path, lie: Lie, used: Callable[[], int]
) -> None:
    lie("keeps")
    assert (await (await tool()).checkpoint(PID, PATIENCE_S)).ok
    assert used() == 10 * GIB


async def test_a_lock_that_fails_leaves_the_process_running(installed: Path, lie: Lie) -> None:
    lie("fails-lock")
    outcome = await (await tool()).checkpoint(PID, PATIENCE_S)
    assert (outcome.ok, outcome.state) == (False, "running")
    assert "not supported" in outcome.text


async def test_a_process_that_cannot_be_checkpointed_is_unlocked_again(
    installed: Path, lie: Lie, used: Callable[[], int]
) -> None:
    lie("fails-checkpoint")
    outcome = await (await tool()).checkpoint(PID, PATIENCE_S)
    assert (outcome.ok, outcome.state) == (False, "running")
    assert outcome.text.endswith("unlock ended with 0")
    assert used() == 10 * GIB


async def test_a_process_that_a_checkpoint_broke_is_told_as_failed(installed: Path, lie: Lie) -> None:
    lie("breaks-checkpoint")
    assert (await (await tool()).checkpoint(PID, PATIENCE_S)).state == "failed"


@pytest.mark.parametrize("action", ["lock", "checkpoint"])
async def test_a_tool_that_hangs_is_ended_and_the_process_left_running(installed: Path, lie: Lie, action: str) -> None:
    checkpoint = await tool()
    lie(f"hangs-{action}")
    outcome = await checkpoint.checkpoint(PID, 2.0)
    assert (outcome.ok, outcome.state) == (False, "running")
    assert "not done in time" in outcome.text


@pytest.mark.parametrize(("lies", "state"), [("fails-restore", "checkpointed"), ("fails-unlock", "locked")])
async def test_a_restore_that_fails_tells_where_it_left_the_process(
    installed: Path, lie: Lie, lies: str, state: str
) -> None:
    checkpoint = await tool()
    await checkpoint.checkpoint(PID, PATIENCE_S)
    lie(lies)
    outcome = await checkpoint.restore(PID, PATIENCE_S)
    assert (outcome.ok, outcome.state) == (False, state)


async def test_a_toggle_that_fails_leaves_a_state_that_nobody_knows(installed: Path, lie: Lie) -> None:
    lie("toggles_only,fails-toggle")
    checkpoint = await tool()
    assert await checkpoint.checkpoint(PID, PATIENCE_S) == Outcome(
        ok=False, state="unknown", text="toggle ended with 1"
    )
    assert await checkpoint.state(PID) == "unknown"


@pytest.mark.parametrize("lies", ["fails-get-state", "garbles-get-state"])
async def test_a_state_that_is_not_told_is_unknown(installed: Path, lie: Lie, lies: str) -> None:
    lie(lies)
    assert await (await tool()).state(PID, PATIENCE_S) == "unknown"
