from __future__ import annotations

import pytest

from tandem.adopting.proposal import Facts, Note
from tandem.adopting.shaping import fit_name, guessed, narrowed, on_loopback, on_port, written_bytes

GIB = 2**30


def facts(card_bytes: int = 0, **sizes: int) -> Facts:
    return Facts({}, lambda path: sizes.get(path.strip("/")), lambda path: True, card_bytes)


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("qwen3:8b", "qwen3:8b"),
        ("a (b)", "a -b"),
        (".x", "x"),
        ("(", ""),
        ("y" * 200, "y" * 128),
        ("é", ""),
        ("_a", "_a"),
    ],
)
def test_a_name_is_made_fit(name: str, fit: str) -> None:
    assert fit_name(name) == fit


def test_an_engine_is_put_on_loopback() -> None:
    assert on_loopback(["0.0.0.0", "--host=0.0.0.0", "--listen", "::", "-x", "0.0.0.0"]) == [
        *("0.0.0.0", "--host=127.0.0.1", "--listen", "127.0.0.1", "-x", "0.0.0.0"),
    ]


def test_a_port_is_found_where_it_stands_for_one() -> None:
    held = "\ue000"
    words = [
        "--port",
        "80",
        "-c",
        "80",
        "--ctx=80",
        "--api-port=80",
        "127.0.0.1:80",
        "x --port 80 y",
        "--listen",
        "80",
        "-p",
        "80",
    ]
    assert on_port(words, "80") == [
        *("--port", held, "-c", "80", "--ctx=80", f"--api-port={held}", f"127.0.0.1:{held}", f"x --port {held} y"),
        *("--listen", held, "-p", held),
    ]
    assert on_port(["--port", "8080", "serve", "80"], "80") is None


def test_a_size_is_guessed_from_the_best_that_is_known() -> None:
    assert guessed("vllm", ["--gpu-memory-utilization", "0.5"], "x", [], 2, facts(20 * GIB)).size == 10 * GIB
    assert guessed("vllm", ["serve", "Llama-8B"], "x", [], 1, facts()).basis == "what 'Llama-8B' says of itself"
    assert guessed("llama-server", ["-ngl", "0"], "x", ["/a"], 1, facts(a=GIB)).size == GIB
    assert guessed("openai", ["whisper-server", "--no-gpu"], "x", ["/a"], 1, facts(a=GIB)).size == 0
    assert guessed("llama-server", [], "x", ["/a", "/b"], 2, facts(a=4 * GIB)).size == int(2.75 * GIB)
    assert (
        guessed("llama-server", [], "x-7b", ["/gone-70B.gguf"], 1, facts()).basis
        == "what 'gone-70B.gguf' says of itself"
    )
    assert guessed("openai", [], "x", [], 1, facts()).size == 8 * GIB


def test_bytes_are_written_in_the_largest_unit_that_divides_them() -> None:
    assert [written_bytes(count) for count in (0, 7, 1024, 3 * 2**20, 5 * GIB)] == ["0", "7", "1KiB", "3MiB", "5GiB"]


def test_usual_capabilities_need_not_be_said() -> None:
    assert narrowed(["chat"], ["chat"]) == []
    assert narrowed(["rerank"], ["chat"]) == ["rerank"]


def test_a_note_says_where_it_is_from() -> None:
    assert str(Note("left out", "f", 3, "a.b", "gone", "put it back")) == "f:3: a.b: gone (put it back)"
    assert str(Note("skipped", "h", 0, "", "gone")) == "h: gone"
