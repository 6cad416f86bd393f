from __future__ import annotations

import pytest

from tandem.adopting import containers
from tandem.adopting.commands import split
from tandem.adopting.containers import Option, Published

LINE = (
    "docker run --init -it -d --rm --name x --runtime=nvidia --gpus '\"device=2,3\"' -v /a:/models:ro -v cache:/root "
    "-v /a/deep:/models/deep -p 9000:8000 -e A=1 vllm/vllm-openai:v1 --model /models/m -p 5"
)


def test_a_run_is_taken_apart_and_put_together_again() -> None:
    found = containers.read(split(LINE))
    assert found is not None
    assert found.image == "vllm/vllm-openai:v1"
    assert found.arguments == ("--model", "/models/m", "-p", "5")
    assert found.values("-p", "--publish") == ["9000:8000"]
    assert found.options[:3] == (Option("--init"), Option("-it"), Option("-d"))
    assert Option("--runtime", "nvidia") in found.options
    assert found.words == [
        word for each in split(LINE) for word in ([each] if "--runtime" not in each else each.split("="))
    ]
    assert found.devices == "2,3"


def test_what_is_detached_can_be_attached() -> None:
    found = containers.read(split(LINE))
    assert found is not None
    assert found.detached
    assert not found.attached().detached
    assert "-it" in found.attached().words
    kept = containers.read(["docker", "run", "--detach=false", "-e", "-d", "x"])
    assert kept is not None
    assert not kept.detached
    assert kept.attached() == kept


def test_values_are_replaced_one_by_one() -> None:
    found = containers.read(["docker", "run", "-p", "1:2", "-p", "3:4", "--rm", "x"])
    assert found is not None
    assert found.with_values("-p", [("3:4", "n")]).values("-p") == ["1:2", "n"]


@pytest.mark.parametrize(
    ("path", "outside"),
    [("/models/m", "/a/m"), ("/models/deep/m", "/a/deep/m"), ("/models", "/a"), ("/root/m", None), ("/other", None)],
)
def test_a_path_inside_is_one_outside_where_a_mount_covers_it(path: str, outside: str | None) -> None:
    found = containers.read(split(LINE))
    assert found is not None
    assert found.outside(path) == outside


@pytest.mark.parametrize(
    ("line", "devices"), [("--gpus all", ""), ("--gpus=device=0", "0"), ("", None), ("--gpus 2", "")]
)
def test_the_cards_are_those_of_gpus(line: str, devices: str | None) -> None:
    found = containers.read(split(f"podman container run {line} -- image"))
    assert found is not None
    assert found.devices == devices
    assert found.image == "image"


@pytest.mark.parametrize(
    "line", ["docker", "docker stop x", "docker run", "docker run -d --name", "llama-server run x"]
)
def test_other_commands_run_no_container(line: str) -> None:
    assert containers.read(split(line)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8000", Published("", "", "8000")),
        ("9000:8000", Published("", "9000", "8000")),
        ("127.0.0.1:9000:8000/tcp", Published("127.0.0.1", "9000", "8000")),
        ("{port}:8000", Published("", "{port}", "8000")),
        ("[::1]::8000", Published("[::1]", "", "8000")),
        ("9000-9010:8000-8010", None),
        ("9000:8000/udp", None),
    ],
)
def test_a_published_port_is_read(text: str, expected: Published | None) -> None:
    assert containers.published(text) == expected
