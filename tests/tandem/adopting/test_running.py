from __future__ import annotations

from typing import Any

from common.config.models import EngineKind
from tandem.adopting.ollama_models import Tag
from tandem.adopting.running import Broker, Process, Seen, held_by, outermost, ports_to_ask, proposed

GIB = 2**30


def process(pid: int, *ancestors: int, **fields: Any) -> tuple[int, Process]:
    return pid, Process(pid, ancestors=ancestors, **fields)


def seen(engine: EngineKind = "llama-server", port: int = 8080, *models: str, **fields: Any) -> Seen:
    return Seen(engine, port, models, **fields)


def notes(*engines: Seen, brokers: tuple[Broker, ...] = (), processes: dict[int, Process] | None = None) -> list[str]:
    found = proposed(engines, brokers, processes or {}, "h")
    return [f"{note.kind}: {note.place}: {note.message}" for note in found.notes]


def test_the_ports_asked_are_the_usual_ones_and_those_of_whoever_holds_vram() -> None:
    processes = dict([process(7, 6, 1), process(6, 1)])
    listening = {8080: 3, 5001: 6, 5002: 7, 22: 9, 9999: 0}
    assert ports_to_ask(listening, (7, 8), processes, (8080, 1234)) == [5001, 5002, 8080]
    holders = {7: {"a": GIB, "b": GIB}, 6: {"a": 1, "c": 300}, 8: {"a": GIB}}
    assert held_by(6, holders, processes) == (GIB + 1, 2)
    assert held_by(0, holders, {}) == (0, 0)


def test_an_engine_that_another_one_started_is_that_ones_affair() -> None:
    processes = dict([process(20, 10, 1), process(10, 1)])
    ollama, runner = seen("ollama", 11434, pid=10, tags=(Tag("a:1", GIB),)), seen("llama-server", 41234, "x", pid=20)
    assert outermost([ollama, runner, seen("vllm", 8000)], processes) == [ollama, seen("vllm", 8000)]
    found = proposed([ollama, runner], [], processes, "h")
    assert [proposal.model.url for proposal in found.proposals] == ["http://127.0.0.1:11434"]


def test_a_measured_size_is_no_guess() -> None:
    found = proposed([seen("llama-server", 8080, "/m/Qwen3-8B-Q4_K_M.gguf", vram_bytes=6 * GIB, slots=4)], [], {}, "h")
    model = found.proposals[0].model
    assert (model.name, model.upstream, model.slots) == ("Qwen3-8B-Q4_K_M", "/m/Qwen3-8B-Q4_K_M.gguf", 4)
    assert model.vram == int(6.5 * GIB)
    assert found.notes == []
    assert found.proposals[0].origin == "h 127.0.0.1:8080"


def test_a_size_that_is_not_measured_is_told_as_a_guess() -> None:
    engine = seen("openai", 1234, "qwen3-8b", "whisper", "(", vram_bytes=GIB)
    found = proposed([engine], [], {}, "h")
    assert [(proposal.model.name, proposal.model.upstream) for proposal in found.proposals] == [
        ("qwen3-8b", ""),
        ("whisper", ""),
    ]
    assert notes(engine) == [
        "guessed: qwen3-8b: vram 6GiB is a guess: what 'qwen3-8b' says of itself",
        "guessed: whisper: vram 8GiB is a guess: neither its memory nor its name tell",
        "skipped: 127.0.0.1:1234: '(' can be no name",
    ]
    vllm = proposed([seen("vllm", 8000, "meta/Llama-8B")], [], {}, "h").proposals[0].model
    assert (vllm.name, vllm.vram) == ("meta/Llama-8B", int(17.5 * GIB))


def test_an_engine_that_computes_on_the_cpu_takes_no_vram() -> None:
    command = ("whisper-server", "--no-gpu", "-m", "large-v3.bin")
    found = proposed([seen("openai", 8080, "large-v3", pid=5)], [], {5: Process(5, command)}, "h")
    assert found.proposals[0].model.vram == 0
    assert [note.message for note in found.notes] == ["vram 0 is a guess: it computes on the CPU"]
    held = proposed([seen("openai", 8080, "large-v3", pid=5, vram_bytes=GIB)], [], {5: Process(5, command)}, "h")
    assert held.proposals[0].model.vram > GIB, "what the card shows is no guess"


def test_its_command_tells_what_a_model_is_for() -> None:
    processes = {5: Process(5, ("llama-server", "--embedding"))}
    found = proposed([seen("llama-server", 8080, "e", pid=5, vram_bytes=GIB, cards=2)], [], processes, "h")
    assert (found.proposals[0].model.capabilities, found.proposals[0].model.cards) == (["embeddings"], 2)


def test_a_server_of_many_models_has_them_told_apart_by_their_names() -> None:
    models = ("qwen3-8b", "text-embedding-nomic-embed-text-v1.5", "bge-reranker-v2-m3", "whisper-large-v3")
    found = proposed([seen("openai", 1234, *models)], [], {}, "h")
    kinds = [proposal.model.capabilities for proposal in found.proposals]
    assert kinds == [[], ["embeddings"], ["rerank"], ["transcription"]]


def test_comfyui_is_one_model() -> None:
    found = proposed([seen("comfyui", 8188, vram_bytes=GIB)], [], {}, "h")
    assert [(proposal.model.name, proposal.model.upstream) for proposal in found.proposals] == [("comfyui", "")]


def test_what_lists_no_model_is_told() -> None:
    assert notes(seen("vllm", 8000), seen("ollama", 11434)) == [
        "skipped: 127.0.0.1:8000: vLLM lists no model",
        "skipped: 127.0.0.1:11434: Ollama has no model yet",
    ]


def test_whoever_holds_vram_and_is_no_engine_is_named() -> None:
    game, child = Process(5, ("game", "--fast")), Process(6, ancestors=(1,))
    processes = {5: game, 6: child, 7: Process(7, leased=True), 8: Process(8, supervised=True), 1: Process(1)}
    engine = seen("vllm", 8000, "m", pid=1)
    found = proposed(
        [engine],
        [],
        processes,
        "h",
        {5: {"a": GIB, "b": 2 * GIB}, 6: {"a": GIB}, 7: {"a": 1}, 8: {"a": 1}, 99: {"a": GIB}},
    )
    told = "of VRAM and answers nowhere as an engine (started by `tandem run` it would have a lease)"
    assert [str(note) for note in found.notes if note.place.startswith("pid")] == [
        f"h: pid 5: game --fast holds 3.0 GiB {told}",
        f"h: pid 99: a process holds 1.0 GiB {told}",
    ]


def test_what_somebody_looks_after_already_is_not_taken_over() -> None:
    processes = dict(
        [
            process(1, supervised=True),
            process(2, supervised=True, leased=True),
            process(3, 9, 1),
            process(9),
            process(4),
        ]
    )
    engines = [seen("llama-server", 8000 + pid, "m", pid=pid) for pid in (1, 2, 3, 4)]
    brokers = (Broker("llama-swap", 8080, 9), Broker("llama-swap", 8081))
    # Process 3 comes from 1 too, but 1 is an engine of its own here only for its port.
    processes[3] = Process(3, ancestors=(9,))
    assert notes(*engines, brokers=brokers, processes=processes)[:5] == [
        "skipped: 127.0.0.1:8080: is llama-swap, which starts and stops engines itself",
        "skipped: 127.0.0.1:8081: is llama-swap, which starts and stops engines itself",
        "skipped: 127.0.0.1:8001: llama-server was started by a supervisor of Tandem",
        "skipped: 127.0.0.1:8002: llama-server holds a lease already",
        "skipped: 127.0.0.1:8003: llama-server was started by llama-swap",
    ]
    found = proposed(engines, brokers, processes, "h")
    assert [proposal.model.url for proposal in found.proposals] == ["http://127.0.0.1:8004"]
