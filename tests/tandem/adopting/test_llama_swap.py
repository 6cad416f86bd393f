from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config.document import Document, Problem
from common.config.loader import read
from common.config.models import Model
from tandem.adopting import llama_swap
from tandem.adopting.proposal import Facts, Findings

GIB = 2**30
REAL = """\
# served to the whole house
healthCheckTimeout: 300
logLevel: info
startPort: 10001
macros:
  "server": >
    /opt/llama.cpp/build/bin/llama-server
    --port ${PORT} --host 0.0.0.0
  "ctx": 8192
  "args": "--ctx-size ${ctx} -np 2"
  "models": "${env.MODELS}/gguf"
models:
  "qwen3-14b":
    macros: {ctx: 32768}
    cmd: |
      # the usual one
      ${server}
      -m ${models}/Qwen3-14B-Q4_K_M.gguf \\
      ${args}
      --chat-template-kwargs '{"enable_thinking": false}'
    aliases: [gpt-4o-mini, {id: coder, name: Coder}]
    ttl: 900
    description: the daily one
    filters:
      stripParams: "temperature"
  "coder (vLLM)":
    proxy: http://127.0.0.1:8999
    useModelName: coder-30b
    checkEndpoint: /v1/models
    cmdStop: docker stop vllm-coder
    unloadTimeout: 30
    cmd: |
      docker run --init --rm -d --name vllm-coder --runtime=nvidia --gpus '"device=0,1"'
      -v /mnt/models:/models -p 8999:8000
      vllm/vllm-openai:v0.10.0
      --model /models/Qwen3-Coder-30B-AWQ --served-model-name coder-30b --tensor-parallel-size 2
  "embed":
    cmd: llama-server --port 9001 -m nomic.gguf --embedding
    proxy: http://localhost:9001
    env: ["CUDA_VISIBLE_DEVICES=1", "HF_TOKEN=abc", "LLAMA_LOG=1"]
    unlisted: true
    concurrencyLimit: 3
  "broken":
    cmd: ${nowhere} -m x
groups:
  main: {swap: true, exclusive: true, members: [qwen3-14b, gone]}
  forever: {persistent: true, swap: false, members: [embed]}
hooks:
  on_startup:
    preload: [embed, other]
apiKeys: [sk-1]
"""


def facts(**sizes: int) -> Facts:
    return Facts({"MODELS": "/srv"}, sizes.get, lambda path: True, 24 * GIB)


def translated(models: Any, **top: Any) -> Findings:
    return llama_swap.translate(Document("/c/config.yaml", {"models": models} | top), facts())


def one(cmd: str = "serve --port ${PORT}", top: dict[str, Any] | None = None, **fields: Any) -> tuple[Model, list[str]]:
    found = translated({"m": {"cmd": cmd} | fields}, **(top or {}))
    assert len(found.proposals) == 1, found.notes
    return found.proposals[0].model, told(found)


def told(found: Findings) -> list[str]:
    return [f"{note.kind}: {note.place}: {note.message}" for note in found.notes if note.kind != "guessed"]


@pytest.fixture
def real(tmp_path: Path) -> Findings:
    path = tmp_path / "config.yaml"
    path.write_text(REAL)
    document = read(path)
    assert isinstance(document, Document)
    assert llama_swap.fits(document)
    return llama_swap.translate(document, facts())


def test_a_whole_configuration_becomes_models(real: Findings, tmp_path: Path) -> None:
    qwen, coder, embed = (proposal.model for proposal in real.proposals)
    assert qwen.command == [
        "/opt/llama.cpp/build/bin/llama-server",
        *("--port", "{port}", "--host", "127.0.0.1", "-m", "/srv/gguf/Qwen3-14B-Q4_K_M.gguf"),
        *("--ctx-size", "32768", "-np", "2", "--chat-template-kwargs", '{"enable_thinking": false}'),
    ]
    assert (qwen.engine, qwen.slots, qwen.aliases) == ("llama-server", 2, ["gpt-4o-mini", "coder"])
    assert (qwen.idle.after_s, qwen.health.ready_within_s, qwen.health.path) == (900, 300, "")
    assert (coder.name, coder.engine, coder.upstream, coder.cards) == ("coder -vLLM", "vllm", "coder-30b", 2)
    assert coder.command[:8] == ["docker", "run", "--init", "--rm", "--name", "vllm-coder", "--runtime", "nvidia"]
    assert coder.command[8:14] == [
        "--gpus",
        '"device={card_uuid}"',
        "-v",
        "/mnt/models:/models",
        "-p",
        "127.0.0.1:{port}:8000",
    ]
    assert (coder.files, coder.health.path, coder.stop.term_s) == (
        ["/mnt/models/Qwen3-Coder-30B-AWQ"],
        "/v1/models",
        30,
    )
    assert (embed.capabilities, embed.slots, embed.listed, embed.pinned, embed.preload) == (
        ["embeddings"],
        3,
        False,
        True,
        True,
    )
    assert (embed.env, embed.files, embed.cwd) == ({"LLAMA_LOG": "1"}, [str(tmp_path / "nomic.gguf")], str(tmp_path))
    assert [proposal.line for proposal in real.proposals] == [13, 26, 37]


def test_nothing_is_left_out_without_a_word_and_its_line(real: Findings) -> None:
    lines = {(note.kind, note.line) for note in real.notes}
    assert ("skipped", 43) in lines
    assert {("left out", line) for line in (23, 25, 46, 50, 40)} <= lines
    assert {("changed", line) for line in (15, 26, 32, 38, 40)} <= lines
    assert {("needless", line) for line in (3, 4, 30, 46, 47)} <= lines
    texts = "\n".join(map(str, real.notes))
    assert "models.broken: names ${nowhere}, which is defined nowhere" in texts
    assert "HF_TOKEN looks like a secret" in texts
    assert "sk-1" not in texts
    assert "abc" not in texts


def test_what_is_no_configuration_of_llama_swap_does_not_fit() -> None:
    assert not llama_swap.fits(Document("f", {"models": {"a": {}}}))
    assert not llama_swap.fits(Document("f", {"services": {}}))
    assert llama_swap.translate(Document("f", None), facts()).proposals == []
    assert llama_swap.translate(Document("f", {"models": []}), facts()).proposals == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("text", "is no mapping"),
        ({}, "its cmd is missing"),
        ({"cmd": 5}, "its cmd is no text"),
        ({"cmd": "# only a comment"}, "has no command"),
        ({"cmd": "serve '"}, "cannot be split into words: No closing quotation"),
        ({"cmd": r"C:\x\llama-server.exe --port ${PORT}"}, "names a path of Windows"),
        ({"cmd": "serve --port ${PORT} {file}"}, "holds {file}, which a command here would fill in"),
        ({"cmd": "serve --port ${PORT}", "env": ["A={name}"]}, "holds {name}, which a command here"),
        ({"cmd": "serve"}, "says nowhere on which port it listens"),
        ({"cmd": "serve", "proxy": "http://10.0.0.2:80"}, "answers at http://10.0.0.2:80, not on this machine"),
        ({"cmd": "serve", "proxy": "nonsense"}, "answers at nonsense, not on this machine"),
        ({"cmd": "serve ${a}", "macros": {"a": "${b}", "b": "${a}"}}, "goes in a circle: a -> b -> a"),
        ({"cmd": "serve --key ${env.API_KEY}"}, "takes in ${env.API_KEY}, a secret"),
        ({"cmd": "serve --port ${PORT}", "env": ["A=${env.NOPE}"]}, "names ${env.NOPE}, a variable that is not set"),
    ],
)
def test_a_model_that_cannot_be_translated_is_skipped_with_the_reason(fields: Any, reason: str) -> None:
    found = translated({"bad": fields, "good": {"cmd": "llama-server --port ${PORT}"}})
    assert [proposal.model.name for proposal in found.proposals] == ["good"]
    assert [note.kind for note in found.notes if note.place == "models.bad"] == ["skipped"]
    assert any(reason in note.message for note in found.notes)


def test_of_a_model_that_is_skipped_nothing_else_is_said() -> None:
    found = translated({"bad": {"cmd": "serve ${PORT}", "env": ["x"], "checkEndpoint": 5}})
    assert [f"{note.kind}: {note.message}" for note in found.notes] == ["skipped: its checkEndpoint is no text"]


def test_a_name_of_signs_alone_is_no_name() -> None:
    assert told(translated({"((": {"cmd": "serve ${PORT}"}})) == ["skipped: models.((: its name has no letter or digit"]


def test_problems_of_the_file_are_passed_on() -> None:
    document = Document("f", {}, problems=(Problem("f", 7, ("models",), "the key is there twice", "keep one"),))
    assert [str(note) for note in llama_swap.translate(document, facts()).notes] == [
        "f:7: the key is there twice (keep one)"
    ]


def test_a_port_in_the_environment_is_chosen_too() -> None:
    model, _ = one("serve", proxy="http://127.0.0.1:8999", env=["APP_PORT=8999", "SEED=8999"])
    assert (model.env, model.port) == ({"APP_PORT": "{port}", "SEED": "8999"}, 0)


@pytest.mark.parametrize(
    ("cmd", "proxy", "command", "port"),
    [
        ("llama-server -m x", "", ["llama-server", "-m", "x", "--port", "{port}"], 0),
        ("serve --port=8999", "http://localhost:8999", ["serve", "--port={port}"], 0),
        ("serve 127.0.0.1:8999", "http://127.0.0.1:8999/v1", ["serve", "127.0.0.1:{port}"], 0),
        ("serve", "http://127.0.0.1:8999", ["serve"], 8999),
        ("serve ${PORT}", "http://127.0.0.1:${PORT}", ["serve", "{port}"], 0),
        ("docker run -p 80:8080 x", "http://127.0.0.1:81", ["docker", "run", "-p", "127.0.0.1:80:8080", "x"], 81),
        (
            "docker run --publish 81:8080 -p 127.0.0.1:82:1 -p 9-10:9-10 x",
            "http://127.0.0.1:81",
            ["docker", "run", "--publish", "127.0.0.1:{port}:8080", "-p", "127.0.0.1:82:1", "-p", "9-10:9-10", "x"],
            0,
        ),
    ],
)
def test_the_port_is_chosen_wherever_the_command_says_it(cmd: str, proxy: str, command: list[str], port: int) -> None:
    model, _ = one(cmd, **({"proxy": proxy} if proxy else {}))
    assert (model.command, model.port) == (command, port)


@pytest.mark.parametrize(
    ("top", "fields", "after_s"),
    [
        ({}, {}, None),
        ({"globalTTL": 60}, {}, 60),
        ({"globalTTL": 60}, {"ttl": 0}, None),
        ({"globalTTL": 60}, {"ttl": 5}, 5),
        ({"globalTTL": True}, {}, None),
    ],
)
def test_a_time_to_live_is_kept_where_it_was_set(
    top: dict[str, Any], fields: dict[str, Any], after_s: int | None
) -> None:
    assert one(top=top, **fields)[0].idle.after_s == after_s


def test_health_and_patience_are_kept() -> None:
    assert one(checkEndpoint="none")[0].health.how == "tcp"
    assert one(checkEndpoint="up", top={"healthCheckTimeout": 1})[0].health.path == "/up"
    assert one(top={"healthCheckTimeout": 1})[0].health.ready_within_s == 15
    assert one()[0].health.path == "/health"
    assert one("llama-server --port ${PORT}")[0].health.path == ""
    assert one(top={"unloadTimeout": 20})[0].stop.term_s == 20
    model, notes = one(cmdStop="kill ${PID}")
    assert model.stop.term_s == 10
    assert notes == ["left out: models.m.cmdStop: its process is stopped by a signal"]


def test_aliases_that_clash_or_can_be_no_name_are_told() -> None:
    filters = {"setParamsByID": {"${MODEL_ID}:high": {}, "${MODEL_ID}": {}}}
    found = translated(
        {
            "a": {"cmd": "serve ${PORT}", "aliases": ["x", "x", "b", "(", 5, None], "filters": filters},
            "b": {"cmd": "serve ${PORT}", "aliases": ["x"]},
            "c": {"cmd": "serve ${PORT}", "aliases": "x", "filters": 3},
        }
    )
    assert [proposal.model.aliases for proposal in found.proposals] == [["x", "a:high"], [], []]
    assert told(found)[:3] == [
        "left out: models.a.aliases[2]: b is a name of b already",
        "left out: models.a.aliases[3]: '(' can be no name",
        "left out: models.a.aliases[4]: 5 can be no name",
    ]
    assert "left out: models.b.aliases[0]: x is a name of a already" in told(found)


def test_keys_that_nobody_knows_are_told() -> None:
    _, notes = one(top={"brandNew": 1, "hooks": {"on_stop": {}}, "groups": {"g": 5}}, odd=1, env=["nonsense", "=x"])
    assert notes == [
        "left out: brandNew: no such key of llama-swap is known",
        "needless: groups.g: its members stay loaded together, and beside others, wherever they fit",
        "left out: hooks.on_stop: no such hook is known",
        "left out: models.m.env[0]: 'nonsense' is no NAME=value",
        "left out: models.m.env[1]: '=x' is no NAME=value",
        "left out: models.m.odd: no such key of llama-swap is known",
    ]


def test_the_newer_routing_has_groups_too() -> None:
    groups = {"keep": {"persistent": True, "members": ["m"]}}
    model, notes = one(top={"routing": {"router": {"use": "group", "settings": {"groups": groups}}}}, ttl=60)
    assert model.pinned
    assert model.idle.after_s is None
    assert "left out: models.m.ttl: a model of a persistent group is pinned: it stays when idle" in notes
    _, notes = one(top={"routing": {"router": {"use": "matrix"}}})
    assert notes == ["needless: routing: models stay loaded together wherever their cards have room"]


def test_a_limit_of_users_and_one_of_the_engine_are_both_kept() -> None:
    assert one("llama-server --port ${PORT} -np 4", concurrencyLimit=2)[0].slots == 2
    assert one("llama-server --port ${PORT} -np 4", concurrencyLimit=9)[0].slots == 4
    assert one("llama-server --port ${PORT} -np 4", concurrencyLimit=0)[0].slots == 4
    assert one(concurrencyLimit="x")[0].slots == 0


def test_macros_may_be_numbers_and_truths() -> None:
    model, _ = one("serve --port ${PORT} ${n} ${t} ${f}", top={"macros": {"n": 1.5, "t": True, "f": False, "l": []}})
    assert model.command[3:] == ["1.5", "true", "false"]


def test_ten_thousand_models_are_no_matter() -> None:
    models = {f"m{n}": {"cmd": "${s} -m /m/${MODEL_ID}.gguf", "aliases": [f"a{n}"]} for n in range(10_000)}
    found = translated(models, macros={"s": "llama-server --port ${PORT}"})
    assert len(found.proposals) == 10_000
    assert found.proposals[-1].model.command == ["llama-server", "--port", "{port}", "-m", "/m/m9999.gguf"]
