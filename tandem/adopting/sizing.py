"""How much VRAM a model may take before it was ever measured: from its files, or from its name. A guess, and said to be one.

The first load measures it (NVML), and what was declared counts no longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from common.config.units import Size

MIB: Final = 2**20
GIB: Final = 2**30
STEP: Final = 256 * MIB
"""A guess is rounded up to this."""
OVERHEAD: Final = 1.1
CONTEXT_BYTES: Final = GIB
"""Beside its weights a model takes a tenth of them for buffers, and about this for its context and CUDA's own."""
UNKNOWN: Final = Size(8 * GIB)
UTILISATION: Final = 0.9
"""vLLM takes this fraction of a card (`--gpu-memory-utilization`), however small the model is."""

_PARAMETERS: Final = re.compile(r"(?<![A-Za-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([BbMm])(?![A-Za-z0-9])")
_BITS: Final[tuple[tuple[re.Pattern[str], float], ...]] = tuple(
    (re.compile(rf"(?<![A-Za-z0-9]){pattern}", re.IGNORECASE), bits)
    for pattern, bits in (
        (r"iq1", 1.8),
        (r"i?q2", 2.9),
        (r"i?q3", 3.8),
        (r"i?q4|awq|gptq|int4|4bit|w4a16|mxfp4|nvfp4|fp4|bnb", 4.8),
        (r"q5", 5.7),
        (r"q6", 6.6),
        (r"q8|fp8|int8|8bit|w8a8|w8a16", 8.5),
        (r"b?f16|fp16|half", 16.0),
        (r"f32|fp32", 32.0),
    )
)
"""Bits a weight of each quantization as llama.cpp's tools/quantize/README.md measures them, and the usual ones of vLLM."""


def of_files(sizes: Iterable[int]) -> Size | None:
    """For weights of these bytes in all; None for none."""
    total = sum(sizes)
    return _rounded(total * OVERHEAD + CONTEXT_BYTES) if total else None


def of_name(name: str, *, default_bits: float) -> Size | None:
    """For a model whose name tells its parameters (`Qwen3-14B-Q4_K_M`, `Mixtral-8x7B`); None where it does not."""
    found = _PARAMETERS.search(name)
    if found is None:
        return None
    parameters = float(found[2]) * int(found[1] or 1) * (1e9 if found[3] in "Bb" else 1e6)
    bits = next((bits for pattern, bits in _BITS if pattern.search(name)), default_bits)
    return of_files([int(parameters * bits / 8)])


def of_card(card_bytes: int, fraction: float) -> Size | None:
    """That fraction of a card; None where no card is known."""
    return _rounded(card_bytes * fraction) if card_bytes and 0 < fraction <= 1 else None


def split(size: Size, cards: int) -> Size:
    """What a model of this size takes on each of several cards."""
    return size if cards == 1 else _rounded(size / cards)


def measured(count: int) -> Size:
    """What a process was seen to hold, with room to grow by a twentieth."""
    return _rounded(count * 1.05)


def _rounded(count: float) -> Size:
    return Size(-(-int(count) // STEP) * STEP)
