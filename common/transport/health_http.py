"""HTTP as the health port speaks it: bytes in, a request or a refusal out; bytes of a response back. No socket, no clock.

It decides what a request head says and what is wrong with it. One request per connection: every response says so and closes. A
body is never read, because GET and HEAD give it no meaning.

Source: RFC 9112 (HTTP/1.1); a bare line feed ends a line too, and a missing Host is forgiven, for probes written by hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MAX_HEAD_BYTES: Final = 8192
MAX_LINE_BYTES: Final = 2048

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,16}) (\S{1,2000}) HTTP/(\d)\.(\d)\r?")
_HEADER_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00\n]*")


@dataclass(frozen=True, slots=True)
class Request:
    """A request's method and path, the query cut off."""

    method: str
    path: str


class HttpRefused(Exception):
    """What arrived is no request this port answers; `status` and the text are the response."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def parse(held: bytes) -> Request | None:
    """The request in `held`, or None while its head is incomplete; raises HttpRefused as soon as it cannot become one."""
    if not held[:1].isalpha():
        raise HttpRefused(HTTPStatus.BAD_REQUEST, "neither HTTP nor ZMTP")
    line, newline, _ = held.partition(b"\n")
    if len(line) > MAX_LINE_BYTES:
        raise HttpRefused(HTTPStatus.REQUEST_URI_TOO_LONG, f"the request line is longer than {MAX_LINE_BYTES} bytes")
    request = _request(line) if newline else None
    end = _END_OF_HEAD.search(held)
    if (end.end() if end else len(held)) > MAX_HEAD_BYTES:
        raise HttpRefused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the header fields are longer than {MAX_HEAD_BYTES} bytes"
        )
    if end is None:
        return None
    for header in held[: end.start()].split(b"\n")[1:]:
        if not _HEADER_LINE.fullmatch(header):
            raise HttpRefused(HTTPStatus.BAD_REQUEST, "a header field is malformed")
    return request


def _request(line: bytes) -> Request:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise HttpRefused(HTTPStatus.BAD_REQUEST, "the request line is not `METHOD PATH HTTP/1.1`")
    method, target, major, minor = (part.decode("latin-1") for part in found.groups())
    if (major, minor) not in {("1", "0"), ("1", "1")}:
        raise HttpRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 and HTTP/1.1 are spoken here")
    if method not in {"GET", "HEAD"}:
        raise HttpRefused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
    return Request(method, target.partition("?")[0])


def response(status: HTTPStatus, content_type: str, body: bytes, *, head_only: bool = False) -> bytes:
    """A whole response that closes its connection; `head_only` leaves the body out and keeps its length (HEAD)."""
    allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{allow}"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if head_only else body)


def refusal(refused: HttpRefused) -> bytes:
    """The response that a refusal becomes."""
    return response(refused.status, TEXT, refused.text.encode() + b"\n")
