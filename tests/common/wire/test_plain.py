from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.basic import Health
from common.api.core_orchestrator import Registered
from common.api.words import Empty
from common.errors import BadRequest, NotFound
from common.wire import plain

HEALTH = Health(status="degraded", ready=True, service="s", version="1", uptime=1.0, boot="b")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_an_id_of_any_json_value_is_echoed_as_it_came(value: Any) -> None:
    text = json.dumps(value).encode()
    body = b'{"_id":' + text + b',"action":"ping"}'
    if len(text) > 1024:
        with pytest.raises(BadRequest, match="longer than 1024"):
            plain.decode_call(body)
        return
    call = plain.decode_call(body)
    assert bytes(call.id) == text
    assert json.loads(plain.reply(Registered(boot="b"), call.id)) == {"status": "success", "_id": value, "boot": "b"}
    assert json.loads(plain.failure(NotFound("no"), call.id))["_id"] == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_call_or_one_bad_request(body: bytes) -> None:
    try:
        plain.decode_call(body)
    except BadRequest as error:
        reply = json.loads(plain.failure(error, plain.id_of(body)))
        assert (reply["status"], reply["code"]) == ("error", "bad_request")
        assert reply["error"] == reply["message"]


def test_the_envelope_is_read_and_the_verbs_own_fields_are_left() -> None:
    call = plain.decode_call(b'{"action":"a","_token":"t","_deadline_ms":5,"token":"mine","x":[1]}')
    assert (call.action, call.token, call.deadline_ms, bytes(call.id)) == ("a", "t", 5, b"")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "send one JSON object with `action`"),
        (b"hello", "send one JSON object with `action`"),
        (b"{}", "missing required field `action`"),
        (b"[]", "Expected `object`"),
        (b'{"action":1}', "Expected `str`, got `int` - at `$.action`"),
        (b'{"action":"\xff"}', "not UTF-8"),
        (b'{"action":"a","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
        (b'{"action":"a","_deadline_ms":-1}', ">= 0"),
        (b'{"action":"a","_deadline_ms":9007199254740992}', "<="),
        (b'{"action":"a","_id":"\xff"}', "`_id` is not UTF-8"),
        (b'{"action":"' + b"a" * 129 + b'"}', "length <= 128"),
        (b'{"action":"a","_id":"' + b"a" * 1_024 + b'"}', "`_id` is longer than 1024"),
    ],
)
def test_what_is_no_call_says_how_to_mend_it(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        plain.decode_call(body)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("body", "echoed"),
    [
        (b'{"action":1,"_id":7}', b"7"),
        (b'{"_id":{"a":1}}', b'{"a":1}'),
        (b"not json", b""),
        (b'{"action":"a","_id":"\xff"}', b""),
        (b'{"_id":"' + b"a" * 1_024 + b'"}', b""),
    ],
)
def test_the_id_of_a_call_that_could_not_be_read_is_echoed_as_far_as_it_can_be_told(body: bytes, echoed: bytes) -> None:
    assert bytes(plain.id_of(body)) == echoed


def test_a_reply_with_a_status_of_its_own_keeps_it() -> None:
    assert json.loads(plain.reply(HEALTH))["status"] == "degraded"
    assert plain.reply({"status": "mine", "a": 1}) == b'{"status":"mine","a":1}'
    assert plain.reply({"a": 1}, b"1") == b'{"status":"success","_id":1,"a":1}'


def test_a_reply_that_says_no_more_than_success_is_one_json_object() -> None:
    assert plain.reply(Empty()) == b'{"status":"success"}'
    assert plain.reply(Empty(), b"1") == b'{"status":"success","_id":1}'


@pytest.mark.parametrize(
    ("body", "asks"),
    [(b"ping", True), (b"health", True), (memoryview(b"ping"), True), (b"pong", False), (b"ping" * 10_000, False)],
)
def test_the_bare_words_ping_and_health_ask_for_health(body: bytes, asks: bool) -> None:
    assert plain.asks_health(body) is asks


def test_a_large_message_in_writable_memory_is_no_bare_word() -> None:
    assert not plain.asks_health(memoryview(bytearray(40_000)))
