from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.transport import health_http
from common.transport.health_http import HttpRefused, Request, parse


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health?deep=1 HTTP/1.1\r\n\r\nbody that nobody asked for",
        b"GET /health HTTP/1.1\nHost: here\n\n",
    ],
)
def test_a_request_is_read_from_its_head(head: bytes) -> None:
    assert parse(head) == Request("GET", "/health")


def test_every_beginning_of_a_request_is_incomplete() -> None:
    head = b"HEAD /metrics HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n"
    assert [parse(head[:n]) for n in range(1, len(head))] == [None] * (len(head) - 1)
    assert parse(head) == Request("HEAD", "/metrics")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\x16\x03\x01\x02\x00", HTTPStatus.BAD_REQUEST),
        (b"GET /health\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"hello there\n", HTTPStatus.BAD_REQUEST),
        (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET /health HTTP/2.0\r\n", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        (b"POST /health HTTP/1.1\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"GET /" + b"a" * 3000, HTTPStatus.REQUEST_URI_TOO_LONG),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 9000, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
)
def test_what_can_no_longer_become_a_request_is_refused_at_once(head: bytes, status: HTTPStatus) -> None:
    with pytest.raises(HttpRefused) as caught:
        parse(head)
    assert caught.value.status is status
    assert health_http.refusal(caught.value).startswith(f"HTTP/1.1 {status.value} ".encode())


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_a_request_a_beginning_or_a_refusal(held: bytes) -> None:
    try:
        request = parse(held)
    except HttpRefused:
        return
    assert request is None or request.method in {"GET", "HEAD"}


def test_a_response_says_its_length_and_that_it_closes() -> None:
    said = health_http.response(HTTPStatus.OK, health_http.JSON, b"{}")
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"Content-Length: 2" in head
    assert b"Connection: close" in head
    assert b"Allow" not in head
    assert body == b"{}"


def test_a_response_to_head_keeps_the_length_and_leaves_the_body_out() -> None:
    said = health_http.response(HTTPStatus.OK, health_http.JSON, b"{}", head_only=True)
    assert b"Content-Length: 2" in said
    assert said.endswith(b"\r\n\r\n")


def test_a_refused_method_names_those_allowed() -> None:
    assert b"Allow: GET, HEAD\r\n" in health_http.response(HTTPStatus.METHOD_NOT_ALLOWED, health_http.TEXT, b"")
