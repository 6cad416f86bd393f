"""The plain dress: one JSON object with `action` in, one JSON object with `status` out.

Envelope fields start with an underscore (`_token`, `_deadline_ms`, `_id`), so that they never meet a verb's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from common.errors import BadRequest, TandemError
from common.ids import MAX_WIRE_INT
from common.wire.codec import encode_json, error_body
from common.wire.frames import Buffer

_RAW_HEALTH: Final = frozenset((b"ping", b"health"))

_ROOMY_ID: Final = 1024


class PlainCall(msgspec.Struct, frozen=True, rename={"token": "_token", "deadline_ms": "_deadline_ms", "id": "_id"}):
    """The envelope of a plain call; `id` is any JSON value of up to 1 KiB and is echoed as it came."""

    action: Annotated[str, Meta(max_length=128)]
    token: Annotated[str, Meta(max_length=8192)] | None = None
    deadline_ms: Annotated[int, Meta(ge=0, le=MAX_WIRE_INT)] = 0
    id: msgspec.Raw = msgspec.Raw(b"")


class _IdOnly(msgspec.Struct, frozen=True, rename={"id": "_id"}):
    id: msgspec.Raw = msgspec.Raw(b"")


_calls = msgspec.json.Decoder(PlainCall)
_ids = msgspec.json.Decoder(_IdOnly)


def asks_health(body: Buffer) -> bool:
    """Whether the whole message is `ping` or `health`: not JSON, and answered all the same."""
    return len(body) <= len(b"health") and bytes(body) in _RAW_HEALTH


def decode_call(body: Buffer) -> PlainCall:
    """Read the envelope; BadRequest says what is wrong and where."""
    try:
        call = _calls.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(_mend(error)) from error
    if len(call.id) > _ROOMY_ID:
        raise BadRequest(f"`_id` is longer than {_ROOMY_ID} bytes")
    if not _is_text(call.id):
        raise BadRequest("`_id` is not UTF-8")
    return call


def _is_text(raw: msgspec.Raw) -> bool:
    """Whether a value that was passed over undecoded may be echoed: its text has not been looked at yet."""
    try:
        str(bytes(raw), "utf-8")
    except UnicodeError:
        return False
    return True


def _mend(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    if isinstance(error, UnicodeError):
        return "the message is not UTF-8; send one JSON object with `action`"
    return f"not a request: {error}; send one JSON object with `action`"


def id_of(body: Buffer) -> msgspec.Raw:
    """The `_id` of a message whose envelope could not be read, as far as it can be told."""
    try:
        found = _ids.decode(body).id
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return msgspec.Raw(b"")
    return found if len(found) <= _ROOMY_ID and _is_text(found) else msgspec.Raw(b"")


def reply(value: Any, call_id: Buffer = b"") -> bytes:
    """A reply in plain dress: the struct's fields beside `status` success, unless the struct has a `status` of its own."""
    body = encode_json(value)
    own_status = "status" in value if isinstance(value, dict) else hasattr(value, "status")
    return _with_fields(b"" if own_status else b'"status":"success"', call_id, body)


def failure(error: TandemError, call_id: Buffer = b"") -> bytes:
    """An error in plain dress."""
    return _with_fields(b'"status":"error"', call_id, encode_json(error_body(error)))


def _with_fields(status: bytes, call_id: Buffer, body: bytes) -> bytes:
    fields = [part for part in (status, b'"_id":' + bytes(call_id) if len(call_id) else b"", body[1:-1]) if part]
    return b"{" + b",".join(fields) + b"}"
