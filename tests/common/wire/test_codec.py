from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from msgspec.msgpack import Ext

from common.api.core_orchestrator import SubmitRequest
from common.api.words import Blob, Count, Message
from common.errors import BY_CODE, BadRequest, Code, Internal, Overloaded, TandemError
from common.ids import MAX_WIRE_INT
from common.wire import codec
from common.wire.codec import BodyDecoder, ErrorBody
from common.wire.header import Codec


class Sample(Message, frozen=True):
    count: Count = 0
    number: int = 0
    numbers: list[int] = msgspec.field(default_factory=list)
    capped: Annotated[int, Meta(ge=0)] = 0
    table: dict[int, int] = msgspec.field(default_factory=dict)
    pair: tuple[int, Any] = (0, None)
    anything: Any = None
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    load: Annotated[float, Meta(ge=0)] = 0.0
    figures: dict[str, float] = msgspec.field(default_factory=dict)
    text: str = ""
    data: Blob = memoryview(b"")
    raw: bytes = b""


DECODER = BodyDecoder(Sample)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_WIRE_INT, MAX_WIRE_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
samples = st.builds(
    Sample,
    count=st.integers(0, MAX_WIRE_INT),
    number=st.integers(-MAX_WIRE_INT, MAX_WIRE_INT),
    numbers=st.lists(st.integers(-MAX_WIRE_INT, MAX_WIRE_INT), max_size=4),
    anything=json_values,
    details=st.dictionaries(st.text(), json_values, max_size=4),
    text=st.text(),
    data=st.binary(max_size=64).map(memoryview),
    raw=st.binary(max_size=64),
)


@given(samples, st.sampled_from(Codec))
def test_a_body_comes_back_as_it_went_in_either_codec(sample: Sample, codec_: Codec) -> None:
    assert DECODER.decode(codec_, codec.encode(codec_, sample)) == sample
    assert DECODER.decode(codec_, memoryview(codec.encode(codec_, sample))) == sample


@given(st.binary(max_size=200), st.sampled_from(Codec))
def test_any_bytes_are_a_body_or_one_bad_request(body: bytes, codec_: Codec) -> None:
    with suppress(BadRequest):
        DECODER.decode(codec_, body)


@given(st.dictionaries(st.sampled_from(list(Sample.__struct_fields__)), st.one_of(json_values, st.binary(max_size=9))))
def test_what_was_taken_in_msgpack_can_be_read_by_all_in_json(fields: dict[str, Any]) -> None:
    try:
        taken = DECODER.decode(Codec.MSGPACK, codec.encode_msgpack(fields))
    except BadRequest:
        return
    json.loads(codec.encode_json(taken))


@pytest.mark.parametrize(
    ("codec_", "body", "said"),
    [
        (Codec.JSON, b"", "truncated"),
        (Codec.MSGPACK, b"", "truncated"),
        (Codec.JSON, b"[]", "Expected `object`, got `array`"),
        (Codec.JSON, b'{"count":"1"}', "Expected `int`, got `str` - at `$.count`"),
        (Codec.JSON, b'{"count":-1}', ">= 0"),
        (Codec.JSON, b'{"count":9007199254740992}', "<= 9007199254740991"),
        (Codec.JSON, b'{"text":"\xff"}', "not UTF-8"),
        (Codec.JSON, b'{"anything":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
        (Codec.MSGPACK, b"\x81\xa8anything" + b"\x91" * 5_000 + b"\xc0", "nested too deeply"),
        (Codec.JSON, b'{"unknown":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "nested too deeply"),
        (Codec.JSON, b'{"anything":' + b"[" * 66 + b"]" * 66 + b"}", "deeper than 64 levels - at `$.anything[0][0]"),
        (Codec.JSON, b'{"anything":9007199254740992}', "beyond 2^53-1 - at `$.anything`"),
        (Codec.JSON, b'{"anything":{"a":[1,-9007199254740992]}}', "beyond 2^53-1 - at `$.anything.a[1]`"),
        (Codec.JSON, b'{"details":{"n":123456789012345678901234567890}}', "beyond 2^53-1 - at `$.details.n`"),
        (Codec.JSON, b'{"number":9007199254740992}', "beyond 2^53-1 - at `$.number`"),
        (Codec.JSON, b'{"capped":9007199254740992}', "beyond 2^53-1 - at `$.capped`"),
        (Codec.JSON, b'{"numbers":[0,9007199254740992]}', "beyond 2^53-1 - at `$.numbers[1]`"),
        (Codec.JSON, b'{"table":{"1":9007199254740992}}', "beyond 2^53-1 - at `$.table.1`"),
        (Codec.JSON, b'{"pair":[9007199254740992,0]}', "beyond 2^53-1 - at `$.pair[0]`"),
    ],
)
def test_a_bad_body_says_what_is_wrong_and_where(codec_: Codec, body: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        DECODER.decode(codec_, body)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "not a finite number - at `$.anything`"),
        (math.inf, "not a finite number"),
        (Ext(5, b"x"), "extension types"),
        ({(1, 2): 3}, "got `tuple` - at a key of `$.anything`"),
        ([{None: 1}], "got `NoneType` - at a key of `$.anything[0]`"),
    ],
)
def test_what_json_cannot_say_is_refused_in_a_free_form_field(value: object, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        DECODER.decode(Codec.MSGPACK, codec.encode_msgpack({"anything": value}))
    assert said in caught.value.message


def test_bytes_and_times_may_stand_in_a_free_form_field() -> None:
    value = {"b": b"x", "at": datetime(2026, 1, 1, tzinfo=UTC), 1: True}
    taken = DECODER.decode(Codec.MSGPACK, codec.encode_msgpack({"anything": value}))
    assert taken.anything == value


def test_nesting_to_the_bound_is_taken() -> None:
    assert DECODER.decode(Codec.JSON, b'{"anything":' + b"[" * 64 + b"]" * 64 + b"}").anything


def test_unknown_fields_are_ignored() -> None:
    assert DECODER.decode(Codec.JSON, b'{"later":1e400,"count":1}').count == 1


def test_a_verb_called_by_name_alone_has_a_dict_for_a_body() -> None:
    assert BodyDecoder(dict[str, Any]).decode(Codec.JSON, b'{"a":1}') == {"a": 1}


def test_attachments_are_put_in_their_fields_uncopied() -> None:
    decoder, frame = BodyDecoder(SubmitRequest), bytearray(b"RIFF" * 10)
    request = decoder.decode_with(Codec.MSGPACK, b"\x80", ["audio_data"], [memoryview(frame)])
    frame[0:4] = b"WAVE"
    assert bytes(request.audio_data[:4]) == b"WAVE"


def test_an_attachment_may_fill_a_field_of_bytes() -> None:
    assert DECODER.decode_with(Codec.JSON, b"{}", ["raw"], [b"abc"]).raw == b"abc"


@pytest.mark.parametrize(
    ("names", "frames", "said"),
    [
        ([], [b"a"], "names 0 attachments and 1 frames came"),
        (["data"], [], "names 1 attachments and 0 frames came"),
        (["text"], [b"a"], "'text' is not a binary field"),
        (["nothing"], [b"a"], "'nothing' is not a binary field"),
        (["__class__"], [b"a"], "is not a binary field"),
    ],
)
def test_attachments_that_do_not_pair_up_are_refused(names: list[str], frames: list[bytes], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        DECODER.decode_with(Codec.JSON, b"{}", names, frames)
    assert said in caught.value.message


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("codec_", list(Codec))
def test_every_error_crosses_the_wire_as_itself(code: Code, codec_: Codec) -> None:
    error = BY_CODE[code]("10 GiB needed", retry_after_ms=5, need=10, cards=["a"])
    heard = codec.decode_error(codec_, codec.encode(codec_, codec.error_body(error)))
    assert type(heard) is type(error)
    assert (heard.message, heard.retry_after_ms, heard.details) == (error.message, 5, {"need": 10, "cards": ["a"]})


def test_an_error_carries_the_same_sentence_twice_and_whether_trying_again_can_help() -> None:
    body = codec.error_body(Overloaded("busy"))
    assert (body.error, body.message, body.retryable) == ("busy", "busy", True)
    assert b"details" not in codec.encode_json(body)


def test_a_code_of_a_newer_peer_is_internal_with_the_code_told() -> None:
    heard = codec.error_from(
        ErrorBody(code="too_new", error="x", message="x", retryable=True, details={"unknown_code": 1, "a": 2})
    )
    assert type(heard) is Internal
    assert heard.details == {"unknown_code": "too_new", "a": 2}


def test_details_with_the_names_of_the_errors_own_arguments_do_no_harm() -> None:
    details = {"message": 1, "self": 2, "retry_after_ms": "soon", "kept": 3}
    heard = codec.error_from(ErrorBody(code="conflict", error="x", message="x", retryable=False, details=details))
    assert isinstance(heard, TandemError)
    assert heard.details == {"kept": 3}


@pytest.mark.parametrize("after", [-1, 2**53])
def test_a_hint_to_come_back_before_now_or_never_is_no_error_body(after: int) -> None:
    body = msgspec.json.encode(
        {"code": "overloaded", "error": "x", "message": "x", "retryable": True, "retry_after_ms": after}
    )
    with pytest.raises(BadRequest):
        codec.decode_error(Codec.JSON, body)


@pytest.mark.parametrize("fields", [{"load": math.inf}, {"figures": {"a": -math.inf}}, {"figures": {"a": math.nan}}])
def test_a_number_that_json_cannot_say_is_refused_in_typed_fields_too(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="not a finite number"):
        DECODER.decode(Codec.MSGPACK, codec.encode_msgpack(fields))
