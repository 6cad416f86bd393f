"""The program that holds VRAM, against the adapter that measures it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.gpu.simulated import GIB, SimulatedCards, card_uuid, ensure_cards

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "hold_vram.py"

Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    ensure_cards(tmp_path / "pc2", "pc2", (12 * GIB,))
    ensure_cards(tmp_path / "cards", "mainpc", (24 * GIB, 12 * GIB))
    return tmp_path / "cards"


@pytest.fixture
def hold(cards: Path) -> Hold:
    def run(amount: str, seconds: str, **environment: str) -> subprocess.Popen[str]:
        visible = {
            "TANDEM_SIMULATED_CARDS": f"{cards.parent / 'pc2'}:{cards}",
            "CUDA_VISIBLE_DEVICES": card_uuid("mainpc", 1),
        }
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), amount, seconds],
            env=os.environ | visible | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def used(cards: Path) -> list[int]:
    return [sample.used_bytes for sample in SimulatedCards("mainpc", cards).sample(0.0)]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_holds_the_bytes_on_the_visible_card_until_it_ends(end: signal.Signals, hold: Hold, cards: Path) -> None:
    program = hold("1.5GiB", "1000")
    assert program.stdout is not None
    assert program.stdout.readline() == f"holding {3 * GIB // 2} bytes on {card_uuid('mainpc', 1)}\n"
    assert used(cards) == [0, 3 * GIB // 2]
    program.send_signal(end)
    _, complaint = program.communicate()
    assert (program.returncode, complaint) == (-9 if end is signal.SIGKILL else 0, "")
    assert used(cards) == [0, 0]


def test_it_gives_the_bytes_back_after_its_time(hold: Hold, cards: Path) -> None:
    program = hold("4096", "0")
    program.communicate()
    assert (program.returncode, used(cards)) == (0, [0, 0])
    assert os.listdir(cards / "1" / "processes") == []


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"TANDEM_SIMULATED_CARDS": ""}, "no simulated card"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "no simulated card"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1"}, "no card GPU-1 in "),
    ],
)
def test_without_a_card_it_says_so_in_one_line(environment: dict[str, str], reason: str, hold: Hold) -> None:
    program = hold("1GiB", "0", **environment)
    _, told = program.communicate()
    assert program.returncode == 2
    assert told.startswith(f"hold_vram: {reason}")
    assert told.count("\n") == 1


def test_a_size_that_is_none_is_refused(hold: Hold) -> None:
    program = hold("lots", "0")
    _, told = program.communicate()
    assert program.returncode == 2
    assert "'lots' is no size; write 10GiB" in told
