from __future__ import annotations

import pytest

from tandem.adopting.macros import MAX_CHARS, Secret, Unexpandable, expand, is_secret


def test_macros_are_replaced_also_within_each_other() -> None:
    macros = {"args": "--ctx ${ctx}", "ctx": "4096", "MODEL_ID": "m"}
    assert expand("serve ${args} -a ${MODEL_ID} $X {port}", macros, {}) == "serve --ctx 4096 -a m $X {port}"
    assert expand("${env.HOME}/m ${env.HOME}", {}, {"HOME": "/h"}) == "/h/m /h"


@pytest.mark.parametrize(
    ("macros", "told"),
    [
        ({}, r"names \$\{a\}, which is defined nowhere"),
        ({"a": "${b}", "b": "x ${a}"}, "goes in a circle: a -> b -> a"),
        ({"a": "${a}"}, "goes in a circle: a -> a"),
        ({"a": "${env.GONE}"}, r"names \$\{env.GONE\}, a variable that is not set"),
        ({"a": "${m1}"} | {f"m{n}": f"${{m{n + 1}}}" for n in range(10_000)}, "more than 32 deep"),
        ({"a": "${m0}"} | {f"m{n}": f"${{m{n + 1}}}" * 9 for n in range(9)} | {"m9": "x" * 900}, "is longer than"),
        ({"a": "${b}" * 100_000, "b": "x" * 1000}, f"is longer than {MAX_CHARS} characters"),
    ],
)
def test_what_cannot_be_replaced_says_why(macros: dict[str, str], told: str) -> None:
    with pytest.raises(Unexpandable, match=told):
        expand("${a}", macros, {})


def test_a_secret_is_not_taken_in() -> None:
    with pytest.raises(Secret, match=r"\$\{env.HF_TOKEN\}, a secret"):
        expand("--key ${env.HF_TOKEN}", {}, {"HF_TOKEN": "x"})
    assert all(map(is_secret, ("API_KEY_1", "HUGGING_FACE_HUB_TOKEN", "db_password")))
    assert not any(map(is_secret, ("HOME", "KEYBOARD", "MODELS_DIR")))
