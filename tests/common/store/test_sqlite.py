from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import StorageUnavailable
from common.store import sqlite
from common.store.protocol import Change, Durability, StoreRefused
from common.store.sqlite import SqliteStore
from tests.common.store.contract.backends import Backend
from tests.common.store.contract.backends import sqlite as sqlite_backend
from tests.common.store.contract.test_contract import killed_child


def put(key: str, size: int = 10) -> Change:
    return Change("t", key, b"x" * size)


def keys(store: SqliteStore) -> list[str]:
    return [key for key, _ in store.load("t")]


def opened(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "x.db", "error_bus")


def fill(store: SqliteStore, durability: Durability) -> tuple[list[str], StorageUnavailable]:
    """Commits groups until one fails: the keys acknowledged, and the error of that group."""
    acknowledged: list[str] = []
    for number in range(1000):
        group = [f"{number:05}-{row}" for row in range(4)]
        try:
            store.commit([put(key, 3000) for key in group], durability)
        except StorageUnavailable as error:
            return acknowledged, error
        acknowledged += group
    raise AssertionError("the disk never filled")


@pytest.mark.parametrize("durability", list(Durability))
def test_a_full_disk_loses_nothing_and_serves_again_when_space_returns(
    small_disk: Path, durability: Durability
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    store = opened(small_disk)
    acknowledged, error = fill(store, durability)
    assert error.message == f"{store.where}: the disk is full; free space on it (SQLITE_FULL)"
    assert error.retryable
    assert keys(store) == acknowledged
    with pytest.raises(StorageUnavailable, match="the disk is full"):
        store.check()
    ballast.unlink()
    store.check()
    store.commit([put("after", 3000)], durability)
    assert keys(store) == [*acknowledged, "after"]
    store.close()
    again = opened(small_disk)
    assert keys(again) == [*acknowledged, "after"]
    again.close()


def test_a_store_opens_and_reads_on_a_disk_that_is_full_to_the_last_byte(small_disk: Path) -> None:
    store = opened(small_disk)
    store.commit([put("a")], Durability.FULL)
    store.close()
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'ballast'}", "bs=4096"], check=False, capture_output=True)
    store = opened(small_disk)
    assert keys(store) == ["a"]
    with pytest.raises(StorageUnavailable, match="free space"):
        store.commit([put("b")], Durability.NORMAL)
    (small_disk / "ballast").unlink()
    store.commit([put("b")], Durability.NORMAL)
    assert keys(store) == ["a", "b"]
    store.close()


def test_a_full_disk_leaves_nothing_half_done_when_the_process_is_killed_there(small_disk: Path) -> None:
    store = opened(small_disk)
    acknowledged, _ = fill(store, Durability.FULL)
    copy = small_disk.parent / "copy"
    shutil.copytree(small_disk, copy)
    found = opened(copy)
    assert keys(found) == acknowledged
    found.close()
    store.close()


def test_a_new_store_on_a_full_disk_is_refused_until_space_returns(small_disk: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'ballast'}", "bs=4096"], check=False, capture_output=True)
    with pytest.raises(StorageUnavailable, match="free space"):
        opened(small_disk)
    (small_disk / "ballast").unlink()
    opened(small_disk).close()


def test_each_commit_runs_at_the_level_it_asked_for(tmp_path: Path) -> None:
    store = opened(tmp_path)
    connection = store._connection
    assert connection is not None
    for durability, level in (
        (Durability.FULL, 2),
        (Durability.NORMAL, 1),
        (Durability.NORMAL, 1),
        (Durability.FULL, 2),
    ):
        store.commit([put("a")], durability)
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
    store.close()


def test_the_wal_stays_bounded(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([put(f"large-{number}", 4000) for number in range(8000)], Durability.NORMAL)
    for number in range(300):
        store.commit([put(f"{number % 50}", 4000)], Durability.NORMAL)
    assert (tmp_path / "x.db-wal").stat().st_size <= sqlite.WAL_LIMIT_BYTES + 2 * sqlite.CHECKPOINT_PAGES * 4120
    store.close()
    assert not (tmp_path / "x.db-wal").exists()


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "home")
    store.commit([put("a")], Durability.NORMAL)
    for path in (tmp_path / "home").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    store.close()


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "x.db") as newer:
        newer.execute("PRAGMA user_version = 7")
    newer.close()
    with pytest.raises(StoreRefused, match="has schema 7 and this Tandem knows up to 1"):
        opened(tmp_path)
    with pytest.raises(StoreRefused, match="has schema 7"):  # the first refusal let go of the lock
        opened(tmp_path)


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as other:
        other.execute("CREATE TABLE photos (a)")
    other.close()
    before = (tmp_path / "x.db").read_bytes()
    with pytest.raises(StoreRefused, match="belongs to another program"):
        opened(tmp_path)
    assert (tmp_path / "x.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"hello world " * 1000)
    with pytest.raises(StoreRefused, match="not an SQLite file; restore a backup"):
        opened(tmp_path)


def test_damage_is_found_when_opening_after_a_kill(tmp_path: Path) -> None:
    backend = Backend("sqlite", lambda: SqliteStore(tmp_path / "contract.db", "contract"), str(tmp_path))
    store = backend.reopen()
    store.commit([put(f"{number:04}", 500) for number in range(1000)], Durability.NORMAL)
    store.close()
    killed_child(backend, Durability.NORMAL, after=2)
    with (tmp_path / "contract.db").open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * 4096)
    with pytest.raises(StoreRefused, match="damaged"):
        backend.reopen()


def test_damage_met_while_loading_is_named(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([put(f"{number:04}", 500) for number in range(1000)], Durability.NORMAL)
    store.close()
    with (tmp_path / "x.db").open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * 4096 * 60)
    store = opened(tmp_path)
    with pytest.raises(StoreRefused, match=r"x\.db: it is damaged; restore a backup"):
        keys(store)
    store.close()


def test_a_program_outside_that_keeps_the_file_is_named_within_a_bound(tmp_path: Path) -> None:
    opened(tmp_path).close()
    outside = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    outside.execute("PRAGMA locking_mode = EXCLUSIVE")
    outside.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="another program has it open; close that program"):
        opened(tmp_path)
    outside.execute("ROLLBACK")
    outside.close()
    opened(tmp_path).close()


def test_nobody_outside_can_write_while_we_hold_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    outside = sqlite3.connect(tmp_path / "x.db", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        outside.execute("DELETE FROM records")
    outside.close()
    store.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailable, match=r"file/x\.db: .*folder must exist"):
        opened(tmp_path / "file")


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()
    with pytest.raises(StorageUnavailable, match=r"x\.db: it cannot be opened"):
        opened(tmp_path)


def test_a_disk_turned_read_only_is_named_and_mended(small_disk: Path) -> None:
    store = opened(small_disk)
    store.commit([put("a")], Durability.FULL)
    store.close()
    remount(small_disk, "ro")
    with pytest.raises(StorageUnavailable, match="writable"):
        opened(small_disk)
    remount(small_disk, "rw")
    opened(small_disk).close()


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def test_an_error_without_a_known_mend_still_says_where(tmp_path: Path) -> None:
    store = opened(tmp_path)
    connection = store._connection
    assert connection is not None
    connection.execute("DROP TABLE records")
    with pytest.raises(StorageUnavailable, match=r"x\.db: no such table"):
        store.commit([put("a")], Durability.NORMAL)
    store.close()


def test_half_a_group_is_never_seen_even_if_its_rollback_fails_too(tmp_path: Path) -> None:
    store = opened(tmp_path)
    connection = store._connection
    assert connection is not None

    def deny(action: int, what: str | None, *_: object) -> int:
        ends = action == sqlite3.SQLITE_TRANSACTION and what in ("COMMIT", "ROLLBACK")
        return sqlite3.SQLITE_DENY if ends else sqlite3.SQLITE_OK

    connection.set_authorizer(deny)
    with pytest.raises(StorageUnavailable, match="not authorized"):
        store.commit([put("a")], Durability.NORMAL)
    with pytest.raises(StorageUnavailable, match="not authorized"):
        keys(store)
    connection.set_authorizer(None)
    assert keys(store) == []
    store.commit([put("b")], Durability.NORMAL)
    assert keys(store) == ["b"]
    store.close()


def test_a_new_file_whose_name_cannot_be_made_safe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("common.store.sqlite.os.fsync", broken)
        with pytest.raises(StorageUnavailable, match=r"x\.db: Input/output error; make it writable"):
            opened(tmp_path)
    opened(tmp_path).close()


def test_it_needs_no_more_than_the_standard_library() -> None:
    script = "import sys, common.store.open, common.store.sqlite; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_backend_place_is_its_own(tmp_path: Path) -> None:
    one, other = sqlite_backend(tmp_path / "one").reopen(), sqlite_backend(tmp_path / "other").reopen()
    one.commit([put("a")], Durability.NORMAL)
    assert list(other.load("t")) == []
    one.close()
    other.close()
