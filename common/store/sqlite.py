"""The default store: one SQLite file, one writing connection, one process.

The file is in WAL mode with exclusive locking: no shared memory (which a full disk turns into SIGBUS), no second
connection (SQLite before 3.51.3 can corrupt a WAL that two connections reset), and a lock beside it that says who holds
it. `synchronous` is switched between transactions, which costs a microsecond: one connection serves NORMAL commits
(10 us) and FULL commits (100 us on an SSD), and a lock takes them one at a time, so that a NORMAL commit
waits at most for the flush under way. A FULL flush also makes every earlier NORMAL commit safe.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from common.errors import StorageUnavailable
from common.store.holder import FileClaim, this_process
from common.store.protocol import PROBE, SCHEMA, Change, Durability, StoreRefused, net_effect

APPLICATION_ID: Final = 0x54_4E_44_4D
"""Marks the file as Tandem's (SQLite's `application_id`)."""
BUSY_S: Final = 1.0
"""How long to wait for a program outside Tandem, such as a backup, to let go of the file."""
CHECKPOINT_PAGES: Final = 1000
"""Pages of 4 KiB in the WAL at which a commit also moves them into the file; SQLite's own default."""
WAL_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A WAL that one large group made longer is cut back to this."""
CHECKED_BYTES: Final = 256 * 1024 * 1024
"""Up to this size a file that was not closed is checked on opening (0.6 ms per MB)."""
PAGE_ROWS: Final = 1000
"""Rows read at a time while loading."""

_MEND: Final[tuple[tuple[str, type[StorageUnavailable], str], ...]] = (
    ("SQLITE_FULL", StorageUnavailable, "the disk is full; free space on it"),
    (
        "SQLITE_IOERR",
        StorageUnavailable,
        "the disk reports an error; see the kernel's log and free space or replace it",
    ),
    ("SQLITE_READONLY", StorageUnavailable, "it is read-only; make the file and its folder writable"),
    ("SQLITE_PERM", StorageUnavailable, "access is denied; make the file and its folder writable"),
    ("SQLITE_CANTOPEN", StorageUnavailable, "it cannot be opened; make the folder writable and free space on its disk"),
    ("SQLITE_BUSY", StorageUnavailable, "another program has it open; close that program"),
    ("SQLITE_LOCKED", StorageUnavailable, "another program has it open; close that program"),
    ("SQLITE_NOMEM", StorageUnavailable, "this machine is out of memory; free some"),
    ("SQLITE_CORRUPT", StoreRefused, "it is damaged; restore a backup, or move it aside to start empty"),
    ("SQLITE_NOTADB", StoreRefused, "it is not an SQLite file; restore a backup, or move it aside to start empty"),
)


class SqliteStore:
    """A RecordStore in the file `path`, held for the service `name` until `close`.

    Raises StoreRefused when another process holds it, a newer Tandem wrote it or it is damaged, StorageUnavailable when
    it cannot be opened now.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path.absolute()
        self._lock = threading.Lock()
        self._synchronous = Durability.NORMAL
        self._claim = self._claimed(name)
        try:
            self._connection: sqlite3.Connection | None = self._opened()
        except BaseException:
            self._claim.release()
            raise

    @property
    def where(self) -> str:
        """The file's absolute path."""
        return str(self._path)

    def load(self, table: str) -> Iterator[tuple[str, bytes]]:
        """Rows in order of key, read a page at a time, so that no read stays open between them."""
        query = "SELECT key, value FROM records WHERE tbl = ? AND key > ? ORDER BY key LIMIT ?"
        rows = self._read("SELECT key, value FROM records WHERE tbl = ? ORDER BY key LIMIT ?", (table, PAGE_ROWS))
        while rows:
            yield from rows
            rows = self._read(query, (table, rows[-1][0], PAGE_ROWS)) if len(rows) == PAGE_ROWS else []

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        """One transaction; a failed one is rolled back, and the next needs no reopening."""
        puts, deletes = net_effect(changes)
        with self._use() as connection:
            self._begin(connection, durability)
            if puts:
                connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", puts)
            if deletes:
                connection.executemany("DELETE FROM records WHERE tbl = ? AND key = ?", deletes)
            connection.execute("COMMIT")

    def check(self) -> None:
        """A commit of `PROBE`, flushed to the disk."""
        self.commit((PROBE,), Durability.FULL)

    def close(self) -> None:
        """Moves the WAL into the file, closes it and lets the next process in."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            try:
                connection.close()
            finally:
                self._claim.release()

    def _read(self, query: str, arguments: tuple[str | int, ...]) -> list[tuple[str, bytes]]:
        with self._use() as connection:
            return connection.execute(query, arguments).fetchall()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """The connection to this thread alone; whatever fails is rolled back and named."""
        with self._lock:
            connection = self._connection
            if connection is None:
                raise StorageUnavailable(f"{self._path} is closed: its service is stopping")
            try:
                _roll_back(connection)
                yield connection
            except BaseException as error:
                with suppress(sqlite3.Error):  # the next use rolls back again before it reads or writes
                    _roll_back(connection)
                if isinstance(error, sqlite3.Error):
                    raise self._explained(error) from error
                raise

    def _begin(self, connection: sqlite3.Connection, durability: Durability) -> None:
        if durability is not self._synchronous:  # can only be changed between transactions
            connection.execute(f"PRAGMA synchronous = {durability.name}")
            self._synchronous = durability
        connection.execute("BEGIN IMMEDIATE")

    def _claimed(self, name: str) -> FileClaim:
        """The lock beside the file, in a folder that only its owner may enter."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return FileClaim(self._path.with_name(self._path.name + ".lock"), this_process(name))
        except OSError as error:
            raise StorageUnavailable(
                f"{self._path}: {error.strerror}; its folder must exist, be writable and have space"
            ) from error

    def _opened(self) -> sqlite3.Connection:
        try:
            unclean = self._prepared()
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=16
            )
        except OSError as error:
            raise StorageUnavailable(f"{self._path}: {error.strerror}; make it writable and free space") from error
        except sqlite3.Error as error:
            raise self._explained(error) from error
        try:
            self._set_up(connection, unclean)
        except sqlite3.Error as error:
            connection.close()
            raise self._explained(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepared(self) -> bool:
        """Makes the file if it is new, for its owner alone; True when an earlier holder did not close it and a check is quick."""
        if self._path.exists():
            wal = self._path.with_name(self._path.name + "-wal")
            return wal.exists() and self._path.stat().st_size <= CHECKED_BYTES
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return False

    def _set_up(self, connection: sqlite3.Connection, unclean: bool) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the first look at the WAL, or it is shared
        known = self._is_ours(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA synchronous = {self._synchronous.name}")
        if unclean:
            self._refuse_damaged(connection)
        if not known:
            self._make_schema(connection)

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        """Written only into a new file, so that a service can start and read on a full disk."""
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE records "
            "(tbl TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tbl, key)) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """True for a file of this schema, False for a new one; every other is refused, untouched."""
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != APPLICATION_ID:
            raise StoreRefused(f"{self._path} belongs to another program; move it aside or choose another folder")
        if schema > SCHEMA:
            raise StoreRefused(
                f"{self._path} has schema {schema} and this Tandem knows up to {SCHEMA}; run the newer Tandem, "
                "or restore the backup made before it was installed"
            )
        return bool(tables)

    def _refuse_damaged(self, connection: sqlite3.Connection) -> None:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreRefused(
                f"{self._path} is damaged ({verdict}); restore a backup, or move it aside to start empty"
            )

    def _explained(self, error: sqlite3.Error) -> StorageUnavailable:
        """The error in words: what, where, how to mend."""
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        for prefix, kind, mend in _MEND:
            if name.startswith(prefix):
                return kind(f"{self._path}: {mend} ({name})")
        return StorageUnavailable(f"{self._path}: {error} ({name})")


def _roll_back(connection: sqlite3.Connection) -> None:
    """Drops what a failed commit left; some errors, such as a full disk, have done so already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
