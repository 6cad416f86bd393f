from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.supervisor.leasing import files
from common.supervisor.leasing.files import HostFiles

FAR = "/far/model.gguf"


class FarFolder:
    """`/far`, which answers once it is `awake`; `asked` is how often it was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.awake = threading.Event()
        self.asked = 0
        self._absent = files.absent
        monkeypatch.setattr(files, "absent", self.absent)
        monkeypatch.setattr(files, "LOOK_S", 0.05)

    def absent(self, paths: Sequence[str]) -> list[str]:
        if any(each.startswith("/far/") for each in paths):
            self.asked += 1
            self.awake.wait(60)
        return self._absent(paths)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[FarFolder]:
    folder = FarFolder(monkeypatch)
    yield folder
    folder.awake.set()


async def test_paths_where_nothing_is_are_lacking_and_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    gone = str(tmp_path / "gone")
    assert await HostFiles().lacking([str(tmp_path / "weights"), gone]) == [gone]
    assert await HostFiles().lacking([]) == []


async def test_a_folder_that_does_not_answer_is_waited_for_no_longer_than_that(far: FarFolder) -> None:
    look = HostFiles()
    with pytest.raises(Unavailable, match=r"^/far/model\.gguf: no word within 0\.05 s on whether it is there"):
        await asyncio.wait_for(look.lacking([FAR]), 30)
    with pytest.raises(Unavailable, match=r"^/far/model\.gguf and 1 more: no word within 0\.05 s on whether they are"):
        await asyncio.wait_for(look.lacking([FAR, "/far/draft.gguf"]), 30)


async def test_a_look_that_hangs_is_not_begun_again_and_nothing_else_waits_for_it(
    far: FarFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = HostFiles()
    for _ in range(40):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(look.lacking([FAR]), 30)
    assert far.asked == 1
    monkeypatch.setattr(files, "LOOK_S", 30.0)
    assert await look.lacking(["/gone"]) == ["/gone"]
    await asyncio.wait_for(asyncio.to_thread(lambda: None), 30)
    far.awake.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await look.lacking([FAR]) == [FAR]
            except Unavailable:
                await asyncio.sleep(0.01)
            else:
                break


async def test_no_more_looks_hang_than_so_many(far: FarFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_HANGING", 2)
    look = HostFiles()
    for name in "abcd":
        with pytest.raises(Unavailable):
            await asyncio.wait_for(look.lacking([f"/far/{name}"]), 30)
    assert far.asked == 2
