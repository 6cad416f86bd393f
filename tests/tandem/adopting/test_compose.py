from __future__ import annotations

from typing import Any

import pytest

from common.config.document import Document, Problem
from common.config.models import Model
from tandem.adopting import compose
from tandem.adopting.proposal import Facts, Findings

GPU = {"resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}}
HEAD = ["docker", "run", "--rm", "--init", "--name", "tandem-s", "--gpus", '"device={card_uuid}"']
ENVIRON = {"HOME": "/home/u", "TAG": "v9"}


def translated(services: dict[str, Any], **top: Any) -> Findings:
    facts = Facts(ENVIRON, lambda path: None, lambda path: True, 24 * 2**30)
    return compose.translate(Document("/My Stack/compose.yaml", {"services": services} | top), facts)


def one(top: dict[str, Any] | None = None, **fields: Any) -> tuple[Model, list[str]]:
    plain = {"image": "vllm/vllm-openai", "command": "--model m", "gpus": "all"}
    found = translated({"s": plain | fields}, **(top or {}))
    assert len(found.proposals) == 1, found.notes
    return found.proposals[0].model, told(found)


def told(found: Findings) -> list[str]:
    quiet = "it runs on the card that it leases, whichever that is"
    return [
        f"{note.kind}: {note.place}: {note.message}"
        for note in found.notes
        if note.kind != "guessed" and note.message != quiet
    ]


def between(model: Model, before: str = "127.0.0.1:{port}:8000", after: str = "vllm/vllm-openai") -> list[str]:
    """The words of the command between the published port and the image."""
    return model.command[model.command.index(before) + 1 : model.command.index(after)]


def test_a_service_becomes_a_command_on_the_card_that_is_leased() -> None:
    model, notes = one(
        image="vllm/vllm-openai:${TAG:-v1}",
        command="--model Qwen/Qwen3-32B-AWQ --served-model-name qwen --max-num-seqs 8 --x '{\"a\": 1}'",
        ports=["8000:8000"],
        ipc="host",
        shm_size="8gb",
        environment={"LEVEL": "${LEVEL:-INFO}", "HF_TOKEN": "${HF_TOKEN}", "OFF": False, "PASSED": None},
        volumes=["/srv:/models:ro"],
        deploy=GPU,
        stop_grace_period="1m30s",
    )
    assert model.command == [
        *HEAD,
        *("-p", "127.0.0.1:{port}:8000", "--ipc", "host", "--shm-size", "8gb", "-v", "/srv:/models:ro"),
        *("-e", "LEVEL=INFO", "-e", "HF_TOKEN", "-e", "OFF=false", "-e", "PASSED"),
        *("vllm/vllm-openai:v9", "--model", "Qwen/Qwen3-32B-AWQ", "--served-model-name", "qwen"),
        *("--max-num-seqs", "8", "--x", '{"a": 1}'),
    ]
    assert (model.name, model.aliases, model.engine, model.slots, model.cards) == ("qwen", ["s"], "vllm", 8, 1)
    assert model.stop.term_s == 90
    assert notes == [
        "changed: services.s.environment.HF_TOKEN: HF_TOKEN looks like a secret; it is taken from the supervisor's environment"
    ]


def test_files_inside_are_those_outside() -> None:
    model, _ = one(
        image="ghcr.io/ggml-org/llama.cpp:server-cuda",
        command=["-m", "/models/Llama-3.1-8B-Q4_K_M.gguf", "--host", "0.0.0.0", "--port", 9000],
        volumes=["./w:/models", "hf:/cache"],
    )
    assert model.files == ["/My Stack/w/Llama-3.1-8B-Q4_K_M.gguf"]
    assert "127.0.0.1:{port}:9000" in model.command
    assert model.command[-4:] == ["--host", "0.0.0.0", "--port", "9000"]
    assert (model.name, model.engine, model.upstream) == ("s", "llama-server", "")


@pytest.mark.parametrize(
    ("fields", "cards"),
    [
        ({"deploy": {"resources": {"reservations": {"devices": [{"capabilities": ["gpu"], "count": 2}]}}}}, 2),
        (
            {
                "deploy": {
                    "resources": {"reservations": {"devices": [5, {"driver": "nvidia", "device_ids": ["0", "3"]}]}}
                }
            },
            2,
        ),
        ({"deploy": {"resources": {"reservations": {"devices": [{"driver": "nvidia", "count": "all"}]}}}}, 1),
        ({"gpus": "all"}, 1),
        ({"gpus": [{"count": 2}]}, 2),
        ({"runtime": "nvidia"}, 1),
        ({"environment": ["NVIDIA_VISIBLE_DEVICES=0,1"]}, 2),
        ({"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}, 1),
        ({"devices": ["nvidia.com/gpu=all"]}, 1),
        ({"deploy": {"resources": {"reservations": {"devices": [{"driver": "amd"}]}}}, "runtime": "nvidia"}, 1),
    ],
)
def test_a_reservation_of_cards_is_known_in_all_its_forms(fields: dict[str, Any], cards: int) -> None:
    found = translated({"s": {"image": "vllm/vllm-openai", "command": "--model m"} | fields})
    assert [proposal.model.cards for proposal in found.proposals] == [cards]
    assert found.proposals[0].model.command[:8] == HEAD
    assert "nvidia.com/gpu=all" not in found.proposals[0].model.command


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"image": "web"}, "needless: services.s: asks for no GPU; compose goes on running it"),
        ({"image": "x", "environment": {"NVIDIA_VISIBLE_DEVICES": "none"}}, "needless: services.s: asks for no GPU"),
        ({"image": "ollama/ollama", "gpus": "all"}, "skipped: services.s: is Ollama, which serves many models"),
        ({"build": ".", "gpus": "all"}, "skipped: services.s: is built from a folder and has no image"),
        ({"image": "x", "gpus": "all"}, "skipped: services.s: publishes no port that it could be asked at"),
        ({"image": "x", "gpus": "all", "network_mode": "host"}, "skipped: services.s: uses the host's network"),
        ({"image": "x", "gpus": "all", "command": "'"}, "skipped: services.s: its command cannot be split"),
        (
            {"image": "x", "gpus": "all", "command": "${N:?say it}"},
            "skipped: services.s: needs the variable N, which is not set",
        ),
        ({"image": "x", "gpus": "all", "ports": [80], "command": "{file}"}, "skipped: services.s: holds {file}"),
    ],
)
def test_a_service_that_becomes_no_model_says_why(fields: dict[str, Any], note: str) -> None:
    found = translated({"s": fields})
    assert found.proposals == []
    assert told(found)[-1].startswith(note)


def test_a_service_without_a_name_for_a_model_is_skipped() -> None:
    found = translated({"(": {"image": "x", "gpus": "all", "ports": ["80:80"]}})
    assert told(found) == ["skipped: services.(: its name has no letter or digit"]


def test_ports_are_one_and_the_others_are_told() -> None:
    model, notes = one(ports=["9000:9000", {"target": 8000}, {"target": 53, "protocol": "udp"}, "1-2:1-2"])
    assert "127.0.0.1:{port}:8000" in model.command
    assert [note.split(":")[1] for note in notes] == [
        " services.s.ports[0]",
        " services.s.ports[2]",
        " services.s.ports[3]",
    ]
    model, _ = one(image="kokoro-fastapi", ports=["80:8880"])
    assert "127.0.0.1:{port}:8880" in model.command
    assert model.capabilities == ["speech"]


def test_volumes_keep_their_sources() -> None:
    volumes = [
        "hf:/cache",
        "named:/n",
        "ext:/e",
        "~/m:/m",
        {"type": "bind", "source": "./a", "target": "/a", "read_only": True},
        {"type": "tmpfs", "target": "/t"},
        "/anonymous",
    ]
    top = {"volumes": {"hf": None, "named": {"name": "theirs"}, "ext": {"external": True}}}
    model, notes = one(top, volumes=volumes)
    mounted = between(model)[1::2]
    assert mounted == ["mystack_hf:/cache", "theirs:/n", "ext:/e", "/home/u/m:/m", "/My Stack/a:/a:ro"]
    assert notes == [f"left out: services.s.volumes[{n}]: only folders and named volumes are mounted" for n in (5, 6)]
    model, _ = one({"name": "proj"}, volumes=["hf:/cache"])
    assert between(model) == ["-v", "proj_hf:/cache"]


def test_other_options_are_carried_over() -> None:
    model, notes = one(
        user="1000:1000",
        mem_limit="16g",
        cpus=4,
        privileged=True,
        read_only=False,
        cap_add=["SYS_PTRACE"],
        devices=["/dev/x", "nvidia.com/gpu=0"],
        ulimits={"memlock": -1, "nofile": {"soft": 1, "hard": 2}},
        extra_hosts=["a=1.1.1.1", "b:2.2.2.2"],
        env_file="e.env",
        entrypoint=["python", "-m", "serve"],
        environment=["CUDA_VISIBLE_DEVICES=1", "A=1=2", "PASSED"],
    )
    assert between(model) == [
        *("--user", "1000:1000", "--memory", "16g", "--cpus", "4", "--cap-add", "SYS_PTRACE", "--device", "/dev/x"),
        *("--privileged", "--ulimit", "memlock=-1", "--ulimit", "nofile=1:2", "--add-host", "a:1.1.1.1"),
        *("--add-host", "b:2.2.2.2", "--env-file", "/My Stack/e.env", "--entrypoint", "python"),
        *("-e", "CUDA_VISIBLE_DEVICES={card_uuid}", "-e", "A=1=2", "-e", "PASSED"),
    ]
    assert model.command[-4:] == ["-m", "serve", "--model", "m"]
    assert notes == []
    assert between(one(extra_hosts={"h": "3.3.3.3"})[0]) == ["--add-host", "h:3.3.3.3"]


def test_what_ties_a_service_to_its_project_is_told() -> None:
    model, notes = one(
        restart="always", networks=["n"], depends_on=["db"], deploy=GPU | {"replicas": 2}, secrets=["x"], stop_signal="SIGUSR1",
        **{"x-note": 1},
    )  # fmt: skip
    assert model.stop.signal == "TERM"
    assert [note.partition(": ")[2].partition(":")[0] for note in notes] == [
        "services.s.deploy.replicas",
        "services.s.restart",
        "services.s.networks",
        "services.s.depends_on",
        "services.s.secrets",
        "services.s.stop_signal",
    ]
    assert one(stop_signal="SIGINT")[0].stop.signal == "INT"
    assert one(stop_grace_period="forever")[0].stop.term_s == 10


def test_a_file_is_compose_by_its_services() -> None:
    assert compose.fits(Document("f", {"services": {"a": {}}}))
    assert not compose.fits(Document("f", {"services": [1]}))
    assert not compose.fits(Document("f", {"services": {"a": 1}}))
    document = Document("f", {}, problems=(Problem("f", 7, (), "a key is not a text"),))
    nothing = compose.translate(document, Facts({}, lambda path: None, lambda path: True))
    assert [note.line for note in nothing.notes] == [7]
