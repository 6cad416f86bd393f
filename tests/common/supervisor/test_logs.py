from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import Unavailable
from common.supervisor import logs
from common.supervisor.logs import LogWriter, read_log, tail_lines
from tests.lab.small_disk import small_disk


def test_a_log_rotates_at_its_size_and_keeps_so_many_older_files(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=10, keep=2)
    for number in range(7):
        log.write(f"line {number}\n".encode())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.log",
        "a.log.0000000000000020",
        "a.log.0000000000000030",
    ]
    assert all(path.stat().st_size <= 10 for path in tmp_path.iterdir())
    log.close()


def test_a_chunk_larger_than_a_file_is_spread_over_several(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=10, keep=9)
    log.write(bytes(range(65, 90)))
    assert read_log(tmp_path / "a.log", 0, 100).chunk == bytes(range(65, 90))
    log.close()


def test_a_log_goes_on_where_an_earlier_writer_stopped(tmp_path: Path) -> None:
    for number in range(5):
        log = LogWriter(tmp_path / "a.log", max_bytes=10, keep=9)
        log.write(f"line {number}\n".encode())
        log.close()
    assert read_log(tmp_path / "a.log", 0, 100).text == "".join(f"line {number}\n" for number in range(5))


def test_reading_piece_by_piece_across_rotations_gives_every_byte_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    log = LogWriter(tmp_path / "a.log", max_bytes=64, keep=3)
    written, read, offset = b"", b"", 0
    for _ in range(200):
        chunk = rng.randbytes(rng.randrange(30)).replace(b"\xc0", b"x")
        log.write(chunk)
        written += chunk
        piece = read_log(log.path, offset, 64)
        assert piece.offset == offset
        assert not piece.gap
        read += piece.chunk
        offset = piece.next_offset
    read += read_log(log.path, offset, 1_000).chunk
    assert read == written
    log.close()


def test_a_place_that_was_thrown_away_is_told_as_a_gap(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=10, keep=1)
    log.write(b"0123456789" * 3)
    piece = read_log(log.path, 0, 100)
    assert (piece.offset, piece.gap, piece.next_offset, len(piece.chunk)) == (10, True, 30, 20)
    assert read_log(log.path, 500, 100).gap
    log.close()


def test_a_negative_place_counts_from_the_end(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=10, keep=5)
    log.write(b"0123456789abcdefgh")
    assert read_log(log.path, -10, 100).chunk == b"89abcdefgh"
    assert read_log(log.path, -100, 4).chunk == b"0123"
    assert not read_log(log.path, -100, 4).gap
    log.close()


def test_a_log_that_is_not_there_reads_as_empty(tmp_path: Path) -> None:
    piece = read_log(tmp_path / "a.log", -100, 100)
    assert (piece.chunk, piece.offset, piece.next_offset, piece.gap) == (b"", 0, 0, False)


@pytest.mark.parametrize("letter", ["é", "€", "𝄞"])
def test_a_character_is_not_cut_in_two_by_the_limit(tmp_path: Path, letter: str) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=1_000, keep=1)
    log.write(("x" + letter * 30).encode())
    text, offset = "", 0
    while piece := read_log(log.path, offset, 8):
        if not piece.chunk:
            break
        text, offset = text + piece.text, piece.next_offset
    assert text == "x" + letter * 30
    log.close()


def test_bytes_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=1_000, keep=1)
    log.write(b"\x80" * 8 + b"ok")
    assert len(read_log(log.path, 0, 8).chunk) == 8
    assert tail_lines(log.path, 5)[0].endswith("ok")
    log.close()


def test_the_last_lines_are_found(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=16, keep=9)
    log.write(b"one\ntwo\nthree\nfour\n")
    assert tail_lines(log.path, 2) == ("three", "four")
    log.close()


def test_rotating_an_empty_log_changes_nothing(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", max_bytes=16, keep=9)
    log.rotate()
    log.write(b"x")
    log.rotate()
    log.rotate()
    assert [path.name for path in tmp_path.iterdir()] == ["a.log.0000000000000000"]


def test_a_folder_that_is_gone_costs_bytes_and_no_error(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "gone" / "a.log", max_bytes=100, keep=1)
    log.write(b"12345")
    assert log.dropped_bytes == 5
    (tmp_path / "gone").mkdir()
    log.write(b"67")
    assert read_log(log.path, 0, 100).text == "\n[5 bytes of this log could not be written]\n67"
    log.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as mounted:
        yield mounted


def test_a_full_disk_costs_bytes_that_are_counted_and_told_of_when_there_is_room(disk: Path) -> None:
    log = LogWriter(disk / "a.log", max_bytes=1_000_000, keep=1)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(32 * 1024))
    for _ in range(16):
        log.write(b"x" * 4_096)
    assert log.dropped_bytes == 16 * 4_096 - (disk / "a.log").stat().st_size > 0
    ballast.unlink()
    log.write(b"after\n")
    assert read_log(log.path, -60, 60).text.endswith(
        f"\n[{log.dropped_bytes} bytes of this log could not be written]\nafter\n"
    )
    log.close()


def test_a_rotation_while_a_piece_is_read_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path / "a.log", 1_000, keep=2)
    log.write(b"one\n")
    sizes, rotations = logs._size, iter([log.rotate])

    def size_after_a_rotation(path: Path) -> int:
        for rotate in rotations:
            rotate()
            log.write(b"two\n")
        return sizes(path)

    monkeypatch.setattr(logs, "_size", size_after_a_rotation)
    assert read_log(log.path, 0, 100).text == "one\ntwo\n"


def test_a_log_that_is_rotated_all_the_time_is_not_read_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogWriter(tmp_path / "a.log", 1_000, keep=1)
    log.write(b"x")
    chunks = logs._chunks

    def rotated(*read: Any) -> Iterator[bytes]:
        log.rotate()
        log.write(b"x")
        return chunks(*read)

    monkeypatch.setattr(logs, "_chunks", rotated)
    with pytest.raises(Unavailable, match=r"a\.log is rotated faster than it can be read"):
        read_log(log.path, 0, 100)
