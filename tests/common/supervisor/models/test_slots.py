from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.api import supervisor
from common.config.models import Model
from common.config.schema import Entry
from common.config.units import Size
from common.engines.engine import SavedSlot
from common.errors import StorageUnavailable
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from common.supervisor.models.slots import KeptSlots, folder_in
from tests.common.service.lab import until
from tests.common.supervisor.models.lab import lab, model

SLOTS = (SavedSlot(0, "a-0.bin", 12),)


def entry(folder: Path) -> Entry:
    return Entry(name="a", command=["llama-server", "--slot-save-path", str(folder)])


def llama(name: str = "a", *words: str, weights: str = "") -> Model:
    command = ["llama-server", "--slot-save-path", "{home}/slots", *words]
    return Model(name=name, engine="llama-server", vram=Size(1), command=command, files=[weights] if weights else [])


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def shell(store: MemoryStore) -> AsyncIterator[Shell]:
    shell = life(store)
    yield shell
    await shell.close()


def life(store: RecordStore) -> Shell:
    """A life of the supervisor, as far as its store goes."""
    made = ShellSettings(service="Supervisor", host="h", port=0, events_port=0)
    return Shell(made, supervisor.TOPICS, store)


async def kept_before(shell: Shell, folder: Path, of: Model) -> Path:
    """What an earlier life saved of the model: the file in `folder`."""
    file = folder / "a-0.bin"
    file.write_text("a cache")
    before = KeptSlots(shell, str(folder))
    await before.keep(of, entry(folder), SLOTS)
    await shell.journal.committed()
    return file


async def test_caches_are_given_out_by_the_next_life_and_once(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_text("weights")
    of = llama(weights="{home}/w.gguf")
    file = await kept_before(shell, tmp_path, of)
    kept = KeptSlots(shell, str(tmp_path))
    kept.restore([of, llama("b")])
    saved = await kept.for_engine(of)
    assert saved is not None
    assert (tuple(saved.slots), saved.folder) == (SLOTS, str(tmp_path))
    await kept.forget(saved)
    assert not file.exists()
    await shell.journal.committed()
    later = KeptSlots(shell, str(tmp_path))
    later.restore([of])
    assert await later.for_engine(of) is None


@pytest.mark.parametrize("now", [[llama("b")], [llama("a", "--ctx-size", "4096")]], ids=["gone", "another command"])
async def test_caches_that_no_model_could_use_leave_with_their_files(
    shell: Shell, tmp_path: Path, now: list[Model]
) -> None:
    file = await kept_before(shell, tmp_path, llama())
    kept = KeptSlots(shell, str(tmp_path))
    kept.restore(now)
    await until(lambda: not file.exists())
    assert await kept.for_engine(llama()) is None


async def test_caches_of_other_weights_under_the_same_name_are_stale(shell: Shell, tmp_path: Path) -> None:
    weights = tmp_path / "w.gguf"
    weights.write_text("weights")
    of = llama(weights=str(weights))
    file = await kept_before(shell, tmp_path, of)
    kept = KeptSlots(shell, str(tmp_path))
    kept.restore([of])
    os.utime(weights, ns=(0, 0))
    assert await kept.for_engine(of) is None
    assert not file.exists()


async def test_nothing_is_kept_of_an_engine_without_a_folder_or_without_caches(shell: Shell, tmp_path: Path) -> None:
    kept = KeptSlots(shell, str(tmp_path))
    await kept.keep(llama(), Entry(name="a", command=["llama-server"]), SLOTS)
    await kept.keep(llama(), entry(tmp_path), ())
    assert await kept.for_engine(llama()) is None


async def test_caches_are_of_use_in_this_life_though_the_store_takes_nothing(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> None:
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr(shell.journal, "write", away)
    kept = KeptSlots(shell, str(tmp_path))
    await kept.keep(llama(), entry(tmp_path), SLOTS)
    saved = await kept.for_engine(llama())
    assert saved is not None
    await kept.forget(saved)
    await kept.forget(saved)
    assert await kept.for_engine(llama()) is None


def test_the_folder_for_caches_is_read_from_the_command() -> None:
    assert folder_in(["x", "--slot-save-path", "/a"]) == "/a"
    assert folder_in(["x", "--slot-save-path=/a"]) == "/a"
    assert folder_in(["x", "--slot-save-path"]) is None
    assert folder_in(["x"]) is None


@pytest.mark.usefixtures("wrappers")
async def test_prompt_caches_saved_before_an_eviction_are_restored_by_the_supervisors_next_life(tmp_path: Path) -> None:
    slots = tmp_path / "slots"
    slots.mkdir()
    models = [model("a", 4, "--slot-save-path", str(slots)), model("b", 9)]
    async with lab(tmp_path, models) as it:
        ready = await it.use("a")
        body = json.dumps({"prompt": "one two three", "max_tokens": 2}).encode()
        await it.asked(ready, "POST", "/v1/completions", body)
        await it.back(ready)
        await it.back(await it.use("b"))
    assert [each.name for each in slots.iterdir()] == ["a-0.bin"]
    async with lab(tmp_path, models) as it:
        ready = await it.use("a")
        assert await it.acts(ready) == ["restore slot 0"]
        assert not list(slots.iterdir())
