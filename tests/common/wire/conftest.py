from __future__ import annotations

from pathlib import Path

import pytest

Golden = dict[str, list[bytes]]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The golden messages by the word before the colon; a lone dash is an empty frame."""
    found: Golden = {}
    frames: list[bytes] = []
    for line in (Path(__file__).parent / "golden.txt").read_text().splitlines():
        if line.startswith("  "):
            frames.append(bytes.fromhex(line.strip().replace("-", "")))
        elif line and not line.startswith("#"):
            frames = found[line.partition(":")[0]] = []
    return found
