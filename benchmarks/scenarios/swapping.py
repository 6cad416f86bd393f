"""From a request to its first token when another model has to go first: through the fabric, and by stopping and starting by hand.

Two models that do not fit on one card take turns, in three tiers: loaded from a cold disk, from the page cache, and awake from
host RAM. The engine is the same stand-in both times, with the same times of its own; what is beyond them is the fabric's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.alone import until
from benchmarks.contest import alternate
from benchmarks.result import Figure, Result, Target
from common.gpu.simulated import SIMULATED_CARDS_VARIABLE, ensure_cards
from tests.lab.fabric import ROOT, Fabric, free_ports, running

GIB: Final = 2**30
SIZE: Final = "7GiB"
HOST: Final = "pc2"
PAIR: Final = ("a", "b")
PATIENCE_S: Final = 60.0
POLL_S: Final = 0.005
TIERS: Final[Mapping[str, Mapping[str, str]]] = {
    "cold": {"STAND_IN_LOAD_S": "1.0"},
    "page cache": {"STAND_IN_LOAD_S": "0.3"},
    "parked in RAM": {"STAND_IN_LOAD_S": "0.3", "STAND_IN_WAKE_S": "0.1", "VLLM_SERVER_DEV_MODE": "1"},
}
PARKED: Final = "parked in RAM"
OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

ADDED: Final = Target("what the fabric adds to the engine's own time in a swap, the largest tier", "at most", 50, "ms")


def run(rounds: int) -> Result:
    with tempfile.TemporaryDirectory() as folder, _house(Path(folder)) as ask, _by_hand(Path(folder)) as hands:
        found = alternate(
            rounds,
            {
                f"{tier}, {who}": (lambda tier=tier, turn=turn: turn(tier))  # type: ignore[misc]
                for tier in TIERS
                for who, turn in (("by hand", hands), ("through the fabric", ask))
            },
        )
    figures = [Figure.of(name, "s", [each["s"] for each in took]) for name, took in found.items()]
    medians = {figure.name: figure.median for figure in figures}
    added = {tier: 1_000 * (medians[f"{tier}, through the fabric"] - medians[f"{tier}, by hand"]) for tier in TIERS}
    figures += [Figure(f"{tier}, added by the fabric", "ms", ms, ms, ms) for tier, ms in added.items()]
    notes = [
        f"two models of {SIZE} on a 12 GiB card; the engine's own load takes 1.0 s cold, 0.3 s cached, its wake 0.1 s",
        "by hand: the old engine is stopped and seen to have ended, the new one started and asked every 5 ms if it is ready",
        "the fabric also has the old one's bytes verified on the card, a lease committed and the request passed on by the front",
        "it starts engines through setpriv and prlimit, and asks them every 4 ms, from 0.4 s on each hundredth of the wait",
    ]
    return Result("Swapping models", figures, [ADDED.judge(max(added.values()))], notes)


def _engine(tier: str) -> list[str]:
    if tier == PARKED:
        return ["-m", "tests.lab.engines.vllm", "serve", "model", "--enable-sleep-mode", "--host", "127.0.0.1"]
    return ["-m", "tests.lab.engines.llama_server", "--model", "model", "--host", "127.0.0.1"]


def _environment(tier: str) -> dict[str, str]:
    return {"STAND_IN_VRAM": SIZE, "PYTHONPATH": str(ROOT), **TIERS[tier]}


@contextmanager
def _house(folder: Path) -> Iterator[Callable[[str], dict[str, float]]]:
    """A fabric with the models of all tiers and a front; the function has one swap of a tier made, and times it."""
    entries = [
        {
            "name": f"{tier.replace(' ', '-')}-{name}",
            "engine": "vllm" if tier == PARKED else "llama-server",
            "vram": SIZE,
            "command": ["{python}", *_engine(tier), "--port", "{port}"],
            "env": _environment(tier),
            "upstream": "model",
        }
        for tier in TIERS
        for name in PAIR
    ]
    with running(folder / "fabric", models={HOST: entries}) as fabric, _front(fabric) as url:
        turns = dict.fromkeys(TIERS, 0)

        def swap(tier: str) -> dict[str, float]:
            name = f"{tier.replace(' ', '-')}-{PAIR[turns[tier] % 2]}"
            turns[tier] += 1
            return {"s": _first_token(url, name)}

        for tier in TIERS:
            swap(tier)
            swap(tier)  # both have been loaded once, and one of them can be parked
        yield lambda tier: _after(swap, tier)


def _after(swap: Callable[[str], dict[str, float]], tier: str) -> dict[str, float]:
    """A swap between this tier's two, whatever the round before left on the card."""
    swap(tier)
    return swap(tier)


@contextmanager
def _front(fabric: Fabric) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "main_pc", "front", "--port", str(port)]
    with subprocess.Popen(command, env={**fabric.environ, "TANDEM_HOST": HOST}, cwd=ROOT) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: _answers(f"{url}/health"), "the front")
            yield url
        finally:
            process.terminate()


@contextmanager
def _by_hand(folder: Path) -> Iterator[Callable[[str], dict[str, float]]]:
    """The same swaps by stopping and starting, or by asking both engines, with nothing in between."""
    cards = folder / "cards"
    ensure_cards(cards, "bench", (12 * GIB,))
    with _Hands({SIMULATED_CARDS_VARIABLE: str(cards)}) as hands:
        yield lambda tier: _after(lambda each: {"s": hands.swap(each)}, tier)


class _Hands:
    """Somebody who starts and stops engines by script."""

    def __init__(self, cards: Mapping[str, str]) -> None:
        self._cards = cards
        self._running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
        self._turn = 0

    def __enter__(self) -> _Hands:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()

    def swap(self, tier: str) -> float:
        self._turn += 1
        name, other = PAIR[self._turn % 2], PAIR[(self._turn + 1) % 2]
        if tier == PARKED:
            return self._swap_parked(name, other)
        if not any(key.startswith(tier) for key in self._running):
            self._stop_all()
        began = time.perf_counter()
        self._stop_all()
        self._start(f"{tier} {name}", tier)
        _first_token(self._running[f"{tier} {name}"][1], "model")
        return time.perf_counter() - began

    def _swap_parked(self, name: str, other: str) -> float:
        if not all(f"{PARKED} {each}" in self._running for each in PAIR):
            self._stop_all()
            self._start(f"{PARKED} {name}", PARKED)
            _post(f"{self._running[f'{PARKED} {name}'][1]}/sleep?level=1")
            self._start(f"{PARKED} {other}", PARKED)
        began = time.perf_counter()
        _post(f"{self._running[f'{PARKED} {other}'][1]}/sleep?level=1")
        _post(f"{self._running[f'{PARKED} {name}'][1]}/wake_up")
        _first_token(self._running[f"{PARKED} {name}"][1], "model")
        return time.perf_counter() - began

    def _start(self, key: str, tier: str) -> None:
        (port,) = free_ports(1)
        command = [sys.executable, *_engine(tier), "--port", str(port)]
        environment = {**os.environ, **self._cards, **_environment(tier)}
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        self._running[key] = process, f"http://127.0.0.1:{port}"
        until(lambda: _answers(f"http://127.0.0.1:{port}/health"), f"the engine {key}", every_s=POLL_S)

    def _stop_all(self) -> None:
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            process.wait(PATIENCE_S)
        self._running.clear()


def _first_token(url: str, model: str) -> float:
    """Seconds until the first piece of text of a streamed chat."""
    body: dict[str, Any] = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    began, took_s = time.perf_counter(), 0.0
    with OPENER.open(request, timeout=PATIENCE_S) as answer:
        for line in answer:
            is_word = line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content")
            if is_word and not took_s:
                took_s = time.perf_counter() - began
    if took_s:
        return took_s
    raise RuntimeError(f"{model} at {url} ended its answer without a word")


def _post(url: str) -> None:
    with OPENER.open(urllib.request.Request(url, b""), timeout=PATIENCE_S) as answer:
        answer.read()


def _answers(url: str) -> bool:
    with suppress(OSError), OPENER.open(url, timeout=1.0) as answer:
        return bool(answer.status == 200)
    return False
