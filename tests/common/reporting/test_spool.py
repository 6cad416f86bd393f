from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import Conflict
from common.reporting import spool as module
from common.reporting.spool import Spool
from common.reporting.spool_log import MAX_PAYLOAD, Place

ROOT = Path(__file__).resolve().parents[3]
LOTS = 10**6


def opened(folder: Path, wall: float = 1.0, **bounds: int) -> Spool:
    spool = Spool(folder, **bounds)
    spool.open(wall)
    return spool


def drained(spool: Spool, most: int = 3) -> list[bytes]:
    """Everything that is not acknowledged, taken in batches."""
    found: list[bytes] = []
    while (batch := spool.read(most, LOTS)) is not None:
        found += batch.payloads
        spool.acknowledge(batch.last)
    return found


def written(count: int, start: int = 0) -> list[bytes]:
    return [b"record %d" % number for number in range(start, start + count)]


def fill(spool: Spool, payloads: list[bytes]) -> None:
    for payload in payloads:
        spool.append(payload)


def test_what_is_appended_is_read_in_order_until_it_is_acknowledged(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    assert spool.read(10, LOTS) is None
    fill(spool, written(3))
    batch = spool.read(2, LOTS)
    assert batch is not None
    assert (batch.payloads, batch.first.seq, batch.last.seq) == (written(2), 1, 2)
    assert spool.read(2, LOTS) == batch
    spool.acknowledge(batch.last)
    assert drained(spool) == written(1, 2)
    assert spool.read(2, LOTS) is None


def test_a_later_life_finds_what_a_former_one_left_under_its_old_numbers(tmp_path: Path) -> None:
    first = opened(tmp_path)
    fill(first, written(3))
    first.acknowledge(Place(1_000, 1))
    first.close()
    second = opened(tmp_path)
    fill(second, written(2, 3))
    batch = second.read(10, LOTS)
    assert batch is not None
    assert (batch.first, batch.payloads) == (Place(1_000, 2), written(2, 1))
    second.acknowledge(batch.last)
    batch = second.read(10, LOTS)
    assert batch is not None
    assert (batch.first, batch.payloads) == (Place(1_001, 1), written(2, 3))


def test_a_spool_that_is_drained_leaves_no_segment_when_it_is_closed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, written(5))
    assert drained(spool) == written(5)
    spool.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acknowledged.json", "lock"]
    spool.open(1.0)
    spool.append(b"again")
    assert drained(spool) == [b"again"]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(Conflict, match="another process's"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


@settings(max_examples=20, deadline=None)
@given(payloads=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6))
def test_a_segment_torn_at_any_byte_costs_the_torn_record_alone(
    payloads: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("whole")
    spool = opened(folder)
    fill(spool, payloads)
    spool.close()
    (whole,) = folder.glob("*.seg")
    for cut in range(whole.stat().st_size + 1):
        torn = folder / "torn"
        torn.mkdir()
        shutil.copy(whole, torn)
        os.truncate(torn / whole.name, cut)
        later = opened(torn)
        later.append(b"of a later life")
        found = drained(later)
        later.close()
        shutil.rmtree(torn)
        assert found[-1] == b"of a later life"
        assert found[:-1] == payloads[: len(found) - 1]
        if cut == whole.stat().st_size:
            assert found[:-1] == payloads


def test_a_damaged_record_ends_its_segment_and_no_other(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, written(4))
    spool.close()
    (segment,) = tmp_path.glob("*.seg")
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"record 2")] ^= 1
    segment.write_bytes(raw)
    later = opened(tmp_path)
    later.append(b"later")
    assert drained(later) == [*written(2), b"later"]
    assert later.damaged_bytes > 0


def test_beyond_its_bytes_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path, most_bytes=4_096, segment_bytes=1_024)
    fill(spool, written(1_000))
    assert spool.kept_bytes <= 4_096
    kept = drained(spool)
    assert kept == written(len(kept), 1_000 - len(kept))
    assert spool.lost == 1_000 - len(kept)
    spool.lose(-spool.lost)
    assert spool.lost == 0


def test_what_was_acknowledged_is_not_lost_when_it_goes(tmp_path: Path) -> None:
    spool = opened(tmp_path, most_bytes=4_096, segment_bytes=1_024)
    fill(spool, written(50))
    batch = spool.read(40, LOTS)
    assert batch is not None
    spool.acknowledge(Place(batch.first.epoch, 40))
    fill(spool, written(1_000, 50))
    lost = spool.lost
    assert lost + len(drained(spool)) == 1_010
    spool.close()
    later = opened(tmp_path)
    assert later.lost == lost


def test_a_record_longer_than_what_is_read_at_once_is_read_all_the_same(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, [b"x" * 10_000, b"y" * MAX_PAYLOAD, b"z"])
    sizes = []
    while (batch := spool.read(10, 100)) is not None:
        sizes.append([len(payload) for payload in batch.payloads])
        spool.acknowledge(batch.last)
    assert sizes == [[10_000], [MAX_PAYLOAD], [1]]
    with pytest.raises(ValueError, match="is the most"):
        spool.append(b"x" * (MAX_PAYLOAD + 1))


def test_a_batch_of_which_nothing_was_heard_comes_again_with_its_bounds(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, written(3))
    batch = spool.read(10, LOTS)
    assert batch is not None
    spool.sending(batch.last)
    fill(spool, written(2, 3))
    assert spool.read(10, LOTS) == batch
    spool.close()
    later = opened(tmp_path)
    assert later.read(10, LOTS) == batch
    later.withdraw()
    whole = later.read(10, LOTS)
    assert whole is not None
    assert whole.payloads == written(5)


def test_an_unreadable_standing_means_that_all_is_sent_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    fill(spool, written(2))
    spool.acknowledge(Place(1_000, 1))
    spool.close()
    (tmp_path / "acknowledged.json").write_bytes(b"\x00")
    assert drained(opened(tmp_path)) == written(2)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that the disk still takes, by `full[0]`."""
    room = [LOTS]
    write = os.write

    def limited(fd: int, chunk: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = write(fd, bytes(chunk)[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(module.os, "write", limited)
    return room


@pytest.mark.parametrize("room", range(0, 80, 3))
def test_a_full_disk_tears_nothing_that_others_rely_on(tmp_path: Path, full: list[int], room: int) -> None:
    spool = opened(tmp_path)
    spool.append(b"before")
    full[0] = room
    kept = [b"before"]
    for number in range(10):
        payload = b"record %d" % number
        try:
            spool.append(payload)
        except OSError:
            continue
        kept.append(payload)
    full[0] = LOTS
    spool.append(b"after")
    assert drained(spool) == [*kept, b"after"]


def test_a_disk_that_is_full_from_the_start_is_used_once_there_is_room(tmp_path: Path, full: list[int]) -> None:
    spool = opened(tmp_path)
    full[0] = 3
    with pytest.raises(OSError, match=r"No space|takes no more"):
        spool.append(b"nothing")
    assert list(tmp_path.glob("*.seg")) == []
    full[0] = LOTS
    spool.append(b"something")
    assert drained(spool) == [b"something"]


def test_where_nothing_can_be_taken_back_the_segment_ends_there(
    tmp_path: Path, full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    spool.append(b"before")
    full[0] = 5
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(OSError, match=r"No space|takes no more"):
            spool.append(b"torn")
    full[0] = LOTS
    spool.append(b"after")
    assert len(list(tmp_path.glob("*.seg"))) == 2
    assert drained(spool) == [b"before", b"after"]


def test_what_is_spooled_is_delivered_though_nothing_can_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    fill(spool, written(5))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda path, chunk: (_ for _ in ()).throw(OSError(28, "No space left")))
        batch = spool.read(2, LOTS)
        assert batch is not None
        spool.sending(batch.last)
        spool.acknowledge(batch.last)
        assert drained(spool) == written(3, 2)
    spool.close()
    assert drained(opened(tmp_path)) == []


def test_what_was_synced_is_not_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(module.os, "fdatasync", synced.append)
    spool = opened(tmp_path)
    spool.append(b"one")
    spool.sync()
    spool.sync()
    assert len(synced) == 1
    spool.append(b"two")
    spool.sync()
    assert len(synced) == 2


def test_a_forked_childs_copy_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(b"one")
    pid = os.fork()
    if not pid:
        spool.abandon()
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(Conflict):
        opened(tmp_path)
    spool.append(b"two")
    assert drained(spool) == [b"one", b"two"]


APPENDER = """
import sys
from pathlib import Path
from common.reporting.spool import Spool
spool = Spool(Path(sys.argv[1]), segment_bytes=4_096)
spool.open(float(sys.argv[2]))
number = 0
while True:
    number += 1
    spool.append(b"%d" % number)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("lines", [1, 7, 300, 2_500])
def test_a_process_killed_in_mid_append_leaves_everything_that_it_had_appended(tmp_path: Path, lines: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(tmp_path), "5"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait(timeout=60)
    process.stdout.close()
    last = int([line for line in told if line.endswith("\n")][-1])
    found = [int(payload) for payload in drained(opened(tmp_path, wall=1.0), most=100)]
    assert found == list(range(1, len(found) + 1))
    assert last <= len(found) <= last + 1


class Lives(RuleBasedStateMachine):
    """A spool through lives that end anyhow, beside a list of what it was given."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["PYTEST_SPOOLS"]) / f"{id(self):x}-{os.urandom(4).hex()}"
        self.spool = opened(self.folder, segment_bytes=200)
        self.expected: list[bytes] = []
        self.number = 0

    @rule(count=st.integers(1, 8))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.spool.append(b"%d" % self.number)
            self.expected.append(b"%d" % self.number)

    @rule(most=st.integers(1, 5), acknowledged=st.booleans())
    def deliver(self, most: int, acknowledged: bool) -> None:
        batch = self.spool.read(most, 40)
        if batch is None:
            assert self.expected == []
            return
        assert batch.payloads == self.expected[: len(batch.payloads)]
        self.spool.sending(batch.last)
        if acknowledged:
            self.spool.acknowledge(batch.last)
            del self.expected[: len(batch.payloads)]

    @rule(torn=st.binary(max_size=12))
    def die(self, torn: bytes) -> None:
        """As by kill -9 in the middle of an append: the lock goes, a part of a record stays."""
        fd = self.spool._fd
        if fd >= 0:
            os.write(fd, torn)
        self.spool.abandon()
        self.spool = opened(self.folder, segment_bytes=200)

    @rule()
    def end(self) -> None:
        self.spool.close()
        self.spool.open(1.0)

    @precondition(lambda self: self.expected)
    @invariant()
    def the_oldest_is_next(self) -> None:
        batch = self.spool.read(1, 40)
        assert batch is not None
        assert batch.payloads == self.expected[:1]

    def teardown(self) -> None:
        assert drained(self.spool) == self.expected
        self.spool.close()
        shutil.rmtree(self.folder)


def test_every_record_is_delivered_once_and_in_order_through_any_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_SPOOLS", str(tmp_path))
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Lives, settings=settings(max_examples=60, deadline=None))  # type: ignore[no-untyped-call]
