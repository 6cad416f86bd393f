"""Bodies: bytes to typed structs and back, in msgpack and JSON, with every failure a BadRequest that names the path.

Values of free-form fields are bounded here: integers to 2^53-1 either side of nought, nesting to 64 levels, and nothing that
JSON cannot say but bytes, so that what one caller wrote in msgpack can be read by all in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from common.errors import BY_CODE, BadRequest, Code, Internal, TandemError
from common.ids import MAX_WIRE_INT
from common.wire.frames import Buffer
from common.wire.header import Codec

MAX_DEPTH: Final = 64

T = TypeVar("T")


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it crosses the wire; `error` and `message` hold the same sentence."""

    code: str
    error: str
    message: str
    retryable: bool
    retry_after_ms: Annotated[int, Meta(ge=0, le=MAX_WIRE_INT)] | None = None
    details: dict[str, Any] = {}


def error_body(error: TandemError) -> ErrorBody:
    """The error as a body."""
    return ErrorBody(
        code=error.code.value,
        error=error.message,
        message=error.message,
        retryable=error.can_help_later,
        retry_after_ms=error.retry_after_ms,
        details=error.details,
    )


def error_from(body: ErrorBody) -> TandemError:
    """The typed error a body stands for; a code that this side does not know is an Internal with the code in its details."""
    try:
        kind = BY_CODE[Code(body.code)]
    except ValueError:
        return Internal(
            body.message, retry_after_ms=body.retry_after_ms, unknown_code=body.code, **_without(body.details)
        )
    return kind(body.message, retry_after_ms=body.retry_after_ms, **_without(body.details))


def _without(details: Mapping[str, Any]) -> dict[str, Any]:
    reserved = ("message", "retry_after_ms", "unknown_code", "self")
    return {name: value for name, value in details.items() if name not in reserved}


class BodyDecoder(Generic[T]):
    """Decodes bodies of one struct type in either codec, attachments put in their fields."""

    __slots__ = ("_free_form", "_json", "_msgpack", "_type")

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._json = msgspec.json.Decoder(type_, strict=True)
        self._msgpack = msgspec.msgpack.Decoder(type_, strict=True)
        self._free_form = _free_form_fields(type_)

    def decode(self, codec: Codec, body: Buffer) -> T:
        """The struct; raises BadRequest that says what is wrong and at which path."""
        try:
            value = self._msgpack.decode(body) if codec is Codec.MSGPACK else self._json.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadRequest(_readable(error)) from error
        for name in self._free_form:
            bounded(getattr(value, name), name)
        return value

    def decode_with(self, codec: Codec, body: Buffer, names: Sequence[str], attachments: Sequence[Buffer]) -> T:
        """The struct with its attachments; raises BadRequest when names and frames do not pair up with binary fields."""
        if len(names) != len(attachments):
            raise BadRequest(f"the header names {len(names)} attachments and {len(attachments)} frames came")
        value = self.decode(codec, body)
        for name, frame in zip(names, attachments, strict=True):
            if not isinstance(getattr(value, name, None), (bytes, memoryview)):
                raise BadRequest(f"attachment {name!r} is not a binary field of this verb")
            msgspec.structs.force_setattr(value, name, memoryview(frame))  # type: ignore[arg-type]
        return value


def is_struct(type_: object) -> bool:
    """Whether this is a struct type, and not, say, `dict[str, Any]`."""
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _free_form_fields(type_: type[Any]) -> tuple[str, ...]:
    if not is_struct(type_):
        return ()
    return tuple(field.name for field in msgspec.structs.fields(type_) if _mentions_unbounded(field.type))


def _mentions_unbounded(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        bounds = [part for part in get_args(hint)[1:] if isinstance(part, Meta) and part.le is not None]
        return not bounds and _mentions_unbounded(get_args(hint)[0])
    return hint in (Any, int, float) or any(_mentions_unbounded(part) for part in get_args(hint))


def bounded(value: Any, path: str, depth: int = 0) -> None:
    """Refuse, in a free-form value, what JSON readers would round or cannot read, and nesting deeper than MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise BadRequest(f"nested deeper than {MAX_DEPTH} levels - at `$.{path}`")
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise BadRequest(f"Expected `str`, got `{type(key).__name__}` - at a key of `$.{path}`")
            bounded(item, f"{path}.{str(key)[:64]}", depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            bounded(item, f"{path}[{index}]", depth + 1)
    elif reason := _unsayable(value):
        raise BadRequest(f"{reason} - at `$.{path}`")


def _unsayable(value: object) -> str:
    if isinstance(value, int):
        return "" if -MAX_WIRE_INT <= value <= MAX_WIRE_INT else "integer beyond 2^53-1"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "not a finite number"
    return "extension types have no place in JSON" if isinstance(value, msgspec.msgpack.Ext) else ""


def _readable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return "the text is not UTF-8"
    return str(error)


_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()

encode_json: Callable[[Any], bytes] = _json_encoder.encode
encode_msgpack: Callable[[Any], bytes] = _msgpack_encoder.encode


def encode(codec: Codec, value: Any) -> bytes:
    """A struct as a body."""
    return encode_msgpack(value) if codec is Codec.MSGPACK else encode_json(value)


_errors = BodyDecoder(ErrorBody)


def decode_error(codec: Codec, body: Buffer) -> TandemError:
    """The error a reply of kind ERROR carries."""
    return error_from(_errors.decode(codec, body))
