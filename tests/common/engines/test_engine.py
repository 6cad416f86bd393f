from __future__ import annotations

import pytest

from common.engines.engine import served_as


@pytest.mark.parametrize(
    ("model", "served", "found"),
    [
        ("llama3.2", ["llama3.2:latest", "llama3.2:1b"], "llama3.2:latest"),
        ("llama3.2:1b", ["llama3.2:latest", "llama3.2:1b"], "llama3.2:1b"),
        ("Qwen3-8B-Q4_K_M", ["../models/Qwen3-8B-Q4_K_M.gguf"], "../models/Qwen3-8B-Q4_K_M.gguf"),
        ("Qwen3-8B-Q4_K_M.gguf", ["/m/Qwen3-8B-Q4_K_M.gguf"], "/m/Qwen3-8B-Q4_K_M.gguf"),
        ("Qwen3-0.6B", ["Qwen/Qwen3-0.6B"], "Qwen/Qwen3-0.6B"),
        ("tiny", ["/a/tiny.gguf", "/b/tiny.gguf"], None),
        ("tiny", ["tiny-2"], None),
        ("tiny", [], None),
    ],
)
def test_a_name_means_what_is_served_under_it_with_its_tag_or_by_its_file_and_nothing_by_guess(
    model: str, served: list[str], found: str | None
) -> None:
    assert served_as(model, served) == found
