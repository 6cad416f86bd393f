from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest
from main_pc.front import bodies

JSON = "application/json"
FORM = "multipart/form-data; boundary=cut"


def form(**fields: str) -> bytes:
    parts = [
        f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    sound = '--cut\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\x01model\r\n'
    return "".join([*parts, sound, "--cut--\r\n"]).encode()


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model": "m"}', "m", None),
        (b'{"model": "m", "stream": true, "x": {"model": "n"}}', "m", True),
        (b'{"stream": false, "model": "a/b:c"}', "a/b:c", False),
    ],
)
def test_json_says_its_model_and_whether_it_streams(body: bytes, model: str, stream: bool | None) -> None:
    asked = bodies.read(JSON, body)
    assert (asked.model, asked.stream) == (model, stream)


def test_a_form_says_its_model_among_its_files() -> None:
    asked = bodies.read(FORM, form(language="en", model="whisper", stream="true"))
    assert (asked.model, asked.stream, asked.document) == ("whisper", True, None)
    assert bodies.read('multipart/form-data; boundary="cut"', form(model="whisper")).stream is None


@pytest.mark.parametrize(
    ("content_type", "body", "told"),
    [
        (JSON, b"", "not JSON"),
        (JSON, b"[1]", "an object, not list"),
        (JSON, b"{}", "names no model"),
        (JSON, b'{"model": ""}', "names no model"),
        (JSON, b'{"model": 7}', "names no model"),
        (JSON, b'{"model": "m", "stream": "yes"}', "true or false"),
        (JSON, b'{"model": "' + b"m" * 129 + b'"}', "at most 128 characters, not 129"),
        (JSON, b'{"model": "\xff"}', "not JSON"),
        (FORM, form(language="en"), "names no model"),
        ("multipart/form-data", form(model="m"), "says its boundary"),
    ],
)
def test_what_names_no_model_is_refused(content_type: str, body: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        bodies.read(content_type, body)


def test_an_engine_is_asked_by_the_name_it_knows() -> None:
    body = b'{"model":"alias","messages":[{"role":"user","content":"\\u00e4"}],"n":12345678901234567890}'
    asked = bodies.read(JSON, body)
    assert bodies.renamed(JSON, body, asked, "alias") is body
    renamed = msgspec.json.decode(bodies.renamed(JSON, body, asked, "real.gguf"))
    assert renamed == {**msgspec.json.decode(body), "model": "real.gguf"}


def test_in_a_form_only_the_models_field_is_renamed() -> None:
    body = form(model="alias", language="en")
    renamed = bodies.renamed(FORM, body, bodies.read(FORM, body), "large-v3")
    assert renamed == form(model="large-v3", language="en")


@given(st.binary(max_size=200), st.sampled_from([JSON, FORM, "text/plain"]))
def test_whatever_comes_is_read_or_refused(body: bytes, content_type: str) -> None:
    try:
        asked = bodies.read(content_type, body)
    except BadRequest:
        return
    assert asked.model
