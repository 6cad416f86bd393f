from __future__ import annotations

import pytest

from common.config.models import Model
from common.config.template import Filling, fields_in, file_of, filled, mentions
from common.config.units import Size
from common.errors import BadRequest

FILLING = Filling(port=5001, card_uuids=("GPU-a", "GPU-b"), home="/home", host="h", python="/py")


def model(*command: str, **env: str) -> Model:
    files = ["{home}/a.gguf", "/b.gguf"]
    return Model(name="n", engine="vllm", vram=Size(1), command=list(command), env=env, files=files, upstream="up")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("--port={port}", "--port=5001"),
        ("{file}+{files[1]}", "/home/a.gguf+/b.gguf"),
        ("{files[0]}", "/home/a.gguf"),
        ("{card_uuid}", "GPU-a,GPU-b"),
        ("{name} {upstream} {home} {host} {python}", "n up /home h /py"),
        ('{"enable_thinking": false}', '{"enable_thinking": false}'),
        ("{{port}} ${port} {}", "{{port}} ${port} {}"),
    ],
)
def test_fields_are_filled_and_all_else_stays(text: str, meant: str) -> None:
    assert filled(model(text, VALUE=text), FILLING) == ([meant], {"VALUE": meant})


@pytest.mark.parametrize("text", ["{prot}", "{files}", "{files[2]}", "{port[0]}", "{file[0]}"])
def test_a_field_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="means nothing"):
        filled(model(text), FILLING)


def test_a_template_tells_its_fields() -> None:
    assert [str(field) for field in fields_in("{a}{files[3]} {{b}} ${c} {d e}")] == ["{a}", "{files[3]}"]
    assert mentions(["x", "{port}"], "port")
    assert not mentions(["{ports}"], "port")
    assert file_of(model(), fields_in("{files[1]}")[0]) == "/b.gguf"
