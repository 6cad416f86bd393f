from __future__ import annotations

import pytest

from common.gpu.container_words import container_run


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("docker run ollama/ollama", "ollama/ollama"),
        ("/usr/bin/docker run --rm -it -p 80:80 -h name -v/a:/b -e X=1 --name n img sh -c x", "img"),
        ("sudo docker run -itv /a:/b --privileged img --gpus all", "img"),
        ("docker --context far -D container run -dP img", "img"),
        ("podman --log-level=debug run --replace --env-host -t=false img", "img"),
        ("nerdctl run --rm -- img", "img"),
        ("docker run --network host --shm-size=1g -e=A=b img", "img"),
    ],
)
def test_a_container_is_found_with_its_image(line: str, image: str) -> None:
    found = container_run(line.split())
    assert found is not None
    assert found.words[found.image] == image


@pytest.mark.parametrize(
    "line",
    [
        "",
        "docker",
        "docker ps",
        "docker exec c sh",
        "docker compose run x",
        "docker run",
        "docker run -it",
        "python run x",
    ],
)
def test_another_command_is_left_alone(line: str) -> None:
    assert container_run(line.split()) is None


def test_docker_is_told_the_card_and_podman_too_in_its_own_way() -> None:
    docker = container_run(["docker", "run", "--rm", "img", "sh"])
    podman = container_run(("podman", "container", "run", "img"))
    assert docker is not None
    assert podman is not None
    label, file = "--label=tandem.lease=lease-1", "--cidfile=/tmp/id"
    assert docker.with_cards(["GPU-a"], "lease-1", "/tmp/id") == [
        *("docker", "run", label, file, "--gpus", "device=GPU-a", "--rm", "img", "sh"),
    ]
    assert docker.with_cards(["GPU-a", "GPU-b"], "lease-1", "/tmp/id")[4:6] == ["--gpus", '"device=GPU-a,GPU-b"']
    assert podman.with_cards(["GPU-a", "GPU-b"], "lease-1", "/tmp/id")[3:] == [
        *(label, file, "--device=nvidia.com/gpu=GPU-a", "--device=nvidia.com/gpu=GPU-b", "img"),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--gpus all", ("all",)),
        ("--gpus=device=0", ("device=0",)),
        ("--device nvidia.com/gpu=all", ("nvidia.com/gpu=all",)),
        ("--device /dev/nvidia0", ("/dev/nvidia0",)),
        ("-e NVIDIA_VISIBLE_DEVICES=1", ("NVIDIA_VISIBLE_DEVICES=1",)),
        ("--device /dev/snd -e CUDA=1 --env A=b", ()),
    ],
)
def test_what_the_user_says_of_cards_stands(options: str, said: tuple[str, ...]) -> None:
    found = container_run(["docker", "run", *options.split(), "img", "--gpus", "none"])
    assert found is not None
    assert found.cards == said
    assert ("device=GPU-a" in found.with_cards(["GPU-a"], "l", "f")) == (not said)


def test_the_users_file_for_the_containers_id_is_used() -> None:
    found = container_run(["docker", "run", "--cidfile", "/run/mine", "img"])
    assert found is not None
    assert found.cidfile == "/run/mine"
    assert "--cidfile=other" not in found.with_cards(["GPU-a"], "l", "other")


@pytest.mark.parametrize(
    ("options", "detached"),
    [
        ("-d", True),
        ("-itd", True),
        ("--detach", True),
        ("--detach=true", True),
        ("--detach=false", False),
        ("-it", False),
    ],
)
def test_a_detached_container_is_known(options: str, detached: bool) -> None:
    found = container_run(["docker", "run", options, "img", "-d"])
    assert found is not None
    assert found.detached == detached
    assert found.program == ("docker",)
