from __future__ import annotations

import pytest

from common.config.units import Size
from tandem.adopting import sizing

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("Qwen3-14B-Q4_K_M.gguf", 9.75),
        ("Qwen2.5-Coder-0.5B-Instruct-Q8_0", 1.75),
        ("Mixtral-8x7B-Instruct-v0.1.Q5_K_M", 42.0),
        ("Qwen3-Coder-30B-A3B-Instruct-Q3_K_S", 15.75),
        ("meta-llama/Llama-3.1-8B-Instruct", 17.5),
        ("Qwen3-32B-AWQ", 20.75),
        ("SmolLM2-135M-Instruct-F16", 1.5),
        ("llama3.2:3b", 7.25),
    ],
)
def test_a_name_tells_about_how_large_a_model_is(name: str, gib: float) -> None:
    size = sizing.of_name(name, default_bits=16)
    assert size is not None
    assert size / GIB == gib


@pytest.mark.parametrize("name", ["whisper", "gpt-4", "nomic-embed-text-v1.5", "", "x1000000000000b"])
def test_a_name_that_tells_nothing_is_no_size(name: str) -> None:
    assert sizing.of_name(name, default_bits=16) is None


def test_files_cards_and_measurements_are_rounded_up() -> None:
    assert sizing.of_files([]) is None
    assert sizing.of_files([GIB, 3 * GIB]) == Size(int(5.5 * GIB))
    assert sizing.of_card(0, 0.9) is None
    assert sizing.of_card(24 * GIB, 1.5) is None
    assert sizing.of_card(24 * GIB, 0.9) == Size(int(21.75 * GIB))
    assert sizing.split(Size(10 * GIB), 1) == 10 * GIB
    assert sizing.split(Size(10 * GIB), 4) == int(2.5 * GIB)
    assert sizing.measured(10 * GIB) == int(10.5 * GIB)
