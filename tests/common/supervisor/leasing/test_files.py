from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.supervisor.leasing import files


async def test_paths_where_nothing_is_are_lacking_and_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    assert await files.lacking([str(tmp_path / "weights"), str(tmp_path / "gone")]) == [str(tmp_path / "gone")]
    assert await files.lacking([]) == []


async def test_a_folder_that_does_not_answer_is_waited_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def hangs(_: Sequence[str]) -> list[str]:
        answered.wait(60)
        return []

    monkeypatch.setattr(files, "absent", hangs)
    monkeypatch.setattr(files, "LOOK_S", 0.05)
    try:
        with pytest.raises(Unavailable, match=r"^/far/model\.gguf: no word within 0\.05 s"):
            await asyncio.wait_for(files.lacking(["/far/model.gguf"]), 30)
    finally:
        answered.set()
