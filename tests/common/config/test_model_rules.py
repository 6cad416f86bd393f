from __future__ import annotations

from typing import Any

import pytest

from common.config.decode import decode
from common.config.document import Document
from common.config.schema import Startup
from common.config.sections import Launched
from common.config.validate import Candidate, Machine, judge


def entry(**fields: Any) -> dict[str, Any]:
    return {"name": "m", "engine": "llama-server", "vram": "4GiB", "command": ["serve", "{port}"]} | fields


def adopted(**fields: Any) -> dict[str, Any]:
    return {"name": "m", "engine": "ollama", "vram": "4GiB", "url": "http://127.0.0.1:11434"} | fields


def candidate(*models: dict[str, Any], host: str = "h", **fields: Any) -> Candidate:
    document = Document(f"{host}.yaml", {"version": 1, "host": host, "supervisor": {}, "models": list(models)} | fields)
    return Candidate(document, decode(document)[0])


def problems(*candidates: Candidate) -> list[str]:
    def exists(startup: Startup, launched: Launched) -> bool:
        return launched.command[0] != "gone"

    machine = Machine(exists, lambda path: path == "/somewhere", frozenset({0, 1}))
    return [str(problem).replace(":1:", ":") for problem in judge(candidates, machine)]


def test_models_that_fit_together_have_no_problem() -> None:
    sound = candidate(
        entry(files=["/a.gguf", "{home}/b.gguf"], command=["serve", "--port={port}", "{file}", "{files[1]}"]),
        entry(name="fixed", port=9001, command=["serve"], aliases=["f"]),
        entry(name="by env", command=["serve"], env={"PORT": "{port}"}),
        adopted(name="qwen:8b", url="http://localhost:1234/api", manage=True),
        adopted(name="other", url="http://[::1]:1"),
        entry(name="cpu", vram=0),
        entry(name="absent", command=["gone", "{port}"], enabled=False),
        agents=[{"name": "a", "command": ["run"]}],
    )
    assert problems(sound) == []


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([entry(), entry()], "models[1].name: m is already a name of line 1's model (names are unique)"),
        ([entry(aliases=["x", "x"])], "models[0].aliases[1]: x is already a name of line 1's model"),
        ([entry(), entry(name="n", aliases=["m"])], "models[1].aliases[0]: m is already a name"),
        ([entry(name="agent")], "models[0].name: agent is the name of a process of this host (choose another)"),
        ([entry(name="supervisor")], "models[0].name: supervisor is the name of a process"),
        ([entry(name="q:8", command=[])], "models[0]: neither a command nor the url of an engine"),
        ([{"name": "m", "engine": "vllm", "vram": 0}], "models[0]: neither a command nor the url"),
        ([entry(command=["serve"])], "models[0].command: the command says no {port}"),
        ([entry(command=["gone", "{port}"])], "models[0].command: there is no program 'gone' to run"),
        ([entry(cwd="/nowhere")], "models[0].cwd: /nowhere is no folder"),
        ([entry(limits={"cpus": [7]})], "models[0].limits.cpus: this machine has no core 7"),
        ([entry(env={"A": "\0"})], "models[0].env.A: '\\x00' cannot be given to a program"),
        ([entry(manage=True)], "models[0].manage: manage is for an engine that runs already"),
        ([adopted(command=["x"])], "models[0].command: command is for a model with a command"),
        ([adopted(port=5)], "models[0].port: port is for a model with a command"),
        ([adopted(url="127.0.0.1:80")], "models[0].url: '127.0.0.1:80' is no address of an engine"),
        ([adopted(url="http://127.0.0.1:1/?x")], "models[0].url: 'http://127.0.0.1:1/?x' is no address"),
        ([adopted(url="http://127.0.0.1:0")], "models[0].url: 'http://127.0.0.1:0' names no port"),
        ([adopted(url="http://127.0.0.1:99999")], "names no port (ports go from 1 to 65535)"),
        ([adopted(url="http://10.0.0.7:1")], "models[0].url: 10.0.0.7 is not this host's loopback"),
        ([adopted(url="http://pc9")], "models[0].url: pc9 is not this host's loopback"),
        ([adopted(), adopted(name="n", upstream="m")], "models[1].url: m at http://127.0.0.1:11434 is already m"),
        ([entry(command=["s", "{port}", "{prot}"])], "command[2]: there is no field {prot} (did you mean {port}?)"),
        ([entry(command=["s", "{port}", "{zzz}"])], "models[0].command[2]: there is no field {zzz} (known: {port},"),
        ([entry(command=["s", "{port}", "{file}"])], "{file} names none of the 0 files (add it to files)"),
        ([entry(command=["s", "{port}", "{files}"])], "{files} names no one file (write {files[0]})"),
        ([entry(command=["s", "{port}", "{home[0]}"])], "{home[0]} is no list (write {home})"),
        ([entry(command=["s", "{port}", "${PORT}"])], "${PORT} is no field of a template (write {port}, without"),
        ([entry(env={"A": "{what}"})], "models[0].env.A: there is no field {what}"),
        ([entry(files=["a.gguf"])], "models[0].files[0]: a.gguf is no absolute path"),
        ([entry(files=["/a"] * 65)], "models[0].files: 65 files; at most 64 are looked for"),
        ([entry(vram=24)], "models[0].vram: 24 B is less than any model takes (give it its unit"),
        ([entry(vram=0, exclusive=True)], "models[0].vram: takes no VRAM"),
        ([entry(cards=2, card_uuid="GPU-x")], "models[0].card_uuid: one card for a model on 2 cards"),
        ([entry(pinned=True, idle={"after_s": "1m"})], "models[0].idle: a pinned model is never put away"),
        ([entry(health={"path": "health"})], "models[0].health.path: 'health' is no path (begin it with /)"),
        ([entry(health={"ready_within_s": 0})], "models[0].health.ready_within_s: too small to work"),
        ([entry(health={"timeout_s": 0})], "models[0].health.timeout_s: too small to work"),
        ([entry(logs={"max_bytes": 1})], "models[0].logs.max_bytes: too small to work"),
        ([entry(port=7001)], "models[0].port: port 7001 is resource_manager's well-known port"),
        ([entry(port=9000), entry(name="n", port=9000)], "models[1].port: port 9000 is already h/m (port)'s"),
    ],
)
def test_what_does_not_fit_is_told(models: list[dict[str, Any]], told: str) -> None:
    found = problems(candidate(*models, agents=[{"name": "agent", "command": ["run"]}]))
    assert len(found) == 1, found
    assert told in found[0]


def test_a_shells_own_variable_is_no_field() -> None:
    assert problems(candidate(entry(command=["sh", "-c", "exec serve --port {port} ${HOME}/m"]))) == []
    assert problems(candidate(entry(command=["sh", "-c", "exec serve ${PORT}"], env={"PORT": "{port}"}))) == []


def test_a_blank_name_is_told_once() -> None:
    models = [{"port": 4}, {"port": 5, "command": "x"}]
    document = Document("f", {"version": 1, "host": "h", "supervisor": {}, "models": models})
    startup, told = decode(document)
    assert len(told) == 7
    assert all("name" not in problem for problem in problems(Candidate(document, startup)))


def test_two_names_whose_files_would_be_the_same_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.config.models.zlib.crc32", lambda raw: 7)
    assert "a:b and a/b would have the same files" in problems(candidate(entry(name="a/b"), entry(name="a:b")))[0]


def test_a_name_means_one_model_on_every_host() -> None:
    one = candidate(entry(name="big", aliases=["chat"]), host="one")
    same = candidate(entry(name="big", aliases=["chat"]), host="two")
    assert problems(one, same) == []
    other = candidate(entry(name="small", aliases=["chat"]), host="two")
    assert problems(one, other) == [
        "two.yaml: models[0].aliases[0]: chat is small here and big on one (let a name mean the same model everywhere)"
    ]
    clash = candidate(entry(name="chat"), host="two")
    assert "chat is big here and chat on two" in problems(one, clash)[0]
