"""The shared store: one hash per table on a Redis server, changed by scripts that run whole or not at all.

Under `tandem:{NAME}:` lie `fence` (the token of the one writer, who it is, the schema), `alive` (expires unless that
writer renews it) and `table:*`. Every commit is one script that first compares the token, so a service that was replaced
while it slept writes nothing, and is told by whom. `alive` lets the next one in after a writer died out of sight; one that
died on this machine is replaced at once.

After any failure the token is changed before the next use, since a commit that timed out may still lie in the server's
buffer: with the old token it can no longer come in late. A lost connection is tried once more, a time-out is not; redis-py's
own retries are off. Calls block for at most 5 s.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

from common.errors import StorageUnavailable
from common.store.holder import Holder, is_gone, this_process
from common.store.protocol import PROBE, SCHEMA, Change, Durability, StoreRefused, net_effect

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

CONNECT_S: Final = 1.0
"""Longest wait for a connection."""
REPLY_S: Final = 1.5
"""Longest wait for a reply; a commit after a lost connection takes CONNECT_S + 2 x REPLY_S at most."""
FLUSH_MS: Final = 1400
"""Longest wait for WAITAOF, within REPLY_S; `appendfsync everysec` flushes after 1 s at most."""
ALIVE_MS: Final = 10_000
"""A writer that has not been heard of for this long may be replaced from another machine."""
RENEW_S: Final = 3.0
"""Time between two renewals; three may be lost within ALIVE_MS."""
SCAN_ROWS: Final = 1000
"""Rows asked of the server at a time while loading."""
_WAITAOF_SINCE: Final = (7, 2)
_VERSION: Final = re.compile(rb"redis_version:(\S+)")

_TAKE: Final = """
local schema = tonumber(redis.call('HGET', KEYS[1], 'schema') or '0')
if schema > tonumber(ARGV[4]) then return {'schema', tostring(schema), '', 0} end
local held = redis.call('HGET', KEYS[1], 'token')
if held and held ~= ARGV[5] and redis.call('EXISTS', KEYS[2]) == 1 then
  return {'held', held, redis.call('HGET', KEYS[1], 'holder'), redis.call('PTTL', KEYS[2])}
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'holder', ARGV[2], 'schema', ARGV[4])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return {'taken', '', '', 0}
"""
_REFENCE: Final = """
local held = redis.call('HGET', KEYS[1], 'token')
if held ~= ARGV[1] and held ~= ARGV[2] then return redis.call('HGET', KEYS[1], 'holder') or '' end
redis.call('HSET', KEYS[1], 'token', ARGV[2])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return false
"""
_RENEW: Final = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
return false
"""
_RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then redis.call('DEL', KEYS[2]) end
return false
"""
_COMMIT: Final = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.call('HGET', KEYS[1], 'holder') or '' end
local puts = tonumber(ARGV[2])
for i = 1, puts do
  local at = 3 * i
  redis.call('HSET', KEYS[1 + i], ARGV[at], ARGV[at + 1])
end
for i = puts + 1, #KEYS - 1 do redis.call('HDEL', KEYS[1 + i], ARGV[3 * i]) end
return false
"""

_MEND: Final[tuple[tuple[str, type[StorageUnavailable], str], ...]] = (
    ("AuthenticationError", StoreRefused, "refuses our user or password; put the right ones into the URL"),
    ("AuthorizationError", StoreRefused, "refuses our user or password; put the right ones into the URL"),
    ("NoPermissionError", StoreRefused, "does not let our user do this; allow it EVAL, HSCAN, INFO and CONFIG GET"),
    ("ReadOnlyError", StorageUnavailable, "is a replica; name the primary in the URL"),
    ("OutOfMemoryError", StorageUnavailable, "is at its maxmemory; raise it or free some"),
    ("BusyLoadingError", StorageUnavailable, "is still loading its file; wait"),
    ("TimeoutError", StorageUnavailable, "did not answer in time; see whether it hangs or its disk is slow"),
    ("ConnectionError", StorageUnavailable, "cannot be reached; start it, or see to the network"),
)


class _Connection(Protocol):
    """What redis-py leaves untyped of its connection."""

    def on_connect(self) -> None: ...
    def send_command(self, *words: str) -> None: ...
    def read_response(self) -> Any: ...
    def disconnect(self) -> None: ...


class RedisStore:
    """A RecordStore on the server at `url` (redis://, rediss:// or unix://), held for the service `name` until `close`.

    `needs` is the strongest durability the service will ask for. Raises StoreRefused when another process holds it, a newer
    Tandem wrote it or the server is not set up to keep that promise, StorageUnavailable when it cannot be reached.
    """

    def __init__(self, url: str, name: str, needs: Durability = Durability.FULL) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._where = f"{_without_password(url)} (tandem:{{{name}}})"
        self._prefix = f"tandem:{{{name}}}:"
        self._guards = (f"{self._prefix}fence", f"{self._prefix}alive")
        self._needs = needs
        self._waits_for_flush = False
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._doubtful = False
        self._token = self._next_token = secrets.token_hex(8)
        self._errors = redis.RedisError
        self._lost = redis.ConnectionError
        try:
            self._client: redis.Redis = redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=REPLY_S,
                socket_connect_timeout=CONNECT_S,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                redis_connect_func=self._greet,
            )
        except ValueError as error:
            raise StoreRefused(f"{self._where} is no address of a Redis server: {error}") from error
        self._open(this_process(name))
        self._renewer = threading.Thread(target=self._renew, name="store-renewer", daemon=True)
        self._renewer.start()

    @property
    def where(self) -> str:
        """The server's address and the prefix of our keys, without the password."""
        return self._where

    def load(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The whole table is fetched, since a hash has no order, and then yielded by key."""
        rows = self._use(lambda: dict(self._client.hscan_iter(self._hash(table), count=SCAN_ROWS)))
        yield from sorted((key.decode(), value) for key, value in rows.items())

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        """One script; with FULL its reply comes after the server's flush, which the store must have been opened for."""
        if durability is Durability.FULL and self._needs is not Durability.FULL:
            raise ValueError(f"{self._where} was opened for commits of durability {self._needs} only")
        puts, deletes = net_effect(changes)
        keys = [self._guards[0], *(self._hash(row[0]) for row in puts), *(self._hash(row[0]) for row in deletes)]
        rows: list[str | bytes] = [str(len(puts))]
        for _, key, value in puts:
            rows += (key, value, "")
        for _, key in deletes:
            rows += (key, "", "")
        self._use(lambda: self._committed(keys, rows, durability))

    def check(self) -> None:
        """A commit of `PROBE` with the strongest durability the service needs."""
        self.commit((PROBE,), self._needs)

    def close(self) -> None:
        """Lets the next process in; when the server cannot be reached, `alive` does so when it expires."""
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
            try:
                self._script(_RELEASE, self._guards, self._token)
            except self._errors:
                pass
            self._client.close()
        self._renewer.join(CONNECT_S + REPLY_S)

    def _open(self, me: Holder) -> None:
        try:
            answer = self._taken(me, replacing="")
            if answer[0] == b"held" and is_gone(_holder(answer[2]), me):
                answer = self._taken(me, replacing=answer[1].decode())
        except self._errors as error:
            raise self._explained(error) from error
        if answer[0] == b"schema":
            raise StoreRefused(
                f"{self._where} has schema {answer[1].decode()} and this Tandem knows up to {SCHEMA}; run the newer Tandem, "
                "or restore the backup made before it was installed"
            )
        if answer[0] == b"held":
            raise StoreRefused(
                f"{self._where} is held by {_holder(answer[2])}; stop that process, or wait {answer[3] / 1000:.0f} s "
                "after its death, or give this one a database of its own"
            )

    def _taken(self, me: Holder, *, replacing: str) -> list[Any]:
        mine = msgspec.json.encode(me)
        return cast("list[Any]", self._script(_TAKE, self._guards, self._token, mine, ALIVE_MS, SCHEMA, replacing))

    def _use(self, work: Callable[[], T]) -> T:
        """Does `work` alone on the server, once more after a lost connection: every change may be applied twice."""
        with self._lock:
            if self._stopped.is_set():
                raise StorageUnavailable(f"{self._where} is closed: its service is stopping")
            try:
                try:
                    return self._attempt(work)
                except self._lost:
                    return self._attempt(work)
            except self._errors as error:
                raise self._explained(error) from error

    def _attempt(self, work: Callable[[], T]) -> T:
        if self._doubtful:
            self._refence()
        self._doubtful = True
        outcome = work()
        self._doubtful = False
        return outcome

    def _refence(self) -> None:
        """Shuts out every commit sent so far."""
        if self._next_token == self._token:
            self._next_token = secrets.token_hex(8)
        self._refuse_replaced(self._script(_REFENCE, self._guards, self._token, self._next_token, ALIVE_MS))
        self._token = self._next_token

    def _committed(self, keys: Sequence[str], rows: Sequence[str | bytes], durability: Durability) -> None:
        if durability is Durability.NORMAL or not self._waits_for_flush:
            self._refuse_replaced(self._script(_COMMIT, keys, self._token, *rows))
            return
        both = self._client.pipeline(transaction=False)
        both.eval(_COMMIT, len(keys), *keys, self._token, *rows)
        both.execute_command("WAITAOF", 1, 0, FLUSH_MS)  # type: ignore[no-untyped-call]
        replaced, flushed = both.execute()
        self._refuse_replaced(replaced)
        if flushed[0] < 1:
            raise StorageUnavailable(f"{self._where} has not flushed within {FLUSH_MS} ms; see to its disk")

    def _refuse_replaced(self, holder: bytes | None) -> None:
        if holder is None:
            return
        if holder == b"":
            raise StoreRefused(
                f"{self._where} was emptied or restored under us; restart this service to start from what is there"
            )
        raise StoreRefused(f"{self._where} was taken over by {_holder(holder)}; stop one of the two")

    def _renew(self) -> None:
        """The thread that keeps `alive`; it takes no lock, so that a hung server never delays a commit by more than its own."""
        while not self._stopped.wait(RENEW_S):
            try:
                self._script(_RENEW, self._guards, self._token, ALIVE_MS)
            except Exception:
                # A failed commit drops connections, also one that this thread reads, and then anything is raised.
                continue  # the next commit meets the same server and says so

    def _greet(self, connection: _Connection) -> None:
        """First words of every connection: the server may have come back with settings that keep less."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        version = _VERSION.search(connection.read_response())
        connection.send_command("CONFIG", "GET", "append*")
        names = iter(part.decode() for part in connection.read_response())
        settings = dict(zip(names, names, strict=True))
        try:
            self._waits_for_flush = waits_for_flush(
                version[1].decode() if version else "0", settings, self._needs, self._where
            )
        except StoreRefused:
            connection.disconnect()
            raise

    def _script(self, script: str, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return self._client.eval(script, len(keys), *keys, *arguments)

    def _hash(self, table: str) -> str:
        return f"{self._prefix}table:{table}"

    def _explained(self, error: Exception) -> StorageUnavailable:
        """The error in words: what, where, how to mend."""
        if "MISCONF" in str(error):
            return StorageUnavailable(f"{self._where} cannot write its file; free space on the server's disk ({error})")
        names = {cls.__name__ for cls in type(error).__mro__}
        for name, kind, mend in _MEND:
            if name in names:
                return kind(f"{self._where} {mend} ({error})")
        return StorageUnavailable(f"{self._where} answered: {error}")


def waits_for_flush(version: str, settings: Mapping[str, str], needs: Durability, where: str) -> bool:
    """Whether FULL commits must ask for the flush by WAITAOF (Redis 7.2); otherwise the server flushes before it replies.

    `settings` are the server's `appendonly` and `appendfsync`. Raises StoreRefused when the server cannot keep `needs`.
    """
    if settings.get("appendonly") != "yes":
        raise StoreRefused(f"{where} keeps no append-only file and forgets when it dies; set `appendonly yes` there")
    policy = settings.get("appendfsync")
    if needs is Durability.NORMAL or policy == "always":
        return False
    release = tuple(int(part) for part in version.split(".")[:2])
    if release >= _WAITAOF_SINCE and policy == "everysec":
        return True
    raise StoreRefused(
        f"{where} is Redis {version} with `appendfsync {policy}`, which can lose acknowledged commits with the power; "
        "set `appendfsync always`, or run Redis 7.2 or newer with `appendfsync everysec`"
    )


def _holder(text: bytes) -> Holder:
    return msgspec.json.decode(text, type=Holder)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
