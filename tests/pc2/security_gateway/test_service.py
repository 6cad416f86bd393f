from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.api import security_gateway as api
from common.client.following import Event
from common.errors import BadRequest, Conflict, Forbidden, NotFound, StorageUnavailable, Unauthenticated
from common.security import keyfiles
from common.security.keyfiles import KeyfileRefused, ProcessKeys
from common.security.keyring import Issuer, Keyring
from common.security.tokens import Minter
from common.store.memory import MemoryStore, Tables
from common.store.protocol import Durability, RecordStore
from tests.pc2.security_gateway.gateway import Gateway, gateway, supervised, trust

PASSWORD = "correct horse battery"


FULL_DISK = StorageUnavailable("the disk is full")


class SmallDisk(MemoryStore):
    """A store that can be read and takes nothing while it is `full`."""

    full = False

    def commit(self, changes: Any, durability: Durability) -> None:
        if self.full:
            raise FULL_DISK
        super().commit(changes, durability)


async def heard(running: Gateway, topic: str, count: int, during: Any) -> list[dict[str, Any]]:
    """What is published on a topic while `during` runs."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        as_of = running.shell.publisher.cursor(topic)
        await during
        async for event in running.client.events(api.SERVICE, (topic,), {topic: as_of}):
            assert isinstance(event, Event)
            found.append(json.loads(event.body))
            if len(found) == count:
                return found
    raise AssertionError("no events")


async def refused(running: Gateway, verb: str) -> None:
    """Call until it is refused."""
    async with asyncio.timeout(60):
        while True:
            await running.call(verb)


async def test_an_identity_with_an_api_key_gets_a_token_that_is_good_until_it_is_revoked(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        key = await running.create("bob", "read", "control:Supervisor")
        issued = await running.call("issue_token", name="bob", secret=key)
        assert (issued["expires_in_s"], issued["bound_to"]) == (900, "local@pc2")
        verified = await running.call("verify_token", token=issued["token"])
        assert (verified["valid"], verified["name"], verified["issuer"]) == (True, "bob", "SecurityGateway")
        assert verified["scopes"] == ["read", "control:Supervisor"]
        assert 890 < verified["expires_in_s"] <= 900
        await running.call("revoke_token", token=issued["token"])
        verified = await running.call("verify_token", token=issued["token"])
        assert verified == {
            "valid": False,
            "name": "",
            "scopes": [],
            "issuer": "",
            "bound_to": "",
            "expires_in_s": 0.0,
            "reason": "revoked",
            "audience": [],
        }


async def test_an_identity_with_a_password_gets_one_with_it_and_no_api_key(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        created = await running.call("create_identity", name="eve", kind="person", scopes=["use"], secret=PASSWORD)
        assert created["api_key"] == ""
        assert created["identity"]["credential"] == "password"
        assert await running.verdict(await running.token("eve", PASSWORD)) == "valid"


async def test_a_token_may_have_less_than_its_identity_and_live_shorter_but_not_more(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        key = await running.create("bob", "use")
        issued = await running.call("issue_token", name="bob", secret=key, scopes=["read"], ttl_s=60)
        assert (issued["scopes"], issued["expires_in_s"]) == (["read"], 60)
        with pytest.raises(Forbidden, match="bob may not have control"):
            await running.token("bob", key, scopes=["control"])
        for ttl_s in (0, 3_601, -1):
            with pytest.raises(BadRequest, match="ttl_s"):
                await running.token("bob", key, ttl_s=ttl_s)


async def test_a_token_may_be_meant_for_one_callee_alone(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys=supervised(tmp_path)) as running:
        secret = running.operator
        asked = {"name": secret.name, "secret": secret.secret}
        meant = {who: await running.token(**asked, audience=who) for who in ("reader", "SecurityGateway/pc2")}
        told = await running.call("verify_token", token=meant["reader"])
        assert (told["valid"], told["audience"]) == (True, ["reader"])
        assert await running.open_client(meant["SecurityGateway/pc2"]).call("SecurityGateway", "list_identities", {})
        with pytest.raises(Unauthenticated, match="meant for another; get one for SecurityGateway"):
            await running.open_client(meant["reader"]).call("SecurityGateway", "list_identities", {})
        with pytest.raises(BadRequest, match="audience"):
            await running.token(**asked, audience="no name!")


async def test_revoking_an_identity_ends_all_its_tokens_and_frees_its_name(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        key = await running.create("bob")
        other = await running.token("eve", await running.create("eve"))
        tokens = [await running.token("bob", key) for _ in range(3)]
        await running.call("revoke_identity", name="bob")
        assert {await running.verdict(token) for token in tokens} == {"revoked"}
        assert await running.verdict(other) == "valid"
        with pytest.raises(Unauthenticated):
            await running.token("bob", key)
        await running.call("revoke_identity", name="bob")
        with pytest.raises(NotFound):
            await running.call("revoke_identity", name="nobody")
        fresh = await running.token("bob", await running.create("bob"))
        assert await running.verdict(fresh) == "valid"
        assert await running.verdict(tokens[0]) == "revoked"


async def test_a_name_is_taken_once_and_says_no_host(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        await running.create("bob")
        with pytest.raises(Conflict, match="'bob' already"):
            await running.create("bob")
        for name in ("local@pc2", "", "a b", "x" * 129, "-x", "bob\n"):
            with pytest.raises(BadRequest, match="name"):
                await running.create(name)


async def test_two_who_make_the_same_identity_at_once_make_one(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        made = await asyncio.gather(
            *(running.create("eve", "read", secret=PASSWORD) for _ in range(4)), return_exceptions=True
        )
        assert [made.count(PASSWORD), sum(isinstance(each, Conflict) for each in made)] == [1, 3]


async def test_identities_are_listed_without_their_secrets_and_followed(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:

        async def change() -> None:
            await running.create("bob")
            await running.call("revoke_identity", name="bob")

        events = await heard(running, api.IDENTITIES_CHANGED.name, 2, change())
        assert [(each["change"], each["identity"]["name"]) for each in events] == [
            ("created", "bob"),
            ("revoked", "bob"),
        ]
        listed = await running.call("list_identities")
        assert [each["name"] for each in listed["identities"]] == ["operator"]
        assert set(listed["identities"][0]) == {"name", "kind", "scopes", "credential", "created_at", "created_by"}
        assert listed["as_of"]["seq"] == 2


async def test_revocations_are_listed_and_followed_as_the_keyring_takes_them(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        key = await running.create("bob")
        token = await running.token("bob", key)

        async def change() -> None:
            await running.call("revoke_token", token=token)
            await running.call("revoke_token", token=token)
            await running.call("revoke_identity", name="bob")

        first, second = await heard(running, api.REVOCATIONS_CHANGED.name, 2, change())
        listed = await running.call("list_revocations")
        assert (first["change"], first["tokens"]) == ("revoked", listed["tokens"])
        assert (second["change"], second["identities"]) == ("revoked", listed["identities"])
        assert set(listed["identities"]) == {"bob"}
        assert listed["as_of"]["seq"] == 2


@pytest.mark.parametrize("token", ["x", "a.b.c", "x" * 8_192])
async def test_what_is_no_token_is_told_to_be_none(tmp_path: Path, token: str) -> None:
    async with gateway(tmp_path) as running:
        assert await running.verdict(token) == "malformed"
        with pytest.raises(BadRequest, match="no token of this fabric: malformed"):
            await running.call("revoke_token", token=token)


async def test_a_token_of_another_issuer_is_unknown_until_the_keyring_names_it(tmp_path: Path) -> None:
    keys = supervised(tmp_path)
    async with gateway(tmp_path, keys=keys) as running:
        operator = keyfiles.new_signing_keys("operator@pc2")
        minted = Minter("operator@pc2", operator.seed).mint(
            "operator@pc2", ["control"], "local@pc2", now=running.shell.clock.wall(), ttl_s=60
        )
        assert await running.verdict(minted.token) == "unknown issuer"
        keyring = keys.with_name("keyring.json")
        listed = keyfiles.read(keyring, Keyring).hosts["pc2"]
        more = [*listed.issuers, Issuer("operator@pc2", operator.public, ["control"])]
        trust(keyring, hosts={"pc2": replace(listed, issuers=more)})
        async with asyncio.timeout(60):
            while await running.verdict(minted.token) != "valid":
                await asyncio.sleep(0.02)


async def test_started_by_hand_it_signs_with_a_key_of_its_own_that_it_keeps(tmp_path: Path) -> None:
    tables: Tables = {}
    async with gateway(tmp_path, MemoryStore(tables)) as running:
        token = await running.token("bob", await running.create("bob"))
        path = running.files.keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    async with gateway(tmp_path, MemoryStore(tables)) as again:
        assert await again.verdict(token) == "valid"


async def test_whoever_owns_the_home_gets_a_new_api_key_of_the_operator_and_the_old_one_is_void(tmp_path: Path) -> None:
    tables: Tables = {}
    async with gateway(tmp_path, MemoryStore(tables)) as running:
        first = running.operator
        token = await running.token(first.name, first.secret)
        others = await running.token("bob", await running.create("bob"))
        files = running.files
    files.operator.unlink()
    async with gateway(tmp_path, MemoryStore(tables)):
        assert not files.operator.exists(), "nobody asked for another"
    files.renewal.touch()
    async with gateway(tmp_path, MemoryStore(tables)) as again:
        assert again.operator.secret != first.secret
        assert not files.renewal.exists()
        assert await again.verdict(token) == "revoked"
        assert await again.verdict(others) == "valid"
        with pytest.raises(Unauthenticated):
            await again.token(first.name, first.secret)
        assert await again.verdict(await again.token(again.operator.name, again.operator.secret)) == "valid"
        listed = (await again.call("list_identities"))["identities"]
        told = next(one for one in listed if one["name"] == "operator")
        assert (told["created_by"], told["scopes"]) == ("the owner of TANDEM_HOME", ["control"])
        key = again.operator.secret
    async with gateway(tmp_path, MemoryStore(tables)) as later:
        assert later.operator.secret == key
        assert await later.token("operator", key)


async def test_a_folder_or_a_link_asks_for_no_new_operator(tmp_path: Path) -> None:
    tables: Tables = {}
    async with gateway(tmp_path, MemoryStore(tables)) as running:
        key, files = running.operator.secret, running.files
    files.renewal.symlink_to(files.operator)
    async with gateway(tmp_path, MemoryStore(tables)) as again:
        assert again.operator.secret == key


async def test_with_a_key_file_that_is_damaged_missing_or_signs_nothing_it_does_not_start(tmp_path: Path) -> None:
    path = supervised(tmp_path)
    whole = keyfiles.read(path, ProcessKeys)
    keyfiles.write(path, ProcessKeys(whole.public, whole.secret))
    with pytest.raises(KeyfileRefused, match="holds no key to sign tokens with"):
        async with gateway(tmp_path, keys=path):
            pass
    path.unlink()
    with pytest.raises(KeyfileRefused, match="is not there"):
        async with gateway(tmp_path, keys=path):
            pass


class TestTheOperator:
    async def test_the_first_start_leaves_the_operator_s_key_where_its_user_alone_reads_it(
        self, tmp_path: Path
    ) -> None:
        async with gateway(tmp_path) as running:
            assert stat.S_IMODE(running.files.operator.stat().st_mode) == 0o600
            operator = running.operator
            verified = await running.call("verify_token", token=await running.token(operator.name, operator.secret))
            assert (verified["name"], verified["scopes"]) == ("operator", ["control"])

    async def test_a_later_start_makes_no_other_even_where_the_first_is_gone(self, tmp_path: Path) -> None:
        tables: Tables = {}
        async with gateway(tmp_path, MemoryStore(tables)) as running:
            before = running.operator
        async with gateway(tmp_path, MemoryStore(tables)) as running:
            assert running.operator == before
            await running.token(before.name, before.secret)
            await running.call("revoke_identity", name="operator")
        async with gateway(tmp_path, MemoryStore(tables)) as running:
            assert running.operator == before
            assert (await running.call("list_identities"))["identities"] == []

    async def test_a_first_start_that_was_cut_short_is_made_again(self, tmp_path: Path) -> None:
        store = MemoryStore()
        store.failure = FULL_DISK
        with pytest.raises(StorageUnavailable):
            async with gateway(tmp_path, store):
                pass
        async with gateway(tmp_path) as running:
            await running.token("operator", running.operator.secret)


class TestUnderASupervisor:
    """Where access is enforced: what needs control needs a token."""

    async def test_a_plain_caller_makes_no_identity_and_the_operator_s_token_does(self, tmp_path: Path) -> None:
        async with gateway(tmp_path, keys=supervised(tmp_path)) as running:
            for verb, fields in (
                ("create_identity", {"name": "bob", "kind": "agent", "scopes": ["read"]}),
                ("list_identities", {}),
                ("revoke_identity", {"name": "operator"}),
            ):
                with pytest.raises(Forbidden, match="needs access control"):
                    await running.call(verb, **fields)
            token = await running.token("operator", running.operator.secret)
            running.client = running.open_client(token)
            created = await running.call("create_identity", name="bob", kind="agent", scopes=["use"])
            assert created["identity"]["created_by"] == "operator"
            assert await running.verdict(await running.token("bob", created["api_key"])) == "valid"

    async def test_who_controls_everything_by_its_token_may_hand_that_on(self, tmp_path: Path) -> None:
        async with gateway(tmp_path, keys=supervised(tmp_path)) as running:
            running.client = running.open_client(await running.token("operator", running.operator.secret))
            admins = await running.create("admin", "control")
            running.client = running.open_client(await running.token("admin", admins))
            assert len((await running.call("list_identities"))["identities"]) == 2

    async def test_nobody_gives_scopes_beyond_its_own(self, tmp_path: Path) -> None:
        async with gateway(tmp_path, keys=supervised(tmp_path)) as running:
            token = await running.token("operator", running.operator.secret, scopes=["control:SecurityGateway"])
            running.client = running.open_client(token)
            await running.create("bob", "read:SecurityGateway")
            with pytest.raises(Forbidden, match="nobody gives scopes that it has not itself: control"):
                await running.create("eve", "control")

    async def test_a_revoked_token_opens_nothing_once_the_keyring_says_so(self, tmp_path: Path) -> None:
        keys = supervised(tmp_path)
        async with gateway(tmp_path, keys=keys) as running:
            token = await running.token("operator", running.operator.secret)
            await running.call("revoke_token", token=token)
            revoked = (await running.call("list_revocations"))["tokens"]
            trust(keys.with_name("keyring.json"), revoked_tokens=revoked)
            running.client = running.open_client(token)
            with pytest.raises(Unauthenticated, match="revoked"):
                await refused(running, "list_identities")


class TestMemory:
    async def test_everything_acknowledged_was_flushed_and_is_there_in_the_next_life(self, tmp_path: Path) -> None:
        durabilities: set[Durability] = set()

        class Noting(MemoryStore):
            def commit(self, changes: Any, durability: Durability) -> None:
                durabilities.add(durability)
                super().commit(changes, durability)

        store = Noting()
        async with gateway(tmp_path, store) as running:
            bob, eve = await running.create("bob"), await running.create("eve", secret=PASSWORD)
            bobs, eves = await running.token("bob", bob), await running.token("eve", eve)
            await running.call("revoke_token", token=bobs)
            await running.call("revoke_identity", name="eve")
            before = await running.call("list_identities"), await running.call("list_revocations")
        assert durabilities == {Durability.FULL}
        async with gateway(tmp_path, MemoryStore(store.tables)) as again:
            after = await again.call("list_identities"), await again.call("list_revocations")
            for told, told_again in zip(before, after, strict=True):
                assert {**told, "as_of": None} == {**told_again, "as_of": None}
            assert await again.verdict(bobs) == await again.verdict(eves) == "revoked"
            assert await again.verdict(await again.token("bob", bob)) == "valid"

    async def test_what_could_not_be_kept_was_not_done_and_what_was_known_is_still_served(self, tmp_path: Path) -> None:
        store = SmallDisk()
        async with gateway(tmp_path, store) as running:
            key = await running.create("bob")
            token = await running.token("bob", key)
            store.full = True
            with pytest.raises(StorageUnavailable):
                await running.create("eve")
            with pytest.raises(StorageUnavailable):
                await running.call("revoke_token", token=token)
            assert await running.verdict(token) == "valid"
            assert await running.verdict(await running.token("bob", key)) == "valid"
            store.full = False
            async with asyncio.timeout(60):
                while not running.shell.journal.able:
                    await asyncio.sleep(0.02)
            await running.call("revoke_token", token=token)
            assert await running.verdict(token) == "revoked"
            assert [each["name"] for each in (await running.call("list_identities"))["identities"]] == [
                "bob",
                "operator",
            ]

    async def test_revocations_that_still_hold_are_kept_and_none_is_dropped_while_the_disk_takes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = SmallDisk()
        async with gateway(tmp_path, store) as running:
            token = await running.token("bob", await running.create("bob"))
            await running.call("revoke_token", token=token)
            running.service._trim()
            assert len((await running.call("list_revocations"))["tokens"]) == 1
            monkeypatch.setattr(running.service._revoked, "drop", _late(running.service._revoked.drop, 1e11))
            store.full = True
            with pytest.raises(StorageUnavailable):
                await running.create("eve")
            running.service._trim()
            assert len(running.service._revoked) == 1

    async def test_revocations_of_what_has_expired_are_dropped_and_that_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = MemoryStore()
        async with gateway(tmp_path, store) as running:
            token = await running.token("bob", await running.create("bob"))
            await running.call("revoke_token", token=token)
            await running.call("revoke_identity", name="bob")
            late = running.shell.clock.wall() + 9_000
            monkeypatch.setattr(running.service._revoked, "drop", _late(running.service._revoked.drop, late))

            async def trim() -> None:
                running.service._trim()

            (told,) = await heard(running, api.REVOCATIONS_CHANGED.name, 1, trim())
            assert (told["change"], len(told["tokens"]), set(told["identities"])) == ("dropped", 1, {"bob"})
            assert _rows(store) == {"revoked_tokens": 0, "revoked_identities": 0}


def _late(drop: Any, wall: float) -> Any:
    return lambda _wall, now: drop(wall, now + 9_000)


def _rows(store: RecordStore) -> dict[str, int]:
    return {table: len(list(store.load(table))) for table in ("revoked_tokens", "revoked_identities")}
