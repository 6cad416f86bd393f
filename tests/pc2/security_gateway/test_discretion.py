"""No secret leaves by another way than the one reply that is meant to carry it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import msgspec
import pytest

from common.api import security_gateway as api
from common.client.following import Event
from common.errors import TandemError
from common.service.basics import info, stats
from common.store.memory import MemoryStore
from pc2.security_gateway.own_files import OperatorSecret
from tests.pc2.security_gateway.gateway import Gateway, gateway

PASSWORD = "correct horse battery"
GUESS = "wrong horse battery"


async def use(running: Gateway) -> list[str]:
    """A little of everything, right and wrong; the secrets that were about."""
    key = await running.create("bob", "use")
    await running.create("eve", "use", secret=PASSWORD)
    bobs, eves = await running.token("bob", key), await running.token("eve", PASSWORD)
    wrong: list[tuple[str, dict[str, object]]] = [
        ("issue_token", {"name": "eve", "secret": GUESS}),
        ("issue_token", {"name": "eve", "secret": 7 * GUESS * 100}),
        ("issue_token", {"name": "bob", "secret": key, "scopes": ["control"]}),
        ("issue_token", {"name": "bob", "secret": key, "ttl_s": 10**9}),
        ("create_identity", {"name": "bob", "kind": "agent", "scopes": ["use"], "secret": PASSWORD}),
        ("create_identity", {"name": "mallory", "kind": "agent", "scopes": ["all"], "secret": PASSWORD}),
        ("create_identity", {"name": "mallory", "kind": "agent", "scopes": ["use"], "secret": key}),
        ("revoke_token", {"token": bobs + "x"}),
    ]
    for verb, fields in wrong:
        with pytest.raises(TandemError) as caught:
            await running.call(verb, **fields)
        assert not any(secret in f"{caught.value} {caught.value.details}" for secret in (key, PASSWORD, GUESS, bobs))
    await running.call("revoke_token", token=bobs)
    await running.call("revoke_identity", name="eve")
    return [key, key.rpartition("_")[2], PASSWORD, GUESS, bobs, eves, running.operator.secret]


async def test_no_log_event_list_metric_or_record_holds_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    with caplog.at_level(logging.DEBUG):
        async with gateway(tmp_path, store) as running:
            secrets = await use(running)
            told = [
                json.dumps(
                    [await running.call(verb) for verb in ("list_identities", "list_revocations", "stats", "info")]
                ),
                msgspec.json.encode([info(running.shell), stats(running.shell), running.shell.report()]).decode(),
                running.shell.metrics.exposition().decode(),
                *await events(running),
                *(value.decode(errors="replace") for rows in store.tables.values() for value in rows.values()),
            ]
            seed = running.files.signing_seed()
    for text in (*told, caplog.text):
        assert not [secret for secret in (*secrets, seed) if secret in text]
    assert "bob" in caplog.text


async def events(running: Gateway) -> list[str]:
    """All that was ever published."""
    found: list[str] = []
    for topic in api.TOPICS:
        cursor = running.shell.publisher.cursor(topic.name)
        first = msgspec.structs.replace(cursor, seq=0)
        async with asyncio.timeout(60):
            async for event in running.client.events(api.SERVICE, (topic.name,), {topic.name: first}):
                assert isinstance(event, Event)
                found.append(repr(event))
                if event.cursor.seq == cursor.seq:
                    break
    return found


def test_no_repr_shows_what_a_message_carries_in_secret() -> None:
    identity = api.Identity(name="bob", kind="agent", scopes=[], credential="api_key", created_at="", created_by="eve")
    messages = [
        api.CreateIdentity(name="bob", kind="agent", scopes=[], secret="s3cr3t"),
        api.IdentityCreated(identity=identity, api_key="s3cr3t"),
        api.IssueToken(name="bob", secret="s3cr3t"),
        api.TokenIssued(token="s3cr3t", expires_in_s=1, expires_at="", name="bob", scopes=[], bound_to="x"),
        api.TokenAsked(token="s3cr3t"),
    ]
    assert not [each for each in map(repr, messages) if "s3cr3t" in each]
    assert "s3cr3t" not in repr(OperatorSecret("operator", "s3cr3t"))
    assert repr(messages[2]) == "IssueToken(name='bob', scopes=None, ttl_s=900, audience='')"
