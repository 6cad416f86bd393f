"""What a request's body says: which model it asks for and whether it wants a stream; and the body with another model's name.

JSON, or a form with files (`multipart/form-data`), as OpenAI's audio and image requests are. A body is looked into only as far
as that; the engine is to judge the rest. BadRequest where it names no model.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from common.errors import BadRequest

MEND: Final = 'name a model of `GET /v1/models`, as in {"model": "NAME", ...}'
LONGEST_NAME: Final = 128
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', re.IGNORECASE)
_FIELD: Final = re.compile(rb'content-disposition:[^\r\n]*\bname="?(\w+)"?', re.IGNORECASE)


class Asked(NamedTuple):
    """The model asked for, whether a stream is wanted (None: not said), and the JSON object; a form has none."""

    model: str
    stream: bool | None
    document: dict[str, Any] | None


def read(content_type: str, body: bytes) -> Asked:
    """What the body asks for."""
    if content_type.lower().startswith("multipart/form-data"):
        fields = _fields(content_type, body)
        stream = fields.get("stream", "").lower()
        return Asked(_name(fields.get("model")), stream == "true" if stream else None, None)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", mend=MEND) from None
    if not isinstance(document, dict):
        raise BadRequest(f"the body is to be an object, not {type(document).__name__}", mend=MEND)
    wanted = document.get("stream")
    if wanted is not None and not isinstance(wanted, bool):
        raise BadRequest("`stream` is true or false")
    return Asked(_name(document.get("model")), wanted, document)


def renamed(content_type: str, body: bytes, asked: Asked, name: str) -> bytes:
    """The same body for an engine that knows the model as `name`."""
    if asked.model == name:
        return body
    if asked.document is not None:
        return msgspec.json.encode({**asked.document, "model": name})
    pieces = _pieces(content_type, body)
    for place, piece in enumerate(pieces):
        head, gap, _ = piece.partition(b"\r\n\r\n")
        if _field(head) == "model":
            pieces[place] = head + gap + name.encode() + b"\r\n"
    return _delimiter(content_type).join(pieces)


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadRequest("the request names no model", mend=MEND)
    if len(value) > LONGEST_NAME:
        raise BadRequest(f"a model's name has at most {LONGEST_NAME} characters, not {len(value)}", mend=MEND)
    return value


def _fields(content_type: str, body: bytes) -> dict[str, str]:
    """The short text fields of a form, by name."""
    found: dict[str, str] = {}
    for piece in _pieces(content_type, body):
        head, _, value = piece.partition(b"\r\n\r\n")
        name = _field(head)
        if name and b"filename" not in head.lower() and len(value) <= 2 * LONGEST_NAME:
            found[name] = value.removesuffix(b"\r\n").decode(errors="replace")
    return found


def _field(head: bytes) -> str:
    found = _FIELD.search(head)
    return found[1].decode() if found else ""


def _pieces(content_type: str, body: bytes) -> list[bytes]:
    return body.split(_delimiter(content_type))


def _delimiter(content_type: str) -> bytes:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadRequest("a form says its boundary in its content type")
    return b"--" + (found[1] or found[2]).encode()
