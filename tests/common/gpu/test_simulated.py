from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.gpu.process_identity import this_process
from common.gpu.simulated import (
    GIB,
    CardFile,
    SimulatedCards,
    card_uuid,
    cards_folder,
    create_card,
    ensure_cards,
    use_bytes,
)
from common.vram.cards import ProcessId

Sleeper = Callable[[], tuple["subprocess.Popen[str]", ProcessId]]


def test_a_use_that_no_reader_could_keep_exactly_is_ignored(cards: Path) -> None:
    own = this_process()
    (cards / "0" / "processes" / f"{own.pid}-{own.start_time}").write_bytes(b"9" * 17)
    assert SimulatedCards("mainpc", cards).sample(0.0)[0].used_bytes == 0


def test_a_uuid_has_nvidias_form_and_stays_the_same() -> None:
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", card_uuid("mainpc", 0))
    assert card_uuid("mainpc", 0) == card_uuid("mainpc", 0)
    assert len({card_uuid(host, index) for host in ("mainpc", "pc2") for index in range(4)}) == 8


def test_cards_are_made_under_their_names_or_by_their_sizes(tmp_path: Path) -> None:
    ensure_cards(cards_folder(tmp_path, "pc2"), "pc2", (24 * GIB, 12 * GIB), ["large"])
    samples = SimulatedCards("pc2", cards_folder(tmp_path, "pc2")).sample(0.0)
    assert [(sample.name, sample.total_bytes // GIB) for sample in samples] == [("large", 24), ("Simulated 12 GiB", 12)]


def test_a_card_that_exists_stays_as_it_is(cards: Path) -> None:
    ensure_cards(cards, "mainpc", (GIB, GIB, GIB))
    samples = SimulatedCards("mainpc", cards).sample(0.0)
    assert [sample.total_bytes // GIB for sample in samples] == [24, 12, 1]


def test_a_card_made_anew_keeps_its_processes(cards: Path) -> None:
    use_bytes(cards / "0", GIB)
    create_card(cards / "0", CardFile(card_uuid("mainpc", 0), "Bigger", 48 * GIB))
    sample = SimulatedCards("mainpc", cards).sample(0.0)[0]
    assert (sample.total_bytes, sample.used_bytes) == (48 * GIB, GIB)


def test_every_sample_says_simulated(cards: Path) -> None:
    assert all(sample.simulated for sample in SimulatedCards("mainpc", cards).sample(0.0))


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_cards_is_an_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable, match=r"no simulated card on pc2: .* has no folder named by a number"):
        SimulatedCards("pc2", tmp_path / folder)


def test_the_file_of_a_dead_process_is_swept(cards: Path, sleeper: Sleeper) -> None:
    process, pinned = sleeper()
    use_bytes(cards / "0", GIB, pinned)
    process.kill()
    process.wait()
    SimulatedCards("mainpc", cards).sample(0.0)
    assert os.listdir(cards / "0" / "processes") == []


def test_a_malformed_file_is_ignored_and_reported_once(cards: Path, caplog: pytest.LogCaptureFixture) -> None:
    processes = cards / "0" / "processes"
    own = this_process()
    for name, content in {
        "notes.txt": b"1",
        f"{own.pid}-{own.start_time}": b"ten gigabytes",
        ".123-456.789": b"unfinished",
    }.items():
        (processes / name).write_bytes(content)
    source = SimulatedCards("mainpc", cards)
    with caplog.at_level(logging.WARNING):
        assert [source.sample(now)[0].used_bytes for now in (0.0, 1.0)] == [0, 0]
    told = sorted(record.getMessage().removeprefix(f"{processes}/") for record in caplog.records)
    assert told == sorted(
        [
            "notes.txt is ignored: its name is not PID-START_TIME",
            f"{own.pid}-{own.start_time} is ignored: its content is not a number of bytes",
        ]
    )


def test_a_file_that_vanishes_or_is_none_counts_for_nothing(cards: Path) -> None:
    own = this_process()
    (cards / "0" / "processes" / f"{own.pid}-{own.start_time}").mkdir()
    (cards / "1" / "processes").rmdir()
    samples = SimulatedCards("mainpc", cards).sample(0.0)
    assert [(sample.used_bytes, sample.processes) for sample in samples] == [(0, ()), (0, ())]


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"uuid": "GPU-1", "name": "x", "total_bytes": -1}', None])
def test_a_card_that_cannot_be_read_keeps_its_uuid_and_says_why(content: bytes | None, cards: Path) -> None:
    file = cards / "0" / "card.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    use_bytes(cards / "0", GIB)
    sample = SimulatedCards("mainpc", cards).sample(0.0)[0]
    assert (sample.uuid, sample.free_bytes, sample.processes) == (card_uuid("mainpc", 0), 0, None)
    assert f"{file} cannot be read" in sample.problem


def test_using_nothing_twice_is_no_error(cards: Path) -> None:
    use_bytes(cards / "0", 0)
    use_bytes(cards / "0", 0)
    assert os.listdir(cards / "0" / "processes") == []
