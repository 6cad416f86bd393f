from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import redis

import common.store.redis as module
from common.errors import StorageUnavailable
from common.store.holder import this_process
from common.store.protocol import Change, Durability, StoreRefused
from common.store.redis import RedisStore, waits_for_flush
from tests.common.store.contract import backends
from tests.common.store.contract.test_contract import killed_child, whole_groups
from tests.lab.redis_server import RedisServer

NAME = "error_bus"
FENCE, ALIVE = f"tandem:{{{NAME}}}:fence", f"tandem:{{{NAME}}}:alive"
BOUND_S = 60.0
Make = Callable[..., RedisServer]


def put(key: str, value: bytes = b"v") -> Change:
    return Change("t", key, value)


def keys(store: RedisStore) -> list[str]:
    return [key for key, _ in store.load("t")]


@contextmanager
def opened(server: RedisServer, needs: Durability = Durability.FULL) -> Iterator[RedisStore]:
    store = RedisStore(server.url, NAME, needs)
    yield store
    store.close()


@contextmanager
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """An operator's own connection."""
    client = redis.Redis(unix_socket_path=str(server.socket))
    yield client
    client.close()


def taken_over_by(client: redis.Redis, host: str) -> None:
    """Another machine's service takes the store, as `take` would let it after our `alive` expired."""
    theirs = msgspec.structs.replace(this_process(NAME), host=host, place="elsewhere", pid=7)
    client.hset(FENCE, mapping={"token": "theirs", "holder": msgspec.json.encode(theirs)})
    client.set(ALIVE, "theirs", px=10_000)


def test_a_killed_server_is_named_within_a_bound_and_serves_again_with_everything(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store:
        store.commit([put("a"), put("b")], Durability.FULL)
        server.kill()
        for call in (lambda: store.commit([put("c")], Durability.NORMAL), store.check, lambda: keys(store)):
            began = time.monotonic()
            with pytest.raises(StorageUnavailable, match=r"unix://.* cannot be reached; start it"):
                call()
            assert time.monotonic() - began < BOUND_S
        server.start()
        store.check()
        assert keys(store) == ["a", "b"]
        store.commit([put("c")], Durability.FULL)
        assert keys(store) == ["a", "b", "c"]


def test_a_server_that_was_replaced_between_two_commits_is_not_noticed(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store:
        store.commit([put("a")], Durability.FULL)
        server.stop()
        server.start()
        store.commit([put("b")], Durability.FULL)
        assert keys(store) == ["a", "b"]


def test_acknowledged_groups_survive_the_kill_of_server_and_service(own_redis: Make) -> None:
    server = own_redis()
    backend = backends.redis(server.url)
    acknowledged = killed_child(backend, Durability.NORMAL, after=25)
    server.kill()
    server.start()
    store = backend.reopen()
    assert set(range(acknowledged + 1)) <= set(whole_groups(store))
    store.close()


def test_a_hung_server_is_named_within_a_bound(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store:
        server.freeze()
        began = time.monotonic()
        with pytest.raises(StorageUnavailable, match="did not answer in time"):
            store.commit([put("a")], Durability.NORMAL)
        assert time.monotonic() - began < BOUND_S
        server.thaw()
        store.check()


def test_a_commit_that_timed_out_never_comes_in_after_the_next_load(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store:
        late_token = store._token
        server.freeze()
        with pytest.raises(StorageUnavailable):
            store.commit([put("timed out")], Durability.NORMAL)
        server.thaw()
        seen = keys(store)
        with raw(server) as client:  # the same bytes, as a slow network would deliver them now
            hash_key = f"tandem:{{{NAME}}}:table:t"
            assert client.eval(module._COMMIT, 2, FENCE, hash_key, late_token, "1", "late", "v", "") is not None
        assert keys(store) == seen


def test_a_service_that_was_replaced_writes_nothing_and_is_told_by_whom(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store, raw(server) as client:
        store.commit([put("a")], Durability.NORMAL)
        taken_over_by(client, "pc2")
        for _ in range(2):
            with pytest.raises(StoreRefused, match="was taken over by error_bus, pid 7 on pc2"):
                store.commit([put("b"), Change("t", "a", None)], Durability.NORMAL)
        assert client.hkeys(f"tandem:{{{NAME}}}:table:t") == [b"a"]
    with raw(server) as client:
        assert client.get(ALIVE) == b"theirs"


def test_a_holder_out_of_sight_is_respected_until_it_falls_silent(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store:
        store.commit([put("a")], Durability.FULL)
    with raw(server) as client:
        taken_over_by(client, "pc2")
        with pytest.raises(
            StoreRefused, match=r"held by error_bus, pid 7 on pc2 since .* or wait 10 s after its death"
        ):
            RedisStore(server.url, NAME)
        client.delete(ALIVE)
    with opened(server) as store:
        assert keys(store) == ["a"]


def test_the_holder_keeps_itself_alive(own_redis: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    server = own_redis()
    renewed = threading.Event()
    with opened(server) as store, raw(server) as client:
        client.delete(ALIVE)
        script = store._script

        def seen(*arguments: object) -> object:
            answer = script(*arguments)
            renewed.set()
            return answer

        monkeypatch.setattr(store, "_script", seen)
        assert renewed.wait(60)
        assert client.pttl(ALIVE) > 0


def test_a_server_that_cannot_be_reached_does_not_end_the_renewing(
    own_redis: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    server = own_redis()
    failed = threading.Event()
    with opened(server) as store:
        script = store._script

        def seen(*arguments: object) -> object:
            try:
                return script(*arguments)
            except redis.RedisError:
                failed.set()
                raise

        monkeypatch.setattr(store, "_script", seen)
        server.kill()
        assert failed.wait(60)
        server.start()
        store.check()
        assert store._renewer.is_alive()
        server.kill()
    server.start()


def test_a_connection_closed_under_the_renewing_does_not_end_it(
    own_redis: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    twice = threading.Semaphore(0)
    with opened(own_redis()) as store:

        def closed_under_us(*_: object) -> object:
            twice.release()
            raise ValueError("I/O operation on closed file.")

        monkeypatch.setattr(store, "_script", closed_under_us)
        assert twice.acquire(timeout=60)
        assert twice.acquire(timeout=60)
        monkeypatch.undo()


def test_an_emptied_server_is_not_taken_for_ours(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store, raw(server) as client:
        store.commit([put("a")], Durability.NORMAL)
        client.flushdb()
        with pytest.raises(StoreRefused, match="was emptied or restored under us; restart this service"):
            store.commit([put("b")], Durability.NORMAL)
        assert client.keys("*:table:*") == []


def test_a_newer_schema_is_refused_and_left_as_it_is(own_redis: Make) -> None:
    server = own_redis()
    with opened(server):
        pass
    with raw(server) as client:
        client.hset(FENCE, "schema", 7)
        with pytest.raises(StoreRefused, match="has schema 7 and this Tandem knows up to 1"):
            RedisStore(server.url, NAME)
        assert client.hget(FENCE, "schema") == b"7"


def test_a_full_server_refuses_and_serves_again_when_there_is_room(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store, raw(server) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StorageUnavailable, match="is at its maxmemory; raise it"):
            store.commit([put("a"), put("b")], Durability.NORMAL)
        client.config_set("maxmemory", "0")
        store.check()
        assert keys(store) == []


def test_a_replica_is_named(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store, raw(server) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        client.config_set("replica-serve-stale-data", "yes")
        with pytest.raises(StorageUnavailable, match="is a replica; name the primary"):
            store.commit([put("a")], Durability.NORMAL)
        client.execute_command("REPLICAOF", "NO", "ONE")
        store.check()


def test_a_wrong_password_is_refused_and_never_repeated(own_redis: Make) -> None:
    server = own_redis()
    with raw(server) as client:
        client.config_set("requirepass", "right")
        with pytest.raises(StoreRefused, match=r"redis://127\.0\.0\.1:\d+/0 .* refuses our user or password") as caught:
            RedisStore(server.tcp_url.replace("//", "//:wrong-secret@"), NAME)
        assert "wrong-secret" not in str(caught.value)
        store = RedisStore(server.tcp_url.replace("//", "//:right@"), NAME)
        assert "right" not in store.where
        store.close()


def test_a_user_without_the_rights_is_refused(own_redis: Make) -> None:
    server = own_redis()
    with raw(server) as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+info", "+client", "+eval")
        with pytest.raises(StoreRefused, match="does not let our user do this; allow it EVAL"):
            RedisStore(server.tcp_url.replace("//", "//weak:pw@"), NAME)


def test_an_error_without_a_known_mend_still_says_where(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store, raw(server) as client:
        client.set(f"tandem:{{{NAME}}}:table:t", "in the way")
        with pytest.raises(StorageUnavailable, match=r"unix://.* answered: WRONGTYPE"):
            list(store.load("t"))
        error = store._explained(redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"))
        assert "free space on the server's disk" in error.message


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(StoreRefused, match="is no address of a Redis server"):
        RedisStore("redis://localhost:6379/0?socket_timeout=soon", NAME)


def test_a_server_that_would_forget_is_refused_at_open(own_redis: Make) -> None:
    with pytest.raises(StoreRefused, match=r"keeps no append-only file.*set `appendonly yes`"):
        RedisStore(own_redis(appendonly="no").url, NAME, Durability.NORMAL)


def test_a_server_without_flushes_takes_normal_commits_and_refuses_full_ones(own_redis: Make) -> None:
    server = own_redis(appendfsync="everysec")
    with raw(server) as client:
        version = tuple(int(part) for part in client.info("server")["redis_version"].split(".")[:2])
    if version < (7, 2):
        with pytest.raises(
            StoreRefused, match="can lose acknowledged commits with the power; set `appendfsync always`"
        ):
            RedisStore(server.url, NAME)
    with opened(server, Durability.NORMAL) as store:
        store.commit([put("a")], Durability.NORMAL)
        store.check()
        with pytest.raises(ValueError, match="durability normal only"):
            store.commit([put("b")], Durability.FULL)


def test_a_server_that_came_back_with_weaker_settings_is_refused(own_redis: Make) -> None:
    server = own_redis()
    with opened(server) as store:
        server.stop()
        server.settings["appendfsync"] = "no"
        server.start()
        for _ in range(2):
            with pytest.raises(StoreRefused, match="with `appendfsync no`, which can lose acknowledged commits"):
                store.commit([put("a")], Durability.FULL)
        server.stop()
        server.settings["appendfsync"] = "always"
        server.start()
        store.commit([put("a")], Durability.FULL)


@pytest.mark.parametrize(
    ("version", "policy", "needs", "waits"),
    [
        ("7.0.15", "always", Durability.FULL, False),
        ("7.0.15", "everysec", Durability.NORMAL, False),
        ("7.2.4", "always", Durability.FULL, False),
        ("7.2.4", "everysec", Durability.FULL, True),
        ("8.0.1", "everysec", Durability.FULL, True),
        ("8.0.1", "no", Durability.NORMAL, False),
        ("7.0.15", "everysec", Durability.FULL, None),
        ("6.2.0", "no", Durability.FULL, None),
        ("7.2.4", "no", Durability.FULL, None),
    ],
)
def test_full_commits_need_a_server_that_flushes(
    version: str, policy: str, needs: Durability, waits: bool | None
) -> None:
    settings = {"appendonly": "yes", "appendfsync": policy}
    if waits is None:
        with pytest.raises(StoreRefused, match=f"is Redis {version} with `appendfsync {policy}`"):
            waits_for_flush(version, settings, needs, "x")
    else:
        assert waits_for_flush(version, settings, needs, "x") is waits


class Flushing:
    """A pipeline of a server that has WAITAOF: runs the script for real and answers how many flushed."""

    def __init__(self, client: redis.Redis, flushed: int) -> None:
        self._client = client
        self._flushed = flushed
        self._answers: list[object] = []

    def eval(self, *arguments: object) -> None:
        self._answers.append(self._client.eval(*arguments))

    def execute_command(self, *arguments: object) -> None:
        assert arguments == ("WAITAOF", 1, 0, module.FLUSH_MS)
        self._answers.append([self._flushed, 0])

    def execute(self) -> list[object]:
        return self._answers


@pytest.mark.parametrize("flushed", [1, 0])
def test_a_full_commit_waits_for_the_flush_where_the_server_offers_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, flushed: int
) -> None:
    with opened(redis_server) as store:
        store._waits_for_flush = True
        monkeypatch.setattr(store._client, "pipeline", lambda transaction: Flushing(store._client, flushed))
        if flushed:
            store.commit([put(f"flushed {flushed}")], Durability.FULL)
        else:
            with pytest.raises(StorageUnavailable, match="has not flushed within"):
                store.commit([put("a")], Durability.FULL)


def test_two_processes_cannot_hold_one_store(own_redis: Make, tmp_path: Path) -> None:
    server = own_redis()
    script = (
        "import sys; from common.store.redis import RedisStore; RedisStore(sys.argv[1], sys.argv[2]); "
        "print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, server.url, NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(StoreRefused, match=f"held by error_bus, pid {child.pid} on"):
        RedisStore(server.url, NAME)
    child.kill()
    child.communicate()
    with opened(server) as store:
        assert keys(store) == []
